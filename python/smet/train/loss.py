# SPDX-License-Identifier: BSD-3-Clause
"""The loss of a causal language model, without the logits of all tokens where the model allows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import smet

# Models whose logits are not just their head's output: soft caps, scales, a head that is no plain nn.Linear.
_OWN_LOGITS: WeakSet[nn.Module] = WeakSet()


def next_token_loss(model: nn.Module, batch: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy of batch[:, 1:] given batch[:, :-1], in float32 or wider. batch: int64 [B, T + 1].

    reduction: "mean", "sum", or "none", a loss for each of the B * T targets.
    """
    inputs, targets = batch[:, :-1], batch[:, 1:].flatten()
    own = cast(Any, getattr(model, "module", model))  # of DistributedDataParallel
    head = None if own in _OWN_LOGITS else own.get_output_embeddings()
    if type(head) is nn.Linear:
        generators = torch.get_rng_state(), torch.cuda.get_rng_state_all() if batch.is_cuda else []
        with _left_out(head) as seen:
            hidden = _logits(model, inputs)
        if len(seen) == 1 and hidden is seen[0]:
            return smet.linear_cross_entropy(
                hidden.flatten(0, 1), head.weight, targets, linear_bias=head.bias, reduction=reduction
            )
        torch.set_rng_state(generators[0])
        torch.cuda.set_rng_state_all(generators[1])
    _OWN_LOGITS.add(own)
    logits = _logits(model, inputs).flatten(0, 1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, reduction=reduction)


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=inputs, use_cache=False).logits  # [B, T, V]
    return logits


@contextmanager
def _left_out(head: nn.Linear) -> Iterator[list[Tensor]]:
    """The head hands on its input. A model that returns that very tensor does nothing else to its logits."""
    seen: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    head.forward = keep  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        del head.forward
