# SPDX-License-Identifier: BSD-3-Clause
"""Cohorts through more than 255 updates: ids are used again, and merging old weights into mature is exact."""

import math

import pytest
import torch

import smet
from topology_helpers import unpack

pytestmark = pytest.mark.usefixtures("one_thread")

OUT, IN, DENSITY = 40, 160, 0.5
N = int(OUT * IN * DENSITY)


def active(layer):
    return unpack(layer.mask, IN).flatten().nonzero().flatten()


class Reference:
    """One weight matrix with the true birth of every element.

    Elements of one birth go through the optimizer's kernel as a tensor of their own, with their own table
    row, so nothing is ever merged and the arithmetic is the same.
    """

    def __init__(self, layer, step, *, lr, betas, eps, warmup):
        self.w = layer.dense_weight().detach().clone().flatten()
        self.m, self.v = torch.zeros_like(self.w), torch.zeros_like(self.w)
        self.birth = torch.zeros(OUT * IN, dtype=torch.int64)
        self.step_count, self.lr, self.betas, self.eps, self.warmup = step, lr, betas, eps, warmup

    def row(self, birth):
        age = self.step_count - birth
        lr_w = self.lr * DENSITY**-0.5 * (min(1, age / self.warmup) if birth > 0 else 1)
        corrections = lr_w / (1 - self.betas[0] ** age), math.sqrt(1 - self.betas[1] ** age)
        return torch.tensor([[0.0, *corrections]], dtype=torch.float64)

    def step(self, gradient, positions):
        self.step_count += 1
        births, sizes = self.birth[positions].unique(return_counts=True)
        order = positions[self.birth[positions].argsort(stable=True)]
        arrays = [x[order] for x in (self.w, gradient, self.m, self.v)]
        count = len(births)
        torch.ops.smet.adamw_step_(
            *(x.split(sizes.tolist()) for x in arrays),
            *([],) * 5,
            [torch.empty(0, dtype=torch.uint8)] * count,
            [self.row(birth) for birth in births.tolist()],
            *([value] * count for value in (*self.betas, self.eps, 0.0)),
            [False] * count,
            [],
            [""] * count,
        )
        self.w[order], self.m[order], self.v[order] = arrays[0], arrays[2], arrays[3]

    def regrow(self, before, after):
        """Newborns start at zero; what is inactive stays there until it is grown."""
        born = after[~torch.isin(after, before)]
        for tensor in (self.w, self.m, self.v):
            tensor[born] = 0
        self.birth[born] = self.step_count


def run(updates, betas, first_step=0):
    """Random pruning, so that old weights survive, k = 2 of 3,200 at every step. Yields after each step."""
    layer = smet.SparseLinear(IN, OUT, bias=False, density=DENSITY, name="0")
    adam = {"lr": 1e-2, "betas": betas, "eps": 1e-8}
    opt = smet.CompactAdamW(layer, weight_decay=0.0, warmup=20, **adam)
    opt.state[layer.values]["step"].fill_(first_step)
    topo = smet.TopologyScheduler(
        layer,
        opt,
        interval=1,
        total_steps=10**6,
        stop=1.0,
        fraction=2.1 / N,
        fraction_schedule="constant",
        prune="random",
    )
    reference = Reference(layer, first_step, warmup=20, **adam)
    generator = torch.Generator().manual_seed(3)
    for update in range(1, updates + 1):
        gradient = torch.randn(OUT * IN, generator=generator)
        before = active(layer)
        layer.values.grad = gradient[before].clone()
        reference.step(gradient, before)
        opt.step()
        yield update, layer, opt, topo, reference, before
        assert topo.step().k == 2
        reference.regrow(before, active(layer))


def test_merging_is_bit_exact_once_the_corrections_are_one():
    """N9: b2^255 = 2.7e-8 < 2^-25 = 3.0e-8, so no bit may differ, here through 330 updates."""
    merged = 0
    for update, layer, opt, _, reference, positions in run(330, (0.5, 0.934)):
        assert torch.equal(layer.values.detach(), reference.w[positions]), f"update {update}"
        state = opt.state[layer.values]
        assert torch.equal(state["exp_avg_sq"], reference.v[positions])
        merged = int(((state["cohort"] == 0) & (reference.birth[positions] > 0)).sum())
        births = state["births"][state["cohort"].long()]
        mature = state["cohort"] == 0
        assert torch.equal(births[~mature], reference.birth[positions][~mature])
    assert merged > 20, "no old weight was merged: the test tests nothing"


def test_before_that_merging_errs_by_exactly_b2_to_the_age():
    """b2 = .999, interval 1: v^ of a merged weight is v instead of v / (1 - b2^a), with a = 256."""
    betas, late = (0.0, 0.999), 10**6
    for update, layer, opt, _, reference, positions in run(257, betas, late):
        state = opt.state[layer.values]
        old = (state["cohort"] == 0) & (reference.birth[positions] > 0)
        assert bool(old.any()) == (update > 256)
        if update <= 256:
            previous = layer.values.detach().clone()
            last_w, last_positions = reference.w.clone(), positions
    index = {position: i for i, position in enumerate(last_positions.tolist())}
    checked = 0
    for i in old.nonzero().flatten().tolist():
        position = int(positions[i])
        age = late + 257 - int(reference.birth[position])
        assert age == 256  # counting the coming update; born after update 1
        ours = layer.values[i].item() - previous[index[position]].item()
        exact = (reference.w[position] - last_w[position]).item()
        assert (ours / exact) ** -2 == pytest.approx(1 - 0.999**age, rel=2e-3)
        checked += 1
    assert checked > 0


def test_ids_births_and_ages_through_the_recycling():
    """Newborn id 1 + (u - 1) % 255; survivors of the id being used again become 0; ages in a histogram."""
    for update, layer, opt, topo, reference, positions in run(300, (0.9, 0.99)):
        if update > 1:
            assert int(opt.state[layer.values]["births"][1 + (update - 2) % 255]) == update - 1
            true_ages = update - reference.birth[positions]
            state = opt.state[layer.values]
            true_ages[state["cohort"] == 0] = update
            expected = dict(zip(*(x.tolist() for x in true_ages.unique(return_counts=True)), strict=True))
            assert topo.ages("") == expected
            pruned = topo.last_update.layers[0].last_cohort_pruned
            assert pruned is None if update == 2 else pruned in (0.0, 0.5, 1.0)
