# SPDX-License-Identifier: BSD-3-Clause
"""Data-parallel training: the topology moves on every process alike, without communication.

torchrun --nproc-per-node 2 examples/python/ddp.py
"""

import argparse

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import smet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=256)
    steps, width = (options := parser.parse_args()).steps, options.width

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)  # the same start everywhere; DDP would send it too
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 64))
    smet.sparsify_(model, density=0.25)  # before the wrapper, which takes the parameters that it finds
    target = torch.randn(64, 64)

    replica = DistributedDataParallel(model)  # averages gradients [n]: a quarter of the traffic, no positions
    opt = smet.CompactAdamW(replica, lr=2e-3)
    topo = smet.TopologyScheduler(replica, opt, interval=max(1, steps // 6), total_steps=steps)

    torch.manual_seed(1 + rank)  # from here on, each process has data of its own
    for step in range(steps):
        x = torch.randn(64, 64)
        loss = torch.nn.functional.mse_loss(replica(x), x @ target)
        opt.zero_grad()
        loss.backward()
        opt.step()
        topo.step()  # compares the hash of all topologies, and raises if one differs
        if rank == 0 and (step + 1) % max(1, steps // 6) == 0:
            print(f"step {step + 1}  loss {loss.item():.4f}  topology {topo.hash():016x}", flush=True)

    hashes = [0] * dist.get_world_size()
    dist.all_gather_object(hashes, topo.hash())
    if rank == 0:
        print(f"{len(hashes)} processes, {len(set(hashes))} topology")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
