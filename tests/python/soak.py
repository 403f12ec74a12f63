# SPDX-License-Identifier: BSD-3-Clause
"""Trains a small network for long and prints one line of JSON: soak.py STEPS INTERVAL.

Every topology update is followed by a check of what must hold after any. `rss` is the resident memory in
bytes, read at 200 moments.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

import smet


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check(model, opt):
    """n weights at as many positions, ranks as derived, moments and cohorts of births that have been."""
    for name, layer in smet.sparse_layers(model):
        bits = (layer.mask.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32)) & 1
        assert int(bits.sum()) == layer.values.numel() == layer.nnz, name
        assert not bits.flatten(1)[:, layer.in_features :].any(), name
        assert torch.equal(layer.rank, torch.ops.smet.mask_rank(layer.mask, layer.in_features)), name
        state = opt.state[layer.values]
        assert torch.isfinite(layer.values).all() and torch.isfinite(state["exp_avg"]).all(), name
        assert (state["exp_avg_sq"] >= 0).all(), name
        births = state["births"][state["cohort"].long()]
        assert (births >= 0).all() and (births <= state["step"]).all(), name


def main(steps, interval):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 32), nn.LayerNorm(32), nn.Linear(32, 8))
    smet.sparsify_(model, density=0.3, skip=("4",), seed=1)
    opt = smet.CompactAdamW(model, lr=2e-3, warmup=interval)
    topo = smet.TopologyScheduler(
        model, opt, interval=interval, fraction=0.3, stop=1.0, total_steps=steps + 1, seed=2
    )
    target = torch.randn(48, 8)
    rss = []
    for step in range(steps):
        x = torch.randn(16, 48)
        nn.functional.mse_loss(model(x), torch.tanh(x @ target)).backward()
        opt.step()
        if topo.step() is not None:
            check(model, opt)
        opt.zero_grad()
        if step % (steps // 200) == 0:
            rss.append(resident())
    digest = hashlib.sha256(str(topo.hash()).encode())
    for name, param in model.named_parameters():
        digest.update(name.encode())
        for tensor in (param.detach(), *opt.state[param].values()):
            digest.update(
                torch.as_tensor(tensor).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
    print(json.dumps({"hash": digest.hexdigest(), "updates": topo.updates, "rss": rss}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
