# SPDX-License-Identifier: BSD-3-Clause
"""One line of a benchmark: as a table's line, and as an object of a JSON list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smet._text import text_table
from smet.bench.goals import Goal
from smet.bench.machine import Machine
from smet.bench.rounds import Times


@dataclass(frozen=True)
class Row:
    """Sparse against dense. `weights`: active weights that the sparse side works on."""

    op: str
    sparse: Times
    dense: Times
    ratio: float | None  # median of the rounds' own; None where the dense side has nothing to do
    algorithm: str = ""  # of the layer, or a peer's name
    case: str = ""  # what else tells rows of one op apart
    out_features: int | None = None
    in_features: int | None = None
    tokens: int | None = None
    density: float | None = None
    weights: int | None = None
    sparse_flops: float | None = None
    dense_flops: float | None = None
    goal: Goal | None = None
    rounds: int = 0

    @property
    def ratio_of_minima(self) -> float | None:
        """Both at their fastest: None where the dense side has nothing to do."""
        return self.sparse.minimum / self.dense.minimum if self.dense.minimum else None

    @property
    def ns(self) -> float | None:
        """Nanoseconds per active weight, median round."""
        return self.sparse.median / self.weights * 1e9 if self.weights else None

    @property
    def verdict(self) -> str:
        """Whether the goal holds; '' without one."""
        if self.goal is None:
            return ""
        value = self.ratio if self.goal.measure == "ratio" else self.ns
        assert value is not None
        return self.goal.verdict(value)

    def to_dict(self, machine: Machine) -> dict[str, Any]:
        """Every figure, with the machine's."""
        return {
            "op": self.op,
            "case": self.case or None,
            "out": self.out_features,
            "in": self.in_features,
            "tokens": self.tokens,
            "density": self.density,
            "weights": self.weights,
            "algorithm": self.algorithm or None,
            "sparse_s": self.sparse.minimum,
            "dense_s": self.dense.minimum,
            "ratio_of_minima": self.ratio_of_minima,
            "sparse_median_s": self.sparse.median,
            "dense_median_s": self.dense.median,
            "ratio": self.ratio,
            "sparse_gflops": _gflops(self.sparse_flops, self.sparse.minimum),
            "dense_gflops": _gflops(self.dense_flops, self.dense.minimum),
            "goal": self.goal.must if self.goal else None,
            "goal_of": self.goal.measure if self.goal else None,
            "verdict": self.verdict or None,
            "rounds": self.rounds,
            **asdict(machine),
        }


def table(rows: Sequence[Row]) -> str:
    """The rows; columns that no row fills are left out."""
    columns: list[tuple[str, list[str]]] = [
        ("op", [row.op if not row.case else f"{row.op}: {row.case}" for row in rows]),
        ("out x in", [f"{row.out_features}x{row.in_features}" if row.out_features else "" for row in rows]),
        ("tokens", [_text(row.tokens) for row in rows]),
        ("density", [_text(row.density) for row in rows]),
        ("algorithm", [row.algorithm for row in rows]),
        ("sparse ms", [_milliseconds(row.sparse.minimum) for row in rows]),
        ("dense ms", [_milliseconds(row.dense.minimum) for row in rows]),
        ("of minima", [_ratio(row.ratio_of_minima) for row in rows]),
        ("ratio", [_ratio(row.ratio) for row in rows]),
        ("ns/weight", ["" if row.ns is None else f"{row.ns:.2f}" for row in rows]),
        ("GFLOP/s", [_rates(row) for row in rows]),
        ("goal", ["" if row.goal is None else str(row.goal) for row in rows]),
        ("", [row.verdict for row in rows]),
    ]
    used = [(header, cells) for header, cells in columns if any(cells)]
    lines = [list(line) for line in zip(*(cells for _, cells in used), strict=True)]
    return "\n".join(text_table([header for header, _ in used], lines))


def write_rows(rows: Sequence[Row], machine: Machine, path: Path) -> None:
    """The rows as a JSON list."""
    text = json.dumps([row.to_dict(machine) for row in rows], indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _gflops(flops: float | None, seconds: float) -> float | None:
    return None if flops is None else flops / seconds / 1e9


def _rates(row: Row) -> str:
    if row.sparse_flops is None or row.dense_flops is None:
        return ""
    sparse, dense = row.sparse_flops / row.sparse.minimum, row.dense_flops / row.dense.minimum
    return f"{sparse / 1e9:.1f} : {dense / 1e9:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
