# SPDX-License-Identifier: BSD-3-Clause
"""Stability late in a run: plain Adam's loss jumps when weights are regrown, with exact ages it does not.

From one state and on the same data, three branches run on: static (no updates), plain (newborns corrected by
the global step, no warm-up) and smet. Early in a run no method spikes, since the global correction is still
at work; so the trunk is trained past t = 2,000, where a newborn's updates are up to 6.6 times too large.
Paired jump of an update = mean loss difference to static over the 10 steps from the second after the update
on, less the mean over the 10 steps before (the first step after it sees the pruning alone).
"""

import copy
import itertools

import pytest
import torch
from torch import nn

import smet

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES, WIDTH, CLASSES, BATCH = 32, 128, 64, 64
TRUNK, BRANCH, INTERVAL, FRACTION, LR = 2000, 162, 50, 0.3, 4e-3
SEEDS = (0, 1)


class Task:
    """Classify by a fixed random network; a batch is a function of its number."""

    def __init__(self):
        generator = torch.Generator().manual_seed(123)
        self.first = torch.randn(FEATURES, 64, generator=generator) * 1.5 / FEATURES**0.5
        self.second = torch.randn(64, CLASSES, generator=generator)

    def loss(self, net, number):
        x = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(number))
        labels = (torch.tanh(x @ self.first) @ self.second).argmax(1)
        return nn.functional.cross_entropy(net(x), labels)


def network():
    torch.manual_seed(0)
    sizes = (FEATURES, WIDTH, WIDTH, WIDTH, CLASSES)
    layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    smet.sparsify_(net, 0.25, skip=("0", "6"))
    return net


def optimizer(net, **ages):
    return smet.CompactAdamW(net, lr=LR, weight_decay=0.0, warmup=INTERVAL, **ages)


def run(task, net, opt, first, last, topo=None):
    losses = []
    for number in range(first, last):
        opt.zero_grad()
        loss = task.loss(net, number)
        loss.backward()
        opt.step()
        if topo is not None:
            topo.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def branch(task, trunk, trunk_opt, seed=None, **ages):
    """Losses of BRANCH steps from the trunk's state; seed None is the static run."""
    net = copy.deepcopy(trunk)
    opt = optimizer(net)
    opt.load_state_dict(trunk_opt.state_dict())
    for group in opt.param_groups:
        group.update(ages)
    topo = None
    if seed is not None:
        topo = smet.TopologyScheduler(
            net,
            opt,
            interval=INTERVAL,
            fraction=FRACTION,
            fraction_schedule="constant",
            stop=1.0,
            total_steps=10**6,
            seed=seed,
        )
    return run(task, net, opt, TRUNK, TRUNK + BRANCH, topo)


def jump(difference, at):
    """Of a loss difference to static, for an update after `at` steps of the branch."""
    return (difference[at + 1 : at + 11].mean() - difference[at - 10 : at].mean()).item()


def mean(numbers):
    return sum(numbers) / len(numbers)


def test_plain_adam_spikes_late_in_a_run_and_smet_does_not():
    task, trunk = Task(), network()
    trunk_opt = optimizer(trunk)
    losses = run(task, trunk, trunk_opt, 0, TRUNK)
    assert losses[-100:].mean() < 0.5 * losses[:10].mean()

    static = branch(task, trunk, trunk_opt)
    plain, smets = (
        [branch(task, trunk, trunk_opt, seed, **ages) - static for seed in SEEDS]
        for ages in ({"local_age": False, "age_schedule": "none"}, {})
    )
    updates = range(INTERVAL, BRANCH - 10, INTERVAL)
    assert len(updates) == 3
    plain_jumps = [jump(d, at) for d in plain for at in updates]
    smet_jumps = [jump(d, at) for d in smets for at in updates]
    # Noise: the same figure where nothing happens, between two updates, of the branch that is to be judged.
    quiet = torch.tensor(
        [jump(d, at + shift) for d in smets for at in updates[:-1] for shift in (20, 28, 36)]
    )
    noise = 3 * quiet.std().item() / len(smet_jumps) ** 0.5
    plain_excess, smet_excess = (mean([d[-50:].mean().item() for d in ds]) for ds in (plain, smets))
    print(
        f"\npaired 10-step jump: plain {mean(plain_jumps):+.4f} (largest {max(plain_jumps):+.4f}), "
        f"smet {mean(smet_jumps):+.4f} (largest {max(smet_jumps):+.4f}), noise {noise:.4f}\n"
        f"loss over static in the last 50 steps: plain {plain_excess:+.4f}, smet {smet_excess:+.4f}; "
        f"largest excess: plain {max(d.max().item() for d in plain):.3f}, "
        f"smet {max(d.max().item() for d in smets):.3f}"
    )
    assert mean(plain_jumps) > 2 * noise, "the setting shows no jump of plain Adam: it tests nothing"
    assert mean(smet_jumps) <= noise
    assert mean(smet_jumps) < 0.2 * mean(plain_jumps)
    assert smet_excess < 0.2 * plain_excess
