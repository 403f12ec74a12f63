# SPDX-License-Identifier: BSD-3-Clause
"""Training in several processes, as torchrun starts them: plain DistributedDataParallel over gloo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smet import _processes

T = TypeVar("T")


@dataclass(frozen=True)
class Parallel:
    """This process among the others; alone by default."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the processes."""
        return DistributedDataParallel(model) if self.world > 1 else model

    def accumulating(self, model: nn.Module) -> AbstractContextManager[None]:
        """Around the backward passes of a step but its last: gradients are exchanged once a step."""
        if isinstance(model, DistributedDataParallel):
            context: AbstractContextManager[None] = model.no_sync()
            return context
        return nullcontext()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any process."""
        return bool(_processes.largest(int(flag), _processes.group_of("default")))

    def mean(self, value: float) -> float:
        """Mean over the processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item() / self.world

    def main_first(self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0, then on the others, which find what it wrote; a failure raises on all."""
        if self.is_main:
            return _processes.together(action)
        _processes.together(lambda: None)
        return action()

    def from_main(self, action: Callable[[], T]) -> T:
        """Run `action` on rank 0; its result everywhere. A failure raises on all."""
        result = _processes.together(lambda: action() if self.is_main else None)
        found: Any = _processes.gathered(result)[0]
        return found  # type: ignore[no-any-return]


@contextmanager
def parallel_run(device: torch.device) -> Iterator[Parallel]:
    """The processes that torchrun started, joined; one process by itself without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield Parallel(*_processes.rank_and_world())
        return
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield Parallel(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
