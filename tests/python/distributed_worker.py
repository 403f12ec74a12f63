# SPDX-License-Identifier: BSD-3-Clause
"""What test_distributed.py runs in each gloo process: python distributed_worker.py RANK WORLD FOLDER [NAMES].

Every scenario (those named, or all) returns what the tests look at; rank R writes FOLDER/R.pt.
"""

import datetime
import sys
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel as DDP

import smet

INTERVAL, STEPS = 3, 10
ROWS = 12  # of a step's batch: dealt out evenly to 2, 3 and 4 processes


def build(seed=0, dtype=torch.float64, topology_seed=0, grow="random", **options):
    """A sparse model; n of the first layer is odd."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(13, 21), nn.Tanh(), nn.Linear(21, 9), nn.Tanh(), nn.Linear(9, 5)).to(
        dtype
    )
    smet.sparsify_(model, density=0.37, skip=("4",), seed=topology_seed)
    opt = smet.CompactAdamW(model, lr=1e-2, **options)
    topo = smet.TopologyScheduler(
        model, opt, interval=INTERVAL, fraction=0.3, total_steps=STEPS, stop=1.0, grow=grow
    )
    return model, opt, topo


def batch(step, part, rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(100 * step + part)
    return torch.randn(rows, 13, generator=generator, dtype=torch.float64).to(dtype)


def train(replica, model, opt, topo, first, last, rank, world, accumulate=1, clip=None, sharded=False):
    """Each step's rows are dealt out to the processes; returns the norms before clipping."""
    norms = []
    for step in range(first, last):
        opt.zero_grad()
        for part in range(accumulate):
            x = batch(step, part, ROWS, next(model.parameters()).dtype)
            mine = x.chunk(world)[rank] if world > 1 else x
            inside = isinstance(replica, DDP) and part < accumulate - 1
            with replica.no_sync() if inside else nullcontext():
                (replica(mine).square().mean() / accumulate).backward()
        if sharded:
            smet.average_sparse_gradients(model)
        if clip:
            clip_ = smet.clip_grad_norm_ if sharded else torch.nn.utils.clip_grad_norm_
            norms.append(float(clip_(model if sharded else model.parameters(), clip)))
        opt.step()
        topo.step()
    return norms


def tensors(model, opt):
    found = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, param in model.named_parameters():
        found |= {f"{name} {key}": value.clone() for key, value in opt.state[param].items()}
    return found


def run(rank, world, **options):
    model, opt, topo = build(**options)
    replica = DDP(model) if world > 1 else model
    norms = train(replica, model, opt, topo, 0, STEPS, rank, world, clip=0.5)
    return {"tensors": tensors(model, opt), "hash": topo.hash(), "norms": norms}


def ddp(rank, world, folder):
    return run(rank, world)


def ddp_fp32_gradient_growth(rank, world, folder):
    return run(rank, world, dtype=torch.float32, grow="gradient")


def different_torch_seeds(rank, world, folder):
    return run(rank, world, seed=rank)


def full(found):
    return {name: whole(t) if isinstance(t, DTensor) else t for name, t in found.items()}


def whole(tensor):
    """Gathered; neither gloo nor NCCL can send int16."""
    wide = tensor.int() if tensor.dtype == torch.int16 else tensor
    return wide.full_tensor().to(tensor.dtype)


def shard(model, **options):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[4], mesh=mesh, **options)  # a dense layer by itself, the rest in one piece
    return fully_shard(model, mesh=mesh, **options)


