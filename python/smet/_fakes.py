# SPDX-License-Identifier: BSD-3-Clause
"""Shapes of every operator's results without data: for meta tensors, FakeTensor and torch.compile.

The checks are those of the real operators that shapes alone can decide.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_WORD_COLUMNS, _SEGMENT_COLUMNS = 32, 1024


def _check_positions(mask: Tensor, rank: Tensor, cols: Any) -> None:
    torch._check(
        mask.dtype == torch.int32 and rank.dtype == torch.int32,
        lambda: f"smet: mask and rank must be int32, got {mask.dtype} and {rank.dtype}",
    )
    words = (cols + _WORD_COLUMNS - 1) // _WORD_COLUMNS
    torch._check(
        mask.dim() == 2 and mask.shape[1] == words,
        lambda: (
            f"smet: mask has shape {tuple(mask.shape)}; for {cols} input features expected [out, {words}]"
        ),
    )


def _check_dtypes(op: str, tensor: Tensor, like: Tensor) -> None:
    torch._check(
        tensor.dtype == like.dtype and tensor.dtype.is_floating_point,
        lambda: f"smet::{op}: dtypes {tensor.dtype} and {like.dtype}; expected one floating dtype",
    )


@torch.library.register_fake("smet::expand")
def _expand(values: Tensor, mask: Tensor, rank: Tensor, cols: Any) -> Tensor:
    _check_positions(mask, rank, cols)
    return values.new_empty(mask.shape[0], cols)


@torch.library.register_fake("smet::gather")
def _gather(dense: Tensor, mask: Tensor, rank: Tensor, n: Any) -> Tensor:
    _check_positions(mask, rank, dense.shape[1])
    return dense.new_empty(n)


@torch.library.register_fake("smet::mask_rank")
def _mask_rank(mask: Tensor, cols: Any) -> Tensor:
    return mask.new_empty(mask.shape[0], (cols + _SEGMENT_COLUMNS - 1) // _SEGMENT_COLUMNS)


@torch.library.register_fake("smet::mask_hash")
def _mask_hash(mask: Tensor, cols: Any) -> Tensor:
    return mask.new_empty((), dtype=torch.int64)


@torch.library.register_fake("smet::draw_positions")
def _draw_positions(mask: Tensor, cols: Any, k: int, key: int, stream: int = 0, update: int = 0) -> Tensor:
    return torch.empty_like(mask)


@torch.library.register_fake("smet::sparse_linear")
def _sparse_linear(
    input: Tensor,
    values: Tensor,
    mask: Tensor,
    rank: Tensor,
    bias: Tensor | None = None,
    algorithm: str = "auto",
) -> Tensor:
    _check_dtypes("sparse_linear", input, values)
    _check_positions(mask, rank, input.shape[-1])
    return input.new_empty(*input.shape[:-1], mask.shape[0])


@torch.library.register_fake("smet::sparse_linear_backward_input")
def _sparse_linear_backward_input(
    grad_output: Tensor,
    values: Tensor,
    mask: Tensor,
    rank: Tensor,
    in_features: Any,
    algorithm: str = "auto",
) -> Tensor:
    _check_dtypes("sparse_linear_backward_input", grad_output, values)
    _check_positions(mask, rank, in_features)
    return grad_output.new_empty(*grad_output.shape[:-1], in_features)


@torch.library.register_fake("smet::sparse_linear_backward_values")
def _sparse_linear_backward_values(
    grad_output: Tensor, input: Tensor, mask: Tensor, rank: Tensor, n: Any, algorithm: str = "auto"
) -> Tensor:
    _check_dtypes("sparse_linear_backward_values", grad_output, input)
    _check_positions(mask, rank, input.shape[-1])
    return input.new_empty(n)


@torch.library.register_fake("smet::grad_topk_")
def _grad_topk_(positions: Tensor, grad_output: Tensor, input: Tensor, mask: Tensor) -> None:
    return None


@torch.library.register_fake("smet::adamw_step_")
def _adamw_step_(*args: Any, **kwargs: Any) -> None:
    return None


@torch.library.register_fake("smet::topology_update_")
def _topology_update_(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return values.new_empty(2 + 256, dtype=torch.int64)


@torch.library.register_fake("smet::topology_plan")
def _topology_plan(mask: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mask), mask.new_empty((), dtype=torch.int64)


@torch.library.register_fake("smet::topology_commit_")
def _topology_commit_(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return values.new_empty(256, dtype=torch.int64)
