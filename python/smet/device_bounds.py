# SPDX-License-Identifier: BSD-3-Clause
"""How long a GPU takes at least for what sparse training adds to a dense step: bytes over peak bandwidth.

Every figure is a lower bound by arithmetic; none was measured. What the layer's matrix products cost is the
same as dense and is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from smet._memory_peak import Peak
from smet._text import format_bytes, text_table
from smet.memory_estimate import Estimate


@dataclass(frozen=True)
class Gpu:
    """Memory and its peak bandwidth, as its maker states them."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes per second
    source: str


GPUS = {
    "a100": Gpu("A100 80 GB SXM", 80e9, 2.039e12, "NVIDIA A100 data sheet"),
    "h100": Gpu("H100 80 GB SXM", 80e9, 3.35e12, "NVIDIA H100 data sheet"),
    "h200": Gpu("H200 141 GB SXM", 141e9, 4.8e12, "NVIDIA H200 data sheet"),
    "rtx4090": Gpu("GeForce RTX 4090", 24e9, 1.008e12, "384 bits of GDDR6X at 21 Gbit/s each"),
}


@dataclass(frozen=True)
class Bound:
    """Bytes that a kernel cannot avoid to move in one step, over all sparse layers."""

    kernel: str
    moved: int
    instead: int = 0  # what a dense step moves in its place


@dataclass(frozen=True)
class DeviceBounds:
    """Print it for a table."""

    gpu: Gpu
    total: int  # bytes that persist
    bounds: tuple[Bound, ...]  # of every step
    update: Bound  # of every topology update
    peak: int | None = None  # bytes of the costliest moment, where it is known

    def seconds(self, moved: float) -> float:
        """At the peak bandwidth."""
        return moved / self.gpu.bandwidth

    @property
    def added(self) -> float:
        """Seconds of a step beyond a dense one, both at the peak: a difference, not a bound."""
        return self.seconds(sum(bound.moved - bound.instead for bound in self.bounds))

    def __str__(self) -> str:
        """The table."""
        rows = [self._row(bound) for bound in (*self.bounds, self.update)]
        return "\n".join(
            [
                f"{self.gpu.name}: {self._memory()}; {self.gpu.bandwidth / 1e9:,.0f} GB/s peak "
                f"({self.gpu.source})",
                *text_table(("lower bounds, not measured", "bytes", "at least", "dense instead"), rows),
                f"{self.added * 1e3:+.3g} ms a step against dense at this peak (a difference, not a bound)",
            ]
        )

    def _memory(self) -> str:
        memory = format_bytes(self.gpu.memory)
        if self.peak is None:
            return f"{format_bytes(self.total)} of {memory}, before activations"
        verdict = "fits" if self.peak < self.gpu.memory else "too much"
        return f"peak {format_bytes(self.peak)} of {memory}: {verdict}"

    def _row(self, bound: Bound) -> list[str]:
        instead = _milliseconds(self.seconds(bound.instead)) if bound.instead else ""
        moved = bound.moved
        return [bound.kernel, format_bytes(moved), _milliseconds(self.seconds(moved)), instead]


def device_bounds(estimate: Estimate, device: str, peak: Peak | None = None) -> DeviceBounds:
    """Memory of `estimate` against that of a GPU, and lower bounds on the time of the added kernels.

    With the algorithm expand_gemm: W is expanded once in the forward and once in the backward pass, dW is
    gathered once, and each reads or writes a dense W beside the packed values and their index. AdamW reads
    weights, gradients, moments and cohorts and writes weights and moments. A topology update reads the
    weights once more to choose, and moves values, moments and cohorts. device: "a100", "h100", "h200" or
    "rtx4090"; ValueError for any other.
    """
    if device not in GPUS:
        raise ValueError(f"unknown device {device!r}; there are {', '.join(GPUS)}")
    packed, dense = estimate.by_kind, estimate.dense_by_kind
    through_dense = packed["weights"] + dense["weights"] + packed["index"]
    state = packed["weights"] + packed["moments"] + packed["cohorts"]
    return DeviceBounds(
        gpu=GPUS[device],
        total=estimate.total,
        peak=peak.total if peak else None,
        bounds=(
            Bound("expand W, forward", through_dense),
            Bound("expand W, input gradient", through_dense),
            Bound("gather dW", through_dense),
            Bound("AdamW of the sparse layers", _adamw(packed), _adamw(dense)),
        ),
        update=Bound("a topology update, in its step", packed["weights"] + 2 * state + 2 * packed["index"]),
    )


def _adamw(kinds: dict[str, int]) -> int:
    return 2 * kinds["weights"] + kinds["gradients"] + 2 * kinds["moments"] + kinds["cohorts"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
