# SPDX-License-Identifier: BSD-3-Clause
"""AdamW with one age per element, written plainly in float64 from the method's formulas. No smet code."""

import math

import torch


def linear_warm(warmup, boost=1.0, tau=50.0):
    """warm(a) = min(1, a / W) * (1 + (B - 1) * exp(-a / tau)); W = 0 is no warm-up."""

    def warm(age):
        ramp = min(1.0, age / warmup) if warmup else 1.0
        return ramp * (1 + (boost - 1) * math.exp(-age / tau))

    return warm


class ReferenceAdamW:
    """One dense weight, its mask and, per element, the step of its birth (0 = there from the start)."""

    def __init__(
        self,
        weight,
        mask=None,
        *,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        coupled=False,
        density=1.0,
        exponent=0.5,
        warm=None,
        local_age=True,
        maximize=False,
    ):
        self.mask = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.clone()
        self.w = torch.where(self.mask, weight.double(), 0.0)
        self.m, self.v = torch.zeros_like(self.w), torch.zeros_like(self.w)
        self.birth = torch.zeros_like(self.mask, dtype=torch.long)
        self.t = 0
        self.lr, self.betas, self.eps, self.weight_decay, self.coupled = lr, betas, eps, weight_decay, coupled
        self.density, self.exponent, self.warm = density, exponent, warm or linear_warm(100)
        self.local_age, self.maximize = local_age, maximize

    def regrow(self, elements):
        """The elements of a boolean mask are born now: no value, no history."""
        self.mask |= elements
        self.birth[elements] = self.t
        for tensor in (self.w, self.m, self.v):
            tensor[elements] = 0

    def prune(self, elements):
        self.mask &= ~elements
        for tensor in (self.w, self.m, self.v):
            tensor[elements] = 0

    def step(self, grad):
        self.t += 1
        beta1, beta2 = self.betas
        g = grad.double() * (-1 if self.maximize else 1)
        if self.coupled:
            g = g + self.weight_decay * self.w
        age = self.t - self.birth
        warm = torch.ones_like(self.w)
        for a in set(age[self.birth > 0].tolist()):
            warm[(age == a) & (self.birth > 0)] = self.warm(a)
        a = age.double() if self.local_age else torch.full_like(self.w, self.t)
        m = beta1 * self.m + (1 - beta1) * g
        v = beta2 * self.v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**a), v / (1 - beta2**a)
        lr_w = self.lr * self.density**-self.exponent * warm
        decay = 0.0 if self.coupled else self.weight_decay
        w = self.w - lr_w * (m_hat / (v_hat.sqrt() + self.eps) + decay * self.w)
        self.m, self.v, self.w = (torch.where(self.mask, x, 0.0) for x in (m, v, w))
