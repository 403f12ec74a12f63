# SPDX-License-Identifier: BSD-3-Clause
"""Everything that is rounded at random is unbiased to 5 standard errors over 1e7 draws: bfloat16 weights, and
both moments in bf16 and in 8 bits.

One step from zero moments; a twin with fp32 weights and moments says what was rounded. A number a part f of
the way from one neighbour to the next is off by (1 - f) of the distance with probability f, else by -f: mean
0, variance f (1 - f). The sum of n such errors, each in units of its distance, is compared with the root of
the sum of their variances.
"""

import pytest
import torch
from torch.nn import Parameter

from smet import CompactAdamW

DRAWS, ROWS, COLS = 10_000_000, 500, 4000


def neighbours_of_bf16(x):
    """The two bf16 numbers around fp32 ones, towards zero first, as float64."""
    bits = x.view(torch.int32)
    low = bits >> 16 << 16
    return low.view(torch.float32).double(), (low + (1 << 16)).view(torch.float32).double()


def neighbours_of_codes(x, scale, most):
    """The magnitudes of the codes around those of x, in blocks of 1,024 columns; scale [rows, blocks]."""
    unit = scale.double().repeat_interleave(1024, 1)[:, : x.shape[1]] / most**2
    low = (x.double().abs() / unit).sqrt().floor().clamp(max=most - 1)
    return low**2 * unit, (low + 1) ** 2 * unit


def value_of_codes(codes, scale, most):
    unit = scale.double().repeat_interleave(1024, 1)[:, : codes.shape[1]] / most**2
    return codes.double() ** 2 * unit


class Errors:
    """Sums of errors and of their variances."""

    def __init__(self):
        self.count = self.error = self.variance = 0.0

    def add(self, got, exact, low, high):
        part = (exact - low) / (high - low)
        off = (got - exact) / (high - low)
        assert (off.abs() < 1).all()
        self.count += len(part.flatten())
        self.error += off.sum().item()
        self.variance += (part * (1 - part)).sum().item()

    def assert_unbiased(self, what):
        deviations = self.error / self.variance**0.5
        print(f"{what}: {self.count:.0f} draws, off by {deviations:+.2f} standard errors")
        assert self.count >= DRAWS and self.variance > 0.1 * DRAWS
        assert abs(deviations) <= 5


def steps(count, dtype, **options):
    """(state of the rounded, rounded parameter, state of the twin, twin), one step from zero moments."""
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(ROWS, COLS, generator=generator).to(dtype)
        grad = torch.randn(ROWS, COLS, generator=generator).bfloat16()
        p, q = Parameter(start), Parameter(start.float())
        opt = CompactAdamW([p], lr=3e-3, seed=seed, **options)
        twin = CompactAdamW([q], lr=3e-3)
        p.grad, q.grad = grad.to(dtype), grad.float()
        opt.step()
        twin.step()
        yield opt.state[p], p.detach(), twin.state[q], q.detach()


COUNT = DRAWS // (ROWS * COLS)


def test_bf16_weights():
    errors = Errors()
    for _, p, _, q in steps(COUNT, torch.bfloat16, stochastic_rounding=True):
        errors.add(p.double(), q.double(), *neighbours_of_bf16(q))
    errors.assert_unbiased("weights in bf16")


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_bf16_moments(key):
    errors = Errors()
    for state, _, exact, _ in steps(COUNT, torch.float32, moments="bf16"):
        errors.add(state[key].double(), exact[key].double(), *neighbours_of_bf16(exact[key]))
    errors.assert_unbiased(f"{key} in bf16")


@pytest.mark.parametrize(("key", "most"), [("exp_avg", 127), ("exp_avg_sq", 255)])
def test_8_bit_moments(key, most):
    """|m|, whose sign is kept, and sqrt(v); a block's largest is exact, a v goes up to code 1 at least."""
    errors = Errors()
    for state, _, exact, _ in steps(COUNT + 1, torch.float32, moments="8bit"):
        scale, want = state[f"{key}_scale"], exact[key].abs() if key == "exp_avg" else exact[key].sqrt()
        got = value_of_codes(state[key], scale, most)
        low, high = neighbours_of_codes(want, scale, most)
        free = (low > 0) | (key == "exp_avg")  # else rounded up on purpose
        assert torch.equal(state[key].sign()[low > 0], exact[key].sign().to(state[key].dtype)[low > 0])
        errors.add(got[free], want.double()[free], low[free], high[free])
    errors.assert_unbiased(f"{key} in 8 bits")
