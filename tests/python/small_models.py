# SPDX-License-Identifier: BSD-3-Clause
"""A small model of the shape that language models have."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False)
        self.up_proj = nn.Linear(width, 2 * width)
        self.down_proj = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down_proj(torch.relu(self.up_proj(self.q_proj(x))))


class Model(nn.Module):
    def __init__(self, vocab=50, width=48, depth=2):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.lm_head = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return Model(**kwargs)
