# SPDX-License-Identifier: BSD-3-Clause
"""Dynamic sparse training written out plainly: dense float64 matrices, a boolean mask and an age per element.

No smet code. Written from the formulas of the method: the optimizer step with local ages, warm-up and
density scaling; magnitude pruning by the total order (|w|, flat position); growth by keyed draws
(kernels/keyed_draws.h).
"""

import math

import torch

MASK64 = (1 << 64) - 1
MASK32 = (1 << 32) - 1
GROW, INITIAL = 1, 0


def mix64(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def layer_key(seed, name):
    fnv = 0xCBF29CE484222325
    for byte in name.encode():
        fnv = ((fnv ^ byte) * 0x100000001B3) & MASK64
    return mix64(fnv ^ mix64((seed + 0x9E3779B97F4A7C15) & MASK64))


def philox4x32_10(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(high >> 32) ^ c[1] ^ k[0], high & MASK32, (low >> 32) ^ c[3] ^ k[1], low & MASK32]
        k = [(k[0] + 0x9E3779B9) & MASK32, (k[1] + 0xBB67AE85) & MASK32]
    return c


def keyed_draw(key, stream, update, j):
    words = philox4x32_10([(j // 2) & MASK32, (j // 2) >> 32, update, stream], [key & MASK32, key >> 32])
    first = 2 * (j % 2)
    return words[first] | words[first + 1] << 32


def draw_positions(mask, k, key, stream, update):
    """The k inactive positions of a boolean mask that the draws name first, as a boolean mask."""
    inactive = int((~mask).sum())
    left_out = k > inactive // 2
    chosen = torch.zeros(mask.numel(), dtype=torch.bool)
    taken, j = mask.flatten().clone(), 0
    for _ in range(inactive - k if left_out else k):
        while True:
            position = keyed_draw(key, stream, update, j) * mask.numel() >> 64
            j += 1
            if not taken[position]:
                break
        taken[position] = chosen[position] = True
    chosen = chosen.reshape(mask.shape)
    return ~mask & ~chosen if left_out else chosen


class MaskedLayer:
    """One weight matrix: w, mask, moments and the step at which each element was born (0: initial)."""

    def __init__(self, name, weight, mask):
        self.name, self.mask = name, mask.clone()
        self.w = torch.where(mask, weight.double(), 0.0)
        self.m, self.v = torch.zeros_like(self.w), torch.zeros_like(self.w)
        self.birth = torch.zeros_like(mask, dtype=torch.long)

    def step(self, grad, t, *, lr, betas, eps, weight_decay, warmup, exponent):
        """One AdamW update of the active elements, each with its own age."""
        age = (t - self.birth).double()
        warm = torch.where(self.birth > 0, (age / warmup).clamp(max=1), 1.0)
        lr_w = lr * (self.mask.sum().item() / self.mask.numel()) ** -exponent * warm
        m = betas[0] * self.m + (1 - betas[0]) * grad
        v = betas[1] * self.v + (1 - betas[1]) * grad**2
        m_hat, v_hat = m / (1 - betas[0] ** age), v / (1 - betas[1] ** age)
        w = self.w - lr_w * (m_hat / (v_hat.sqrt() + eps) + weight_decay * self.w)
        self.m, self.v, self.w = (torch.where(self.mask, x, 0.0) for x in (m, v, w))

    def update_topology(self, t, update, fraction, seed):
        """Prune the weakest, grow as many among those inactive before; newborns have no history."""
        n, inactive = int(self.mask.sum()), int((~self.mask).sum())
        k = min(math.floor(fraction * n), inactive)
        active = self.mask.flatten().nonzero().flatten().tolist()
        order = sorted(active, key=lambda position: (abs(self.w.flatten()[position].item()), position))
        pruned = torch.zeros(self.mask.numel(), dtype=torch.bool)
        pruned[order[:k]] = True
        pruned = pruned.reshape(self.mask.shape)
        grown = draw_positions(self.mask, k, layer_key(seed, self.name), GROW, update)
        self.mask = self.mask & ~pruned | grown
        self.birth = torch.where(grown, t, torch.where(self.mask, self.birth, 0))
        self.w, self.m, self.v = (torch.where(self.mask & ~grown, x, 0.0) for x in (self.w, self.m, self.v))


def cosine_fraction(t, total, start, final):
    return final + (start - final) * (1 + math.cos(math.pi * t / total)) / 2
