# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmarks must hold and aim for: sparse time over dense time, or nanoseconds per active weight.

Layer figures are for 512 tokens and 2 threads, medians over shapes; no shape may be above 1.10 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SHAPES = ((2048, 768), (768, 2048), (768, 768), (2736, 1024), (2048, 2048), (5461, 2048))  # out, in
DENSITIES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
ONE_SHAPE = 1.10  # how far one shape may be above the median's goal

Measure = Literal["ratio", "ns"]


@dataclass(frozen=True)
class Goal:
    """A figure that must hold, and the one aimed for (None: the same)."""

    must: float
    aim: float | None = None
    measure: Measure = "ratio"

    def verdict(self, value: float) -> str:
        """'aim met', 'holds' or 'misses by 12 %'."""
        if value > self.must:
            return f"misses by {100 * (value / self.must - 1):.0f} %"
        return "aim met" if self.aim is not None and value <= self.aim else "holds"

    def scaled(self, factor: float) -> Goal:
        """What a single shape is allowed."""
        return Goal(self.must * factor, None if self.aim is None else self.aim * factor, self.measure)

    def __str__(self) -> str:
        """'<= 0.52', '<= 10 ns'."""
        return f"<= {self.must:.3g}{' ns' if self.measure == 'ns' else ''}"


# By operation, over DENSITIES.
_MUST = {
    "layer": (0.90, 0.52, 0.28, 0.175, 0.095, 0.070),
    "forward": (0.85, 0.46, 0.26, 0.150, 0.075, 0.052),
    "backward_input": (0.90, 0.48, 0.26, 0.160, 0.080, 0.055),
    "backward_values": (0.95, 0.55, 0.27, 0.150, 0.075, 0.048),
}
_AIM = {
    "layer": (0.75, 0.42, 0.22, 0.130, 0.068, 0.050),
    "forward": (0.70, 0.38, 0.20, 0.115, 0.058, 0.038),
    "backward_input": (0.72, 0.40, 0.20, 0.120, 0.060, 0.040),
    "backward_values": (0.75, 0.43, 0.20, 0.110, 0.052, 0.034),
}
_EXPAND_GEMM = Goal(1.10)  # at any density: what is left above the crossover

ADAMW = Goal(1.0)  # per active weight, over torch's fused AdamW per weight
BF16_MOMENTS = Goal(0.75)  # over the step with fp32 moments
EIGHT_BIT_MOMENTS = Goal(1.3)  # the same
PRUNE = Goal(2.0, measure="ns")
TOPOLOGY_UPDATE = Goal(10.0, measure="ns")
STEP = {0.25: Goal(0.65), 0.1: Goal(0.50)}  # whole step over the dense one with torch's fused AdamW


def layer_goal(op: str, density: float, tokens: int, threads: int, algorithm: str) -> Goal | None:
    """The median's goal for one operation; None where none was set."""
    if algorithm == "expand_gemm":
        return _EXPAND_GEMM
    if density not in DENSITIES or algorithm not in ("auto", "tile_spmm"):
        return None
    allowance = 0.03 if threads == 1 else 0.0
    if density == 0.5 and tokens <= 256:
        allowance += 0.1
    if density <= 0.02 and tokens >= 2048:
        allowance += 0.03
    at = DENSITIES.index(density)
    return Goal(_MUST[op][at] + allowance, _AIM[op][at] + allowance)
