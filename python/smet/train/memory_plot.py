# SPDX-License-Identifier: BSD-3-Clause
"""The memory timeline of a run: resident bytes by phase over the seconds of the run."""

from __future__ import annotations

from typing import Any

from smet.train.run_log import RunLog

_PHASES = {
    "start": "#bbbbbb",
    "build": "#555555",
    "forward": "#56b4e9",
    "backward": "#0072b2",
    "step": "#cc79a7",
    "topology": "#d55e00",
    "evaluation": "#009e73",
    "save": "#e69f00",
}


def draw_memory(axis: Any, run: RunLog, who: str) -> None:
    """Bars as high as a phase's peak, over the time that it took; the prediction as a line."""
    columns = zip(*(run.memory[key] for key in ("phase", "at", "seconds", "peak")), strict=True)
    named: set[str] = set()
    for phase, at, seconds, peak in columns:
        label = None if phase in named else phase
        named.add(phase)
        axis.bar(
            at, peak / 1e9, max(seconds, 1e-3), align="edge", color=_PHASES[phase], linewidth=0, label=label
        )
    largest = max(run.memory["peak"]) / 1e9
    if run.predicted_peak is not None:
        predicted = run.predicted_peak / 1e9
        axis.axhline(
            predicted,
            color="#333333",
            linewidth=0.9,
            linestyle=(0, (4, 3)),
            label=f"predicted {predicted:.2f} GB",
        )
    axis.set_ylim(0, 1.15 * max(largest, (run.predicted_peak or 0) / 1e9))
    axis.set_xlabel("seconds")
    axis.set_ylabel(f"{who}resident GB\n(peak {largest:.2f})")
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 0.98), ncol=5, fontsize=8.5, borderaxespad=0.0)