def fsdp2(rank, world, folder, dtype=torch.float64, **options):
    """Dense parameters sharded, sparse layers whole: the result of DDP. Saved and loaded by torch's DCP."""
    model, _, _ = build(dtype=dtype)
    shard(model, ignored_params=smet.sparse_parameters(model))
    sharded = [name for name, param in model.named_parameters() if isinstance(param, DTensor)]
    opt = smet.CompactAdamW(model, lr=1e-2, **options)
    topo = smet.TopologyScheduler(model, opt, interval=INTERVAL, fraction=0.3, total_steps=STEPS, stop=1.0)
    norms = train(model, model, opt, topo, 0, 5, rank, world, clip=0.5, sharded=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"topology": topo.state_dict()}
        state["model"], state["opt"] = get_state_dict(model, opt)
        dcp.save(state, checkpoint_id=folder / f"dcp {dtype}")
    norms += train(model, model, opt, topo, 5, STEPS, rank, world, clip=0.5, sharded=True)
    end = full(tensors(model, opt))
    refused = error_of(lambda: smet.save_checkpoint(folder / "fsdp", model, opt, topo, step=1))

    other, _, _ = build(seed=6, topology_seed=6, dtype=dtype)
    shard(other, ignored_params=smet.sparse_parameters(other))
    other_opt = smet.CompactAdamW(other, lr=1e-2, **options)
    other_topo = smet.TopologyScheduler(
        other, other_opt, interval=INTERVAL, fraction=0.3, total_steps=STEPS, stop=1.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"topology": other_topo.state_dict()}
        state["model"], state["opt"] = get_state_dict(other, other_opt)
        dcp.load(state, checkpoint_id=folder / f"dcp {dtype}")
        set_state_dict(other, other_opt, model_state_dict=state["model"], optim_state_dict=state["opt"])
    other_topo.load_state_dict(state["topology"])
    train(other, other, other_opt, other_topo, 5, STEPS, rank, world, clip=0.5, sharded=True)
    again = full(tensors(other, other_opt))
    return {
        "sharded": sharded,
        "tensors": end,
        "hash": topo.hash(),
        "norms": norms,
        "refused": refused,
        "dcp": [name for name in end if not torch.equal(end[name], again[name])],
    }


def fsdp2_master_weights(rank, world, folder):
    return fsdp2(rank, world, folder, dtype=torch.bfloat16, master_weights=True)


def fsdp2_without_ignored_params(rank, world, folder):
    model, _, _ = build()
    shard(model)
    with_topology = error_of(lambda: smet.TopologyScheduler(model, total_steps=9))
    return {"optimizer": error_of(lambda: smet.CompactAdamW(model)), "topology": with_topology}


