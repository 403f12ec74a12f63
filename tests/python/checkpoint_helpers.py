# SPDX-License-Identifier: BSD-3-Clause
"""A small run that can be stopped and saved after each of its operations, and resumed there."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import smet
from adamw_helpers import equal_bits
from smet.checkpoint import manifest, tensor_file

OPERATIONS = ("backward 1", "backward 2", "optimizer", "schedule", "topology", "zero_grad")  # of one step
INTERVAL, STEPS = 4, 12


class Net(nn.Module):
    """Sparse and dense layers, a shared parameter, a buffer, dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 40)
        self.layers = nn.Sequential(nn.Linear(40, 33), nn.ReLU(), nn.Dropout(0.2), nn.Linear(33, 40))
        self.norm = nn.BatchNorm1d(40)
        self.head = nn.Linear(40, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.norm(self.layers(self.embed(tokens))))


class Run:
    """Two backward passes a step, a learning rate with warm-up, a topology update every 4 steps."""

    def __init__(
        self,
        seed=0,
        density=0.4,
        dtype=torch.float32,
        grow="random",
        opt_class=None,
        device="cpu",
        **options,
    ):
        torch.manual_seed(seed)
        self.model = Net().to(device, dtype)
        smet.sparsify_(self.model, density=density, skip=("head",), seed=3)
        make = opt_class or smet.CompactAdamW
        named = self.model if opt_class is None else self.model.parameters()
        self.opt = make(named, lr=2e-2, **options)
        self.lr = LambdaLR(self.opt, lambda done: min(1.0, (done + 1) / 3))
        self.topo = smet.TopologyScheduler(
            self.model,
            self.opt,
            interval=INTERVAL,
            fraction=0.3,
            total_steps=STEPS,
            stop=1.0,
            grow=grow,
            track_explored=True,
        )
        self.done = 0  # operations

    def advance(self, operations):
        for _ in range(operations):
            step, operation = divmod(self.done, len(OPERATIONS))
            self._do(step, OPERATIONS[operation])
            self.done += 1

    def _do(self, step, operation):
        if operation.startswith("backward"):
            generator = torch.Generator().manual_seed(10 * step + int(operation[-1]))
            tokens = torch.randint(11, (6,), generator=generator).to(self.model.embed.weight.device)
            noise = 1 + 0.01 * random.random() + 0.01 * np.random.rand()
            (nn.functional.cross_entropy(self.model(tokens).float(), tokens.flip(0)) * noise).backward()
        elif operation == "optimizer":
            self.opt.step()
        elif operation == "schedule":
            self.lr.step()
        elif operation == "topology":
            self.topo.step()
        else:
            self.opt.zero_grad()

    def save(self, root, **options):
        options = {"step": self.done, "lr_scheduler": self.lr, "gradients": True} | options
        return smet.save_checkpoint(root, self.model, self.opt, self.topo, **options)

    def load(self, path, **options):
        found = smet.load_checkpoint(path, self.model, self.opt, self.topo, lr_scheduler=self.lr, **options)
        self.done = found.step
        return found


def tensors_of(run):
    """Every tensor of a run, by name; copies."""
    found = {f"model {name}": tensor for name, tensor in run.model.state_dict().items()}
    for name, layer in smet.sparse_layers(run.model):
        found[f"rank {name}"] = layer.rank
        if layer.grow_candidates is not None:
            found[f"candidates {name}"] = layer.grow_candidates
    for name, param in run.model.named_parameters():
        found |= {f"state {name} {key}": value for key, value in run.opt.state.get(param, {}).items()}
        if param.grad is not None:
            found[f"grad {name}"] = param.grad
    for name, record in run.topo.state_dict()["layers"].items():
        found[f"explored {name}"] = record["explored"]
    return {name: torch.as_tensor(tensor).detach().clone() for name, tensor in found.items()}


def numbers_of(run):
    """What is no tensor: options, clocks, learning rates."""
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in run.opt.param_groups
    ]
    topology = run.topo.state_dict()
    records = {
        name: {key: value for key, value in record.items() if key != "explored"}
        for name, record in topology["layers"].items()
    }
    return groups, {**topology, "layers": records}, run.lr.state_dict()


def generator_states():
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2:], random.getstate()


def seed_all(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def differences(a, b):
    """Names of the tensors that are not bit-equal."""
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
    return [name for name in a if not equal_bits(a[name], b[name])]


def refused(path, match, build=lambda: Run(seed=1), **options):
    """Loading `path` into a new run raises CheckpointError and changes nothing."""
    run = build()
    run.advance(7)
    tensors, numbers = tensors_of(run), numbers_of(run)
    with pytest.raises(smet.CheckpointError, match=match):
        run.load(path, **options)
    assert differences(tensors, tensors_of(run)) == [] and numbers == numbers_of(run)


def rewrite(step, change):
    """Change the manifest and give it a digest that fits."""
    body = json.loads((step / manifest.NAME).read_bytes())["manifest"]
    change(body)
    (step / manifest.NAME).write_bytes(manifest.dump(body))


def reseal(step, name, content):
    """Replace a file and make the manifest's size and digest fit it."""
    (step / name).write_bytes(content)
    digest = tensor_file.file_digest(step / name)
    rewrite(step, lambda body: body["files"][name].update(bytes=len(content), sha256=digest))
