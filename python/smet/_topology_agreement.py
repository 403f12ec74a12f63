# SPDX-License-Identifier: BSD-3-Clause
"""Data-parallel processes have one topology: by construction, and checked by hash at every update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from smet import _C, _processes


def share_candidates(candidates: Iterable[Tensor | None], group: dist.ProcessGroup | None) -> None:
    """Growth candidates come from each process's own batch: those of the first process count, everywhere."""
    if group is None:
        return
    source = dist.get_global_rank(group, 0)
    for tensor in candidates:
        if tensor is not None:
            dist.broadcast(tensor, source, group=group)


def check_equal(update: _C.TopologyUpdate, group: dist.ProcessGroup | None) -> None:
    """RuntimeError naming the first layer, and the ranks, whose positions differ after `update`.

    One all-reduce of two numbers per layer; the rest is only sent when something is wrong.
    """
    if group is None:
        return
    own = [update.update, *(layer.hash for layer in update.layers)]
    signed = torch.tensor([value - 2**64 if value >= 2**63 else value for value in own], dtype=torch.int64)
    # max(~h) = ~min(h), so one MAX tells whether all are equal.
    both = torch.cat([signed, ~signed])
    if dist.get_backend(group) == "nccl":
        both = both.cuda()
    dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
    largest, smallest = both.cpu().chunk(2)
    if torch.equal(largest, ~smallest):
        return
    names = ["the number of topology updates", *(f"layer '{layer.name}'" for layer in update.layers)]
    by_rank = _processes.gathered(own, group)
    at = next(i for i in range(len(names)) if len({values[i] for values in by_rank}) > 1)
    usual = Counter(values[at] for values in by_rank).most_common(1)[0][0]
    odd = [rank for rank, values in enumerate(by_rank) if values[at] != usual]
    found = ", ".join(f"rank {rank}: {values[at]:x}" for rank, values in enumerate(by_rank))
    raise RuntimeError(
        f"smet: the topology differs between processes after update {update.update}: {names[at]} of rank "
        f"{', '.join(map(str, odd))} ({found}). The processes were given different weights, seeds or "
        "options, or a mask was changed on one of them; resume all from the last checkpoint"
    )
