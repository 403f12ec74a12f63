# SPDX-License-Identifier: BSD-3-Clause
"""Shapes of every operator's results without data: for meta tensors, FakeTensor and torch.compile.

The checks are those of the real operators that shapes alone can decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_F = TypeVar("_F", bound=Callable[..., Any])
_WORD_COLUMNS, _SEGMENT_COLUMNS = 32, 1024


def _fake(name: str) -> Callable[[_F], _F]:
    register: Callable[[_F], _F] = torch.library.register_fake(f"smet::{name}")
    return register


def _check_positions(tensor: Tensor, mask: Tensor, rank: Tensor, cols: Any) -> None:
    torch._check_value(
        mask.device == tensor.device and rank.device == tensor.device,
        lambda: (
            f"smet: mask is on {mask.device}, rank on {rank.device}, the rest on {tensor.device}; "
            "expected one device"
        ),
    )
    torch._check_type(
        mask.dtype == torch.int32 and rank.dtype == torch.int32,
        lambda: f"smet: mask and rank must be int32, got {mask.dtype} and {rank.dtype}",
    )
    words = (cols + _WORD_COLUMNS - 1) // _WORD_COLUMNS
    torch._check_value(
        mask.dim() == 2 and mask.shape[1] == words,
        lambda: (
            f"smet: mask has shape {tuple(mask.shape)}; for {cols} input features expected [out, {words}]"
        ),
    )


def _check_dtypes(op: str, tensor: Tensor, like: Tensor) -> None:
    torch._check_type(
        tensor.dtype == like.dtype and tensor.dtype.is_floating_point,
        lambda: f"smet::{op}: dtypes {tensor.dtype} and {like.dtype}; expected one floating dtype",
    )


@_fake("expand")
def _expand(values: Tensor, mask: Tensor, rank: Tensor, cols: Any) -> Tensor:
    _check_positions(values, mask, rank, cols)
    return values.new_empty(mask.shape[0], cols)


@_fake("gather")
def _gather(dense: Tensor, mask: Tensor, rank: Tensor, n: Any) -> Tensor:
    _check_positions(dense, mask, rank, dense.shape[1])
    return dense.new_empty(n)


@_fake("mask_rank")
def _mask_rank(mask: Tensor, cols: Any) -> Tensor:
    return mask.new_empty(mask.shape[0], (cols + _SEGMENT_COLUMNS - 1) // _SEGMENT_COLUMNS)


@_fake("mask_hash")
def _mask_hash(mask: Tensor, cols: Any) -> Tensor:
    return mask.new_empty((), dtype=torch.int64)


@_fake("draw_positions")
def _draw_positions(mask: Tensor, cols: Any, k: int, key: int, stream: int = 0, update: int = 0) -> Tensor:
    return torch.empty_like(mask)


@_fake("sparse_linear")
def _sparse_linear(
    input: Tensor,
    values: Tensor,
    mask: Tensor,
    rank: Tensor,
    bias: Tensor | None = None,
    algorithm: str = "auto",
) -> Tensor:
    _check_dtypes("sparse_linear", input, values)
    _check_positions(input, mask, rank, input.shape[-1])
    return input.new_empty(*input.shape[:-1], mask.shape[0])


@_fake("sparse_linear_backward_input")
def _sparse_linear_backward_input(
    grad_output: Tensor,
    values: Tensor,
    mask: Tensor,
    rank: Tensor,
    in_features: Any,
    algorithm: str = "auto",
) -> Tensor:
    _check_dtypes("sparse_linear_backward_input", grad_output, values)
    _check_positions(grad_output, mask, rank, in_features)
    return grad_output.new_empty(*grad_output.shape[:-1], in_features)


@_fake("sparse_linear_backward_values")
def _sparse_linear_backward_values(
    grad_output: Tensor, input: Tensor, mask: Tensor, rank: Tensor, n: Any, algorithm: str = "auto"
) -> Tensor:
    _check_dtypes("sparse_linear_backward_values", grad_output, input)
    _check_positions(input, mask, rank, input.shape[-1])
    return input.new_empty(n)


@_fake("sparse_linear_backward")
def _sparse_linear_backward(
    grad_output: Tensor, input: Tensor, values: Tensor, mask: Tensor, rank: Tensor, algorithm: str = "auto"
) -> tuple[Tensor, Tensor]:
    _check_dtypes("sparse_linear_backward", grad_output, values)
    _check_dtypes("sparse_linear_backward", input, values)
    _check_positions(input, mask, rank, input.shape[-1])
    return input.new_empty(input.shape), values.new_empty(values.shape)


@_fake("linear_cross_entropy")
def _linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None = None,
    ignore_index: int = -100,
    slice: int = 0,
) -> tuple[Tensor, Tensor]:
    _check_dtypes("linear_cross_entropy", linear_weight, input)
    wide = torch.promote_types(input.dtype, torch.float32)
    return input.new_empty(input.shape[0], dtype=wide), input.new_empty(input.shape[0], dtype=torch.float64)


@_fake("linear_cross_entropy_backward")
def _linear_cross_entropy_backward(
    grad_losses: Tensor,
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    logsumexp: Tensor,
    linear_bias: Tensor | None,
    ignore_index: int,
    slice: int,
    want_input: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    classes, features = linear_weight.shape
    return (
        input.new_empty(input.shape if want_input else (0,)),
        linear_weight.new_empty(classes if want_weight else 0, features),
        linear_weight.new_empty(classes if want_bias else 0),
    )


@_fake("grad_topk_")
def _grad_topk_(positions: Tensor, grad_output: Tensor, input: Tensor, mask: Tensor) -> None:
    return None


@_fake("adamw_step_")
def _adamw_step_(*args: Any, **kwargs: Any) -> None:
    return None


@_fake("cohort_table")
def _cohort_table(steps: list[Tensor], births: list[Tensor], *args: Any) -> tuple[Tensor, Tensor]:
    rows = sum(256 if tensor.numel() else 1 for tensor in births)
    return steps[0].new_empty((rows, 3), dtype=torch.float64), steps[0].new_empty((len(steps), 2))


@_fake("count_steps_")
def _count_steps_(steps: list[Tensor], found_inf: Tensor | None = None) -> None:
    return None


@_fake("topology_update_")
def _topology_update_(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return values.new_empty(2 + 256, dtype=torch.int64)


@_fake("topology_plan")
def _topology_plan(mask: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mask), mask.new_empty((), dtype=torch.int64)


@_fake("topology_commit_")
def _topology_commit_(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return values.new_empty(256, dtype=torch.int64)
