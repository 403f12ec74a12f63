# SPDX-License-Identifier: BSD-3-Clause
"""A run's log.jsonl as columns, for pictures and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smet.train.errors import ConfigError
from smet.train.log import read_log

Columns = dict[str, list[Any]]


@dataclass
class RunLog:
    """Columns of one run, by event. A run that is still going has what it wrote so far."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    steps: Columns = field(default_factory=dict)
    evaluations: Columns = field(default_factory=dict)
    updates: Columns = field(default_factory=dict)
    update_sizes: Columns = field(default_factory=dict)
    memory: Columns = field(default_factory=dict)  # phases, in order
    predicted_peak: float | None = None

    @property
    def is_dense(self) -> bool:
        """Whether the run had no sparse layers."""
        return self.config.get("method") == "dense"

    @property
    def label(self) -> str:
        """'dense', 'smet, density 0.25'."""
        density = self.config.get("density")
        return str(self.config["method"]) + (
            "" if self.is_dense or density is None else f", density {density:g}"
        )


def load_run_log(folder: Path) -> RunLog:
    """Read folder/log.jsonl; ConfigError when there is none or it has no steps."""
    path = folder / "log.jsonl"
    if not path.is_file():
        raise ConfigError(f"{folder} has no log.jsonl; expected the folder of a run")
    run = RunLog(folder.name)
    tables = {
        "step": run.steps,
        "eval": run.evaluations,
        "topology": run.updates,
        "update_size": run.update_sizes,
    }
    for event in read_log(path):
        kind = event.pop("event")
        if kind == "start":
            run.config = event["config"]
            run.predicted_peak = event.get("predicted_peak_bytes")
        for key, value in event.items() if kind in tables else ():
            tables[kind].setdefault(key, []).append(value)
    for event in read_log(folder / "memory.jsonl") if (folder / "memory.jsonl").is_file() else ():
        for key, value in event.items():
            run.memory.setdefault(key, []).append(value)
    if not run.steps:
        raise ConfigError(f"{path} holds no steps; nothing to draw")
    return run
