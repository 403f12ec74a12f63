# SPDX-License-Identifier: BSD-3-Clause
"""Trains a small network and saves every tensor: gpusim_training.py OUT DTYPE GROW MOMENTS [OPERATORS].

GROW "gradient" also trains under a GradScaler that the step itself obeys, and meets two infinities.

With OPERATORS, the library that tests/gpusim/path builds, every operator of smet is the CUDA one, over the
kernels of kernels/cuda that gpusim executes on the CPU.
"""

import sys

import torch

import smet
from captured import Net, numbers

STEPS, INTERVAL = 60, 19


def train(dtype, grow, moments):
    torch.manual_seed(0)
    net = Net().to(dtype)
    opt = smet.CompactAdamW(net, lr=4e-3, weight_decay=0.01, warmup=INTERVAL, moments=moments)
    topo = smet.TopologyScheduler(
        net, opt, interval=INTERVAL, fraction=0.3, stop=1.0, total_steps=STEPS + 1, seed=9, grow=grow
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, enabled=grow == "gradient")
    opt._step_supports_amp_scaling = True
    saved = {}
    for step in range(STEPS):
        opt.zero_grad()
        y = net(numbers(8, 40, step).to(dtype))
        scaler.scale(torch.nn.functional.mse_loss(y.float(), numbers(8, 33, step // 7))).backward()
        if scaler.is_enabled() and step in (18, 40):  # 18: an update would be due
            net.down.values.grad[7] = float("inf")
        scaler.step(opt)
        scaler.update()
        if topo.step():
            saved |= {f"update {topo.updates} {n}": b.clone() for n, b in net.named_buffers()}
    saved |= {n: t.detach() for n, t in [*net.named_parameters(), *net.named_buffers()]}
    for name, parameter in net.named_parameters():
        saved |= {f"{name}.{key}": value for key, value in opt.state[parameter].items()}
    saved |= {"updates": torch.tensor(topo.updates), "steps": torch.tensor(topo.steps)}
    return saved


if __name__ == "__main__":
    out, dtype, grow, moments = sys.argv[1:5]
    torch.set_num_threads(1)
    if len(sys.argv) > 5:
        torch.ops.load_library(sys.argv[5])
    tensors = train(getattr(torch, dtype), grow, moments)
    if len(sys.argv) > 5:
        tensors["launches"] = torch.tensor(torch.ops.smet.gpusim_launches())
    torch.save(tensors, out)
