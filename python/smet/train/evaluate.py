# SPDX-License-Identifier: BSD-3-Clause
"""Held-out loss: every token counts once, whatever the batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smet.train.device import device_of
from smet.train.loss import next_token_loss


@dataclass(frozen=True)
class Evaluation:
    """Mean loss per token in nats, and what follows from it."""

    loss: float
    tokens: int
    bits_per_byte: float | None

    @property
    def perplexity(self) -> float:
        """exp(loss); inf where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def evaluate(
    model: nn.Module, tokens: NDArray[Any], seq: int, batch: int, text_bytes: int | None = None
) -> Evaluation:
    """Loss on `tokens`, each after the first predicted once, with at most `seq` tokens before it.

    Windows of seq + 1 overlap by one token, the last may be shorter; sums are weighted by tokens, in float64.
    bits_per_byte = nats / ln 2 / text_bytes.
    """
    was_training = model.training
    model.eval()
    nats = 0.0
    try:
        for windows in _windows(tokens, seq, batch):
            losses = next_token_loss(model, windows.to(device_of(model)), reduction="none")
            nats += losses.double().sum().item()
    finally:
        model.train(was_training)
    count = len(tokens) - 1
    bits = nats / math.log(2) / text_bytes if text_bytes else None
    return Evaluation(nats / count, count, bits)


def _windows(tokens: NDArray[Any], seq: int, batch: int) -> list[Tensor]:
    """int64 [<= batch, seq + 1] each, then the shorter last window by itself."""
    full = (len(tokens) - 1) // seq
    result = []
    for first in range(0, full, batch):
        rows = [
            np.asarray(tokens[row * seq : (row + 1) * seq + 1], dtype=np.int64)
            for row in range(first, min(first + batch, full))
        ]
        result.append(torch.from_numpy(np.stack(rows)))
    rest = np.asarray(tokens[full * seq :], dtype=np.int64)
    if len(rest) > 1:
        result.append(torch.from_numpy(rest[None]))
    return result
