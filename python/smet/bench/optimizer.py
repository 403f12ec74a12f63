# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW's step per active weight against torch's fused AdamW per weight, on as many weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

import smet
from smet import _C
from smet.bench.goals import ADAMW, BF16_MOMENTS, EIGHT_BIT_MOMENTS
from smet.bench.peers import adamw_8bit
from smet.bench.rounds import Body, run_rounds
from smet.bench.rows import Row

DENSE = "torch AdamW, fused"
BF16 = "bf16 moments, against fp32's"  # whose "dense" column is the row _FULL
EIGHT_BIT = "8-bit moments, against fp32's"  # the same
_AGAINST_FP32 = {BF16: BF16_MOMENTS, EIGHT_BIT: EIGHT_BIT_MOMENTS}
_FULL = "all mature"
DENSITY = 0.25
_POSITIONS = round(1 / DENSITY)  # for one active weight
_STEP = 1000  # of a run whose cohorts are of all ages
_YOUNG = 50  # one weight in so many was grown at the last update


def measure_optimizer(weights: int, layers: int, dtype: torch.dtype, rounds: int, peers: bool) -> list[Row]:
    """A row for dense parameters, and for sparse ones with few and many live cohorts."""
    cases: dict[str, tuple[Callable[[], Body], float]] = {
        "dense parameters": (lambda: smet.CompactAdamW(_parameters(weights, layers, dtype)).step, 1.0),
        _FULL: (lambda: _compact(weights, layers, dtype, 1, 2), DENSITY),
        "2 % young": (lambda: _compact(weights, layers, dtype, 2, _YOUNG), DENSITY),
        "40 cohorts": (lambda: _compact(weights, layers, dtype, 40, 2), DENSITY),
        "40 cohorts, unchecked": (lambda: _compact(weights, layers, dtype, 40, 2, "ignore"), DENSITY),
        BF16: (lambda: _compact(weights, layers, dtype, 1, 2, moments="bf16"), DENSITY),
        EIGHT_BIT: (lambda: _compact(weights, layers, dtype, 1, 2, moments="8bit"), DENSITY),
    }
    bodies: dict[str, Body] = {name: make() for name, (make, _) in cases.items()}
    bodies[DENSE] = AdamW(_parameters(weights, layers, dtype), fused=True).step
    if peers:
        bodies["torch AdamW, foreach"] = AdamW(_parameters(weights, layers, dtype), foreach=True).step
        bodies |= adamw_8bit(_parameters(weights, layers, dtype))
    measured = run_rounds(bodies, rounds)
    return [
        Row(
            op="adamw_step",
            sparse=measured.times(name),
            dense=measured.times(against),
            ratio=measured.ratio(name, against),
            case=name,
            density=cases[name][1] if name in cases else None,
            weights=weights,
            goal=_AGAINST_FP32.get(name, ADAMW if name in cases else None),
            rounds=measured.count,
        )
        for name, against in ((name, _FULL if name in _AGAINST_FP32 else DENSE) for name in bodies)
        if name != DENSE
    ]


def _parameters(weights: int, layers: int, dtype: torch.dtype) -> list[nn.Parameter]:
    """Equal layers with gradients."""
    result = []
    for _ in range(layers):
        parameter = nn.Parameter(torch.randn(weights // layers).to(dtype))
        parameter.grad = torch.randn_like(parameter)
        result.append(parameter)
    return result


def _compact(
    weights: int,
    layers: int,
    dtype: torch.dtype,
    cohorts: int,
    spread: int,
    on_nonfinite: str = "raise",
    moments: str = "fp32",
) -> Body:
    """CompactAdamW late in a run: births 1 to cohorts - 1 on every `spread`-th weight, all others mature."""
    parameters = _parameters(weights, layers, dtype)
    ranks = [_rank(parameter.numel()) for parameter in parameters]
    for index, (parameter, rank) in enumerate(zip(parameters, ranks, strict=True)):
        _C.register_values(parameter, _POSITIONS, parameter.numel(), f"layer{index}", rank)
    optimizer = smet.CompactAdamW(parameters, on_nonfinite=on_nonfinite, moments=moments)
    for parameter in parameters:
        state = optimizer.state[parameter]
        state["step"].fill_(_STEP)
        for cohort in range(1, cohorts):
            state["births"][cohort] = _STEP - 10 * (cohorts - cohort)
            state["cohort"][cohort * spread // 2 :: (cohorts - 1) * spread] = cohort

    def step(alive: list[Tensor] = ranks) -> None:
        optimizer.step()

    return step


def _rank(n: int) -> Tensor:
    """Of n weights spread evenly over _POSITIONS rows of n columns."""
    segments = -(-n // 1024)
    first = torch.arange(_POSITIONS * segments, dtype=torch.int32) * (1024 // _POSITIONS)
    return first.clamp(max=n).reshape(_POSITIONS, segments)
