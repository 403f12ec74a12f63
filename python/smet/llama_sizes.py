# SPDX-License-Identifier: BSD-3-Clause
"""The LLaMA shapes of the SMET paper (arXiv 2606.00888, configurations)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class LlamaSize:
    """Shape of one LLaMA: no biases, one key-value head per head, untied output head."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    vocab: int = 32_000

    def skeleton(self) -> nn.Module:
        """The layers that hold parameters, on the meta device, under the names that transformers uses."""
        with torch.device("meta"):
            model = nn.Module()
            model.model = nn.Module()
            model.model.embed_tokens = nn.Embedding(self.vocab, self.hidden)
            model.model.layers = nn.ModuleList(self._block() for _ in range(self.layers))
            model.model.norm = nn.RMSNorm(self.hidden)
            model.lm_head = nn.Linear(self.hidden, self.vocab, bias=False)
        return model

    def _block(self) -> nn.Module:
        def linear(in_features: int, out_features: int) -> nn.Linear:
            return nn.Linear(in_features, out_features, bias=False)

        block = nn.Module()
        block.self_attn = nn.ModuleDict({f"{x}_proj": linear(self.hidden, self.hidden) for x in "qkvo"})
        block.mlp = nn.ModuleDict(
            {
                "gate_proj": linear(self.hidden, self.intermediate),
                "up_proj": linear(self.hidden, self.intermediate),
                "down_proj": linear(self.intermediate, self.hidden),
            }
        )
        block.input_layernorm = nn.RMSNorm(self.hidden)
        block.post_attention_layernorm = nn.RMSNorm(self.hidden)
        return block


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
