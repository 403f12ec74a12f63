# SPDX-License-Identifier: BSD-3-Clause
"""Pictures of runs: loss, topology and how far newborn weights move, from their logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from smet.train.memory_plot import draw_memory
from smet.train.run_log import RunLog, load_run_log

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: told apart by all
_DENSE_COLOUR = "#555555"
_STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "legend.frameon": False,
}


def draw_runs(folders: Sequence[Path], picture: Path) -> None:
    """Draw the logs in `folders` into one picture (type by its suffix). Raises ConfigError."""
    runs = [load_run_log(folder) for folder in folders]
    colours = _colours(runs)
    dynamic = [run for run in runs if run.updates]
    measured = [run for run in runs if run.update_sizes]
    watched = [run for run in runs if run.memory]
    heights = [3.0] + ([1.3] if dynamic else []) + ([1.5] if measured else []) + [1.6] * len(watched)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            len(heights), 1, squeeze=False, figsize=(9, 1.1 + 1.45 * sum(heights)),
            height_ratios=heights, layout="constrained",
        )  # fmt: skip
        panels = list(axes[: len(heights) - len(watched), 0])
        for panel in panels[1:]:
            panel.sharex(panels[0])
        for panel in panels[:-1]:
            panel.tick_params(labelbottom=False)
        _draw_losses(panels[0], runs, colours)
        if dynamic:
            _draw_topology(panels[1], dynamic, colours)
        if measured:
            _draw_update_sizes(panels[-1], measured, colours)
        panels[-1].set_xlabel("step")
        panels[-1].set_xlim(0, max(run.steps["step"][-1] for run in runs) * 1.01)
        for axis, run in zip(axes[len(panels) :, 0], watched, strict=True):
            draw_memory(axis, run, f"{_label(run, runs)}: " if len(runs) > 1 else "")
        figure.savefig(picture, dpi=130)
        plt.close(figure)


def _draw_losses(axis: Any, runs: list[RunLog], colours: dict[int, str]) -> None:
    highest, lowest = 0.0, np.inf
    for run in runs:
        colour, label = colours[id(run)], _label(run, runs)
        again = any(other.label == run.label for other in runs[: runs.index(run)])
        dashes: Any = (0, (3, 3)) if again else "-"  # one curve on another: both are seen
        marker = "x" if again else "o"
        hollow = {"linestyle": "none", "marker": marker, "markersize": 4.5, "markerfacecolor": "white"}
        step, loss = np.asarray(run.steps["step"]), np.asarray(run.steps["loss"], dtype=np.float64)
        smooth = smoothed(loss)
        axis.plot(step, loss, color=colour, alpha=0.2, linewidth=0.7)
        axis.plot(step, smooth, color=colour, linewidth=1.5, linestyle=dashes, label=f"{label}: training")
        if run.evaluations:
            last = run.evaluations["val_loss"][-1]
            text = f"{label}: held-out ({last:.3f} at the end)"
            axis.plot(
                run.evaluations["step"], run.evaluations["val_loss"], color=colour, label=text, **hollow
            )
        start = min(len(smooth) - 1, len(smooth) // 25)  # the fall from the first loss would flatten the rest
        highest, lowest = (
            max(highest, smooth[start]),
            min(lowest, loss.min(), *run.evaluations.get("val_loss", [])),
        )
    for step in sorted({step for run in runs for step in run.updates.get("step", [])}):
        axis.axvline(step, color="#999999", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    if any(run.updates for run in runs):
        axis.plot([], [], color="#999999", linewidth=0.8, linestyle=(0, (3, 2)), label="topology update")
    room = 0.06 * (highest - lowest)
    axis.set_ylim(lowest - room, highest + room)
    axis.set_ylabel("loss, nats per token")
    axis.legend(loc="upper right")


def _draw_topology(axis: Any, runs: list[RunLog], colours: dict[int, str]) -> None:
    many = len(runs) > 1
    for run in runs:
        colour, step = colours[id(run)], run.updates["step"]
        who = f"{_label(run, runs)}: " if many else ""
        ends = [0, *step, run.steps["step"][-1]]
        density = [run.updates["density"][0], *run.updates["density"]]
        axis.stairs(density, ends, baseline=None, color=colour, linewidth=1.5, label=f"{who}density")
        axis.plot(step, run.updates["churn"], color=colour, marker="v", markersize=4.5, linewidth=0.8,
                  label=f"{who}weights replaced")  # fmt: skip
        pairs = zip(step, run.updates["last_cohort_pruned"], strict=True)
        known = [(at, share) for at, share in pairs if share is not None]
        if known:
            again = f"{who}pruned again" if many else "of the last grown, pruned again"
            axis.plot(*zip(*known, strict=True), color=colour, marker="x", markersize=5, linewidth=0.8,
                      linestyle=":", label=again)  # fmt: skip
    axis.set_ylim(0, None)
    axis.set_ylabel("fraction")
    _legend_above(axis)


def _draw_update_sizes(axis: Any, runs: list[RunLog], colours: dict[int, str]) -> None:
    many = len(runs) > 1
    for run in runs:
        colour = colours[id(run)]
        who = f"{_label(run, runs)}: " if many else ""
        sizes = {key: np.asarray(column) for key, column in run.update_sizes.items()}
        axis.plot(sizes["step"], sizes["mature"], color="#888888" if not many else colour, linestyle="none",
                  marker="_", markersize=9, label=f"{who}mature")  # fmt: skip
        for number in np.unique(sizes["update"]):
            chosen = sizes["update"] == number
            axis.plot(sizes["step"][chosen], sizes["newborn"][chosen], color=colour, linewidth=0.8, alpha=0.6)
        for age, marker in ((1, "o"), (10, "s"), (50, "D")):
            chosen = sizes["age"] == age
            axis.plot(sizes["step"][chosen], sizes["newborn"][chosen], color=colour, linestyle="none",
                      marker=marker, markersize=4, label=f"{who}newborn, age {age}")  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylabel("mean |change|\nin one step")
    _legend_above(axis)


def _legend_above(axis: Any) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 0.98), ncol=4, fontsize=8.5, borderaxespad=0.0)


def smoothed(values: NDArray[Any]) -> NDArray[Any]:
    """Centred moving average over about a fortieth of the run, shorter at the ends."""
    half = max(1, len(values) // 80)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    result: NDArray[Any] = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
    return result


def _colours(runs: list[RunLog]) -> dict[int, str]:
    """Grey for the first dense run, the others in order."""
    result: dict[int, str] = {}
    palette = iter(_COLOURS * len(runs))
    for run in runs:
        grey = run.is_dense and _DENSE_COLOUR not in result.values()
        result[id(run)] = _DENSE_COLOUR if grey else next(palette)
    return result


def _label(run: RunLog, runs: list[RunLog]) -> str:
    """The method and density, or the folder's name where that is not enough."""
    alike = sum(other.label == run.label for other in runs)
    return run.label if alike == 1 else run.name
