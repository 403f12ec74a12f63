# SPDX-License-Identifier: BSD-3-Clause
"""Cross entropy of a linear layer's outputs, without the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

_REDUCTIONS = ("mean", "sum", "none")


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Tensor:
    r"""cross_entropy(input @ linear_weight.T + linear_bias, target) without the logits of all classes.

    Classes are visited in slices, forward for each token's log-sum-exp and, computed again, backward. Beside
    the gradients that takes max(32 MB, 256 bytes * (tokens + 2 * features)) of scratch, whatever the number
    of classes; the logits of 4,096 tokens and 32,000 classes alone would be 524 MB. Any language model's
    loss::

        hidden = model.model(tokens[:, :-1]).last_hidden_state
        loss = smet.linear_cross_entropy(hidden, model.lm_head.weight, tokens[:, 1:])

    Args:
        input: [..., features], any floating dtype. bfloat16 and float16 are multiplied and summed in float32
            on a CPU, and only the gradients are rounded.
        linear_weight: [classes, features] of the same dtype.
        target: int64 classes, of input's leading dimensions.
        linear_bias: [classes] or None.
        reduction: "mean" over targets that are not ignored, "sum" or "none".
        ignore_index: targets that cost nothing.

    Returns float32 (float64 for float64). Given the logits, a float32 loss is exact to 2^-20 and half an ulp
    of its own; there is no second derivative. ValueError, TypeError or IndexError says which argument does
    not fit. The names are those of torch.nn.functional.linear_cross_entropy (torch 2.15), which slices tokens
    and therefore keeps float32 copies of a bfloat16 weight and its gradient.
    """
    if reduction not in _REDUCTIONS:
        expected = ", ".join(map(repr, _REDUCTIONS))
        raise ValueError(f"smet: linear_cross_entropy: reduction is {reduction!r}; expected {expected}")
    if input.dim() < 1 or target.shape != input.shape[:-1]:
        raise ValueError(
            f"smet: linear_cross_entropy: target has shape {tuple(target.shape)} and input "
            f"{tuple(input.shape)}; expected input's leading dimensions"
        )
    losses: Tensor = torch.ops.smet.linear_cross_entropy(
        input.flatten(0, -2) if input.dim() > 1 else input[None],
        linear_weight,
        target.flatten(),
        linear_bias,
        ignore_index,
    )[0]
    if reduction == "none":
        return losses.view(target.shape)
    total = losses.sum()
    return total if reduction == "sum" else total / (target != ignore_index).sum()
