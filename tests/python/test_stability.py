# SPDX-License-Identifier: BSD-3-Clause
"""The loss does not jump when weights are regrown late in a run, where plain Adam's does.

Branching: one model is trained past t = 2,000; from the same state and on the same data it goes on static, with
topology updates under plain Adam (global step, no warm-up) and under smet (local ages, warm-up). The paired jump of
an update is the mean over the ten steps from the second on, less the mean over the ten before, of the loss difference
to the static branch.
"""

import copy
import statistics
import sysconfig
from pathlib import Path

import torch
from torch import nn

import smet

CONTEXT, WIDTH, CHARACTERS = 8, 192, 128
WARM_STEPS, BRANCH_STEPS, INTERVAL, FRACTION = 2050, 160, 50, 0.3
ADAM = {"lr": 4e-3, "weight_decay": 0.0, "density_scaling": 0.5, "warmup": INTERVAL}


def corpus():
    folder = Path(sysconfig.get_path("stdlib"))
    names = ["argparse.py", "ast.py", "calendar.py", "configparser.py", "csv.py", "datetime.py", "decimal.py"]
    text = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    return torch.tensor([min(ord(character), CHARACTERS - 1) for character in text])


class TextModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, 24)
        self.up = nn.Linear(24 * CONTEXT, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.lm_head = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, context):
        hidden = nn.functional.gelu(self.up(self.embed(context).flatten(1)))
        return self.lm_head(hidden + nn.functional.gelu(self.mix(hidden)))


def train(model, opt, data, first, steps, topo=None):
    losses = []
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        start = torch.randint(len(data) - CONTEXT - 1, (128,), generator=generator)
        window = data[start.unsqueeze(1) + torch.arange(CONTEXT + 1)]
        loss = nn.functional.cross_entropy(model(window[:, :-1]), window[:, -1])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if topo is not None:
            topo.step()
        losses.append(loss.item())
    return losses


def branch(model, opt, data, updates, **options):
    model = copy.deepcopy(model)
    state = opt.state_dict()
    opt = smet.CompactAdamW(model, **{**ADAM, **options})
    settings = [{**group, **options} for group in state["param_groups"]]
    opt.load_state_dict({**state, "param_groups": settings})
    topo = None
    if updates:
        topo = smet.TopologyScheduler(
            model, opt, interval=INTERVAL, fraction=FRACTION, fraction_schedule="constant", stop=1.0,
            total_steps=BRANCH_STEPS,
        )  # fmt: skip
    return train(model, opt, data, WARM_STEPS, BRANCH_STEPS, topo)


def paired_jumps(losses, static):
    difference = [a - b for a, b in zip(losses, static, strict=True)]
    mean = statistics.fmean
    # After step u the topology changes: difference[u] sees the prune alone, newborns act from difference[u + 1] on.
    return [
        mean(difference[u + 1 : u + 11]) - mean(difference[u - 10 : u])
        for u in range(INTERVAL, BRANCH_STEPS - 9, INTERVAL)
    ]


def test_plain_adam_jumps_after_topology_updates_and_smet_does_not():
    torch.manual_seed(0)
    data = corpus()
    model = TextModel()
    smet.sparsify_(model, density=0.25)
    opt = smet.CompactAdamW(model, **ADAM)
    train(model, opt, data, 0, WARM_STEPS)

    static = branch(model, opt, data, updates=False)
    plain = paired_jumps(branch(model, opt, data, True, local_age=False, age_schedule="none"), static)
    smet_ = paired_jumps(branch(model, opt, data, True), static)
    print(f"paired jumps, nats: plain {plain}, smet {smet_}; static loss {statistics.fmean(static):.3f}")
