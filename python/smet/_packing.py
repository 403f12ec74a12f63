# SPDX-License-Identifier: BSD-3-Clause
"""Positions as a packed mask, and dense layers as their parts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from smet.sparse_linear import SparseLinear

_WORD_COLUMNS, _SEGMENT_COLUMNS = 32, 1024


def words_per_row(cols: int) -> int:
    """Mask words of one row."""
    return -(-cols // _WORD_COLUMNS)


def segments_per_row(cols: int) -> int:
    """Entries of `rank` of one row."""
    return -(-cols // _SEGMENT_COLUMNS)


def check_init(init_std: float | None, init_scale: str | None, name: str) -> None:
    """ValueError unless the initialisation options are legal."""
    if init_std is not None and not (math.isfinite(init_std) and init_std >= 0):
        raise ValueError(f"smet: layer '{name}': init_std is {init_std}; expected a number >= 0 or None")
    if init_scale not in (None, "fan_in"):
        raise ValueError(f"smet: layer '{name}': init_scale is {init_scale!r}; expected 'fan_in' or None")


def pack(dense: Tensor) -> Tensor:
    """Boolean [out, in] -> int32 words [out, ceil(in / 32)]."""
    rows, cols = dense.shape
    bits = dense.new_zeros(rows, words_per_row(cols) * _WORD_COLUMNS, dtype=torch.bool)
    bits[:, :cols] = dense
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=dense.device)
    octets = (bits.view(rows, -1, 8) * weights).sum(-1, dtype=torch.uint8)
    return octets.view(torch.int32)  # little-endian, as every machine torch runs on


def unpack(mask: Tensor, cols: int) -> Tensor:
    """Inverse of `pack`."""
    shifts = torch.arange(_WORD_COLUMNS, dtype=torch.int32, device=mask.device)
    return ((mask.unsqueeze(-1) >> shifts) & 1).bool().flatten(1)[:, :cols]


_BIT_COUNTS = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.uint8)


def active_positions(mask: Tensor) -> int:
    """Set bits of a packed mask."""
    octets = mask.contiguous().view(torch.uint8).flatten()
    chunks = torch.split(octets, 1 << 18)  # bounds the int64 indices that the look-up makes
    return sum(int(_BIT_COUNTS.to(octets.device)[chunk.long()].sum(dtype=torch.int64)) for chunk in chunks)


def mask_problem(mask: Any, out_features: int, in_features: int, n: int) -> str | None:
    """What is wrong with a packed mask that should hold exactly n positions, or None."""
    expected = (out_features, words_per_row(in_features))
    if not isinstance(mask, Tensor) or mask.dtype != torch.int32 or tuple(mask.shape) != expected:
        got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        return f"is {got}; expected int32 {list(expected)} for {out_features} x {in_features} weights"
    if mask.is_meta:
        return None
    used = in_features % _WORD_COLUMNS
    if used and bool((mask[:, -1] >> used).ne(0).any()):
        return f"has bits set at or beyond column {in_features}"
    active = active_positions(mask)
    return None if active == n else f"has {active} active positions for {n} values"


def packed_mask(mask: Tensor, out_features: int, in_features: int, name: str) -> Tensor:
    """`mask` given by a user, bool [out, in] or packed, as a packed mask. ValueError when it fits neither."""
    if mask.dtype == torch.bool:
        if tuple(mask.shape) != (out_features, in_features):
            raise ValueError(
                f"smet: layer '{name}': mask has shape {tuple(mask.shape)}; "
                f"expected {(out_features, in_features)}"
            )
        return pack(mask)
    problem = None
    if mask.dtype == torch.int32 and tuple(mask.shape) == (out_features, words_per_row(in_features)):
        problem = mask_problem(mask, out_features, in_features, active_positions(mask))
    else:
        problem = f"is {mask.dtype} {list(mask.shape)}; expected bool [out, in] or the packed int32 form"
    if problem:
        raise ValueError(f"smet: layer '{name}': mask {problem}")
    return mask


def magnitude_mask(weight: Tensor, n: int, name: str) -> Tensor:
    """Packed mask of the n largest |w|: what pruning the smallest (ties: smaller flat position) leaves.

    NaN counts as smallest. Not torch.topk, whose choice among equals is unspecified.
    """
    if weight.is_meta:
        raise ValueError(f"smet: layer '{name}': select='magnitude' needs weights; this one is on meta")
    size = weight.detach().abs().flatten()
    size = torch.where(size.isnan(), size.new_tensor(-1.0), size)
    keep = torch.zeros(size.numel(), dtype=torch.bool, device=weight.device)
    if n > 0:
        # A selection, not a sort: the n-th largest, all above it, and the last of those equal to it.
        threshold = size.kthvalue(size.numel() - n + 1).values
        torch.gt(size, threshold, out=keep)
        ties = (size == threshold).nonzero().flatten()
        keep[ties[ties.numel() - (n - int(keep.sum())) :]] = True
    return pack(keep.view(weight.shape))


def dense_parts(source: nn.Module | Tensor) -> tuple[Tensor, Tensor | None, str]:
    """(weight [out, in], bias, origin) of a dense layer; a Conv1D's weight is stored transposed."""
    dense: Any = source
    if isinstance(source, Tensor):
        weight, bias, origin = source, None, "linear"
    elif isinstance(source, nn.Linear):
        weight, bias, origin = dense.weight, dense.bias, "linear"
    elif type(source).__name__ == "Conv1D" and hasattr(source, "nf"):
        grad = bool(dense.weight.requires_grad)
        weight, bias, origin = dense.weight.detach().t().requires_grad_(grad), dense.bias, "conv1d"
    else:
        raise TypeError(
            f"smet: from_dense takes an nn.Linear, a Conv1D or a 2-D weight; got {type(source).__name__}"
        )
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"smet: weight is {weight.dtype} {tuple(weight.shape)}; expected floating [out, in]")
    return weight, bias, origin


def dense_layer(layer: SparseLinear) -> nn.Module:
    """nn.Linear or transformers' Conv1D with the weights of a sparse layer; zeros where none is active."""
    device, dtype, bias = layer.values.device, layer.values.dtype, layer.bias
    dense: Any
    if layer.origin == "conv1d":
        from transformers import pytorch_utils

        conv1d: Any = pytorch_utils.Conv1D
        dense = conv1d(layer.out_features, layer.in_features).to(device=device, dtype=dtype)
        if bias is None:
            raise ValueError(f"smet: layer '{layer.name}': a Conv1D has a bias, this layer has none")
        weight = layer.dense_weight().t()
    else:
        dense = nn.Linear(
            layer.in_features, layer.out_features, bias is not None, device="meta", dtype=dtype
        ).to_empty(device=device)
        weight = layer.dense_weight()
    dense.weight.copy_(weight)
    dense.weight.requires_grad_(layer.values.requires_grad)
    if bias is not None:
        dense.bias.copy_(bias)
        dense.bias.requires_grad_(bias.requires_grad)
    dense.train(layer.training)
    module: nn.Module = dense
    return module