def error_of(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def desync(rank, world, folder):
    """A position of layer 2 moves on the last rank, after the first update."""
    model, opt, topo = build()
    replica = DDP(model)
    train(replica, model, opt, topo, 0, INTERVAL + 1, rank, world)
    if rank == world - 1:
        layer = model[2]
        row = next(r for r in range(9) if int(layer.mask[r, 0]) & 3 in (1, 2))
        layer.mask[row, 0] ^= 3
        layer.set_mask(layer.mask.clone())
    steps = 0

    def go_on():
        nonlocal steps
        for step in range(INTERVAL + 1, STEPS):
            train(replica, model, opt, topo, step, step + 1, rank, world)
            steps += 1

    return {"error": error_of(go_on), "steps": steps}


def flipped_bit(rank, world, folder):
    """One bit of layer 2's mask flips on the last rank, as a faulty memory would flip it."""
    model, opt, topo = build()
    replica = DDP(model)
    train(replica, model, opt, topo, 0, INTERVAL + 1, rank, world)
    if rank == world - 1:
        model[2].mask[0, 0] ^= 4
    return {"error": error_of(lambda: train(replica, model, opt, topo, INTERVAL + 1, STEPS, rank, world))} | {
        "steps": topo.steps
    }


def desync_of_seeds(rank, world, folder):
    model, opt, topo = build(topology_seed=0)
    topo = smet.TopologyScheduler(model, opt, interval=2, total_steps=9, seed=rank)
    return {"error": error_of(lambda: train(DDP(model), model, opt, topo, 0, 9, rank, world))}


def nan_raise(rank, world, folder):
    """One process has a bad gradient of its own, without DDP, which would spread it."""
    model, opt, topo = build(on_nonfinite="raise")
    train(model, model, opt, topo, 0, 2, 0, 1)
    before = tensors(model, opt)
    model[0].values.grad.zero_()
    if rank == 1:
        model[2].values.grad[4] = float("nan")
    error = error_of(opt.step)
    return {"error": error, "unchanged": all(map(torch.equal, before.values(), tensors(model, opt).values()))}


def nan_skip(rank, world, folder):
    model, opt, topo = build(on_nonfinite="skip")
    replica = DDP(model)
    for step in range(STEPS):
        opt.zero_grad()
        replica(batch(step, rank, 4)).square().mean().backward()
        if step in (2, 6) and rank == 1:
            model[0].values.grad[0] = float("inf")
        opt.step()
        topo.step()
    return {
        "skipped": opt.skipped_steps,
        "steps": topo.steps,
        "hash": topo.hash(),
        "tensors": tensors(model, opt),
    }


def shipped_bytes(rank, world, folder):
    """Buffers that DDP broadcasts before a forward pass; numbers exchanged in a step of three backwards."""
    model, opt, topo = build(dtype=torch.float32)
    replica = DDP(model)
    sent = []

    def count(state, bucket):
        sent.append(bucket.buffer().numel())
        return default_hooks.allreduce_hook(state, bucket)

    replica.register_comm_hook(None, count)
    train(replica, model, opt, topo, 0, 1, rank, world, accumulate=2)
    sent.clear()
    train(replica, model, opt, topo, 1, 2, rank, world, accumulate=3)
    ignored = replica.parameters_to_ignore
    return {
        "buffers": sorted(name for name, _ in replica.named_buffers() if name[7:] not in ignored),
        "broadcast": len(replica.modules_buffers),
        "gradients": sent,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def hand_built(rank, world, folder):
    """Models that sparsify_ never saw: buffers that DDP broadcasts, and what a scheduler says when late."""

    def build_by_hand():
        return nn.Sequential(
            smet.SparseLinear(13, 21, name="0"), nn.Tanh(), smet.SparseLinear(21, 5, name="2")
        )

    model = build_by_hand()
    smet.TopologyScheduler(model, interval=INTERVAL, total_steps=STEPS)
    late, quiet = DDP(build_by_hand()), DDP(build_by_hand(), broadcast_buffers=False)
    smet.TopologyScheduler(quiet, interval=INTERVAL, total_steps=STEPS)
    try:
        smet.TopologyScheduler(late, interval=INTERVAL, total_steps=STEPS)
        said = ""
    except ValueError as error:
        said = str(error)
    return {"broadcast": len(DDP(model).modules_buffers), "late": len(late.modules_buffers), "said": said}


def checkpoints(rank, world, folder):
    """Saved by both, resumed by both and, in the test, by one process; then a failure to write on rank 0."""
    model, opt, topo = build(seed=rank)
    replica = DDP(model)
    train(replica, model, opt, topo, 0, 5, rank, world)
    torch.manual_seed(50 + rank)
    path = smet.save_checkpoint(folder / "ddp", model, opt, topo, step=5, extra={"rank": rank})
    noise = torch.rand(3)
    train(replica, model, opt, topo, 5, STEPS, rank, world)
    whole = tensors(model, opt)
    other, other_opt, other_topo = build(seed=7)
    found = smet.load_checkpoint(folder / "ddp", DDP(other), other_opt, other_topo)
    same_noise = torch.equal(noise, torch.rand(3))
    train(DDP(other), other, other_opt, other_topo, 5, STEPS, rank, world)
    resumed = all(map(torch.equal, whole.values(), tensors(other, other_opt).values()))
    if rank == 0:
        (folder / "file").write_text("")
    dist.barrier()
    failure = error_of(lambda: smet.save_checkpoint(folder / "file", model, opt, topo, step=6))
    missing = folder / "ddp" if rank == 0 else folder / "elsewhere"
    load_failure = error_of(lambda: smet.load_checkpoint(missing, model))
    return {
        "path": str(path),
        "extra": found.extra,
        "resumed": resumed,
        "same_noise": same_noise,
        "failure": failure,
        "load_failure": load_failure,
        "end": whole,
    }


def fused_backward(rank, world, folder):
    """Gradients of one process must not update anything before they are averaged."""
    model, opt, _ = build(fused_backward=True)
    before = [param.detach().clone() for param in model.parameters()]
    error = ""
    try:
        DDP(model)(batch(0, rank, 4)).sum().backward()
    except RuntimeError as refused:
        error = str(refused)
    same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return {"error": error, "unchanged": same and int(opt.state[model[4].weight]["step"]) == 0}


SCENARIOS = (
    *(ddp, ddp_fp32_gradient_growth, different_torch_seeds, desync, flipped_bit, desync_of_seeds),
    *(nan_raise, nan_skip, shipped_bytes, hand_built, checkpoints),
    *(fsdp2, fsdp2_master_weights, fsdp2_without_ignored_params),
    fused_backward,  # last: its backward pass ends in the middle
)


def main():
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    results = {}
    for scenario in SCENARIOS:
        if sys.argv[4:] and scenario.__name__ not in sys.argv[4:]:
            continue
        try:
            results[scenario.__name__] = scenario(rank, world, folder)
        except Exception:
            results[scenario.__name__] = {"crash": traceback.format_exc()}
            break  # the others wait where this one is not any more
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
