# SPDX-License-Identifier: BSD-3-Clause
"""Where a training step spends its time: regions of a model, forward and backward.

A region lies between identity functions on its inputs and on its output. Each notes the time when the forward
pass goes through it, and again when its gradient comes back: the backward pass of a region lies between its
output's gradient and its inputs'. Autograd runs the CPU's nodes one after the other, so the times add up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stopwatch:
    """Seconds by region since the last `reset`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def reset(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()

    def enter(self, region: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs of a region; one of them must need a gradient for its backward pass to count."""
        outputs: tuple[Tensor, ...] = _Mark.apply(self, region, -1.0, 1.0, *inputs)
        return outputs

    def leave(self, region: str, output: Tensor) -> Tensor:
        """The output of a region."""
        (marked,) = _Mark.apply(self, region, 1.0, -1.0, output)
        return marked  # type: ignore[no-any-return]

    def watch_module(self, module: nn.Module, region: str) -> list[Any]:
        """Make a module with one input and one output a region; returns the hooks."""
        enter = module.register_forward_pre_hook(lambda _, args: self.enter(region, *args))
        leave = module.register_forward_hook(lambda _, args, output: self.leave(region, output))
        return [enter, leave]

    @contextmanager
    def watch_attention(self, region: str) -> Iterator[None]:
        """Make every scaled_dot_product_attention(q, k, v, ...) a region."""
        original: Callable[..., Tensor] = functional.scaled_dot_product_attention

        def timed(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
            inputs = self.enter(region, query, key, value)
            return self.leave(region, original(*inputs, *rest, **options))

        functional.scaled_dot_product_attention = timed
        try:
            yield
        finally:
            functional.scaled_dot_product_attention = original


class _Mark(torch.autograd.Function):
    """Identity; adds sign * now to the region's seconds on the way forward and on the way back."""

    @staticmethod
    def forward(
        ctx: Any, watch: Stopwatch, region: str, sign: float, sign_back: float, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.watch, ctx.region, ctx.sign_back = watch, region, sign_back
        watch.seconds[region] += sign * time.perf_counter()
        return tuple(tensor.view_as(tensor) for tensor in inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        ctx.watch.seconds[ctx.region] += ctx.sign_back * time.perf_counter()
        return (None, None, None, None, *gradients)
