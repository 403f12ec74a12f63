# SPDX-License-Identifier: BSD-3-Clause
"""A manifest that lies, with a digest that fits: any value of it replaced by any other is refused by name."""

import copy
import shutil

import pytest
import torch
from torch import nn

import smet
from smet.checkpoint import manifest

pytestmark = pytest.mark.usefixtures("one_thread")
ODD = [
    *(None, True, -1, 2**63, 10**400, 1.5, 1e308, "x", [], {}, [1], ["x"], {"x": 1}),
    *({"$tensor": "x"}, {"$dict": [1]}, {"$dict": [[{"$tuple": [[]]}, 1]]}, {"$tuple": 3}, {"$float": []}),
]
GONE = object()


def build():
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    net.append(net[0])  # an alias
    smet.sparsify_(net, density=0.5, skip=())
    opt = smet.CompactAdamW(net, lr=1e-2)
    topo = smet.TopologyScheduler(net, opt, interval=2, total_steps=100, track_explored=True)
    return net, opt, topo, torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)


def places(value, path=()):
    """Paths of all values inside `value`; of the tensors' own entries only those of one file."""
    if path[:1] == ("files",) and len(path) > 3 and path[1] != "run.safetensors":
        return
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))
        else:
            yield (*path, key)


def replaced(body, path, value):
    body = copy.deepcopy(body)
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return body


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    net, opt, topo, schedule = build()
    for _ in range(5):
        net[2](net[1](net[0](torch.randn(20, 16)))).square().mean().backward()
        opt.step()
        schedule.step()
        topo.step()
        opt.zero_grad()
    extra = {"text": "x", "pair": (1, 2.5), "tensor": torch.ones(2), "map": {3: [None, float("inf")]}}
    root = tmp_path_factory.mktemp("saved")
    return smet.save_checkpoint(root, net, opt, topo, step=5, lr_scheduler=schedule, extra=extra)


def test_x5_any_value_of_the_manifest_replaced_is_loaded_or_refused_by_name(saved, tmp_path):
    body = manifest.read(saved)
    lie = shutil.copytree(saved, tmp_path / saved.name)
    net, opt, topo, schedule = build()
    refused = 0
    for path in places(body):
        if path[:2] in (("run", "extra"), ("run", "lr_scheduler")):
            continue  # what the caller gave, whatever it is; see below
        for value in (*ODD, GONE):
            try:
                text = manifest.dump(replaced(body, path, value))
            except smet.CheckpointError:  # an integer that has too many digits for JSON
                continue
            (lie / "manifest.json").write_bytes(text)
            try:
                smet.load_checkpoint(lie, net, opt, topo, lr_scheduler=schedule)
            except smet.CheckpointError:
                refused += 1
            except Exception as error:
                pytest.fail(f"{path} = {value!r}: {type(error).__name__}: {error}")
    assert refused > 1000


@pytest.mark.parametrize("value", [{"$dict": [1]}, {"$dict": [[[], 1]]}, {"$counter": 3}, {"$float": "q"}])
def test_x5_values_of_the_caller_that_no_version_writes(saved, tmp_path, value):
    lie = shutil.copytree(saved, tmp_path / saved.name)
    body = replaced(manifest.read(saved), ("run", "extra", "map"), value)
    (lie / "manifest.json").write_bytes(manifest.dump(body))
    with pytest.raises(smet.CheckpointError, match="nothing was changed"):
        smet.load_checkpoint(lie, build()[0])
