# SPDX-License-Identifier: BSD-3-Clause
"""The layer table as a picture: time over dense time, by density."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from smet.bench.goals import DENSITIES, layer_goal
from smet.bench.machine import Machine
from smet.bench.rows import Row

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

_OURS = ("#0072b2", "#009e73", "#56b4e9")
_PEERS = ("#d55e00", "#cc79a7", "#e69f00")


def draw_layers(rows: Sequence[Row], machine: Machine, picture: Path) -> None:
    """One panel for every operation: medians over shapes as lines, shapes as dots, goals as a band."""
    ops = list(dict.fromkeys(row.op for row in rows))
    figure, axes = plt.subplots(1, len(ops), figsize=(1.2 + 5.6 * len(ops), 4.6), squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, op in zip(axes[0], ops, strict=True):
        _draw_op(axis, op, [row for row in rows if row.op == op], machine.threads)
    figure.suptitle(str(machine), fontsize=8, color="#555555")
    figure.savefig(picture, dpi=130)
    plt.close(figure)


def _draw_op(axis: Any, op: str, rows: Sequence[Row], threads: int) -> None:
    tokens = rows[0].tokens or 0
    goals = [(d, goal) for d in DENSITIES if (goal := layer_goal(op, d, tokens, threads, "auto"))]
    at = [density for density, _ in goals]
    axis.fill_between(
        at,
        [goal.aim or goal.must for _, goal in goals],
        [goal.must for _, goal in goals],
        color="#dddddd",
        linewidth=0,
        label="goal: must hold (top) to aim",
    )
    axis.axhline(1.0, color="#555555", linewidth=1.0, label="dense (nn.Linear)")
    ratios: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.ratio is not None and row.density is not None and row.tokens == tokens:
            ratios[row.algorithm][row.density].append(row.ratio)
    ours, peers = iter(_OURS * len(ratios)), iter(_PEERS * len(ratios))
    for name, by_density in ratios.items():
        peer = layer_goal(op, 0.5, tokens, threads, name) is None
        colour = next(peers if peer else ours)
        densities = sorted(by_density)
        middle = [statistics.median(by_density[density]) for density in densities]
        axis.plot(densities, middle, color=colour, marker="o", markersize=4.5,
                  linestyle="--" if peer else "-", label=name if peer else f"smet, {name}")  # fmt: skip
        dots = [(density, ratio) for density in densities for ratio in by_density[density]]
        axis.plot(*zip(*dots, strict=True), color=colour, alpha=0.35, linestyle="none", marker=".")
    axis.set(xscale="log", yscale="log", xlabel="density", ylabel="time / dense time",
             title=f"{op.replace('_', ' ')}, {tokens} tokens, medians over shapes")  # fmt: skip
    axis.set_xticks(DENSITIES, [f"{density:g}" for density in DENSITIES])
    axis.xaxis.set_minor_locator(NullLocator())
    for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axis.tick_params(axis="y", which="minor", labelsize=6)
    axis.grid(True, which="both", color="#eeeeee")
    axis.legend(fontsize=8, frameon=False)
