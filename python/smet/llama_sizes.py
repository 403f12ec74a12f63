# SPDX-License-Identifier: BSD-3-Clause
"""The LLaMA shapes of the SMET paper (arXiv 2606.00888, configurations); needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LlamaSize:
    """Shape of one LLaMA: no biases, one key-value head per head, untied output head."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    vocab: int = 32_000


LLAMA_SIZES: dict[str, LlamaSize] = {
    "9m": LlamaSize(128, 352, 4, 4),
    "20m": LlamaSize(256, 688, 4, 4),
    "35m": LlamaSize(384, 1024, 8, 6),
    "60m": LlamaSize(512, 1376, 8, 8),
    "130m": LlamaSize(768, 2048, 12, 12),
    "350m": LlamaSize(1024, 2736, 16, 24),
    "1b": LlamaSize(2048, 5461, 32, 24),
    "7b": LlamaSize(4096, 11008, 32, 32),
}
