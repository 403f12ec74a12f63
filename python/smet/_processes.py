# SPDX-License-Identifier: BSD-3-Clause
"""Data-parallel processes: they decide together, and what fails on one of them fails on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class OtherRankError(RuntimeError):
    """Another process failed at what all of them do together; its own error is on that rank."""


def group_of(choice: Any) -> Any:
    """The process group that an option means, or None for a process by itself.

    "default": torch.distributed's default group where it is initialised with more than one process.
    """
    if choice is None or not (dist.is_available() and dist.is_initialized()):
        return None
    if isinstance(choice, str) and choice != "default":
        raise ValueError(f'process_group is {choice!r}; expected "default", a process group or None')
    group = dist.group.WORLD if isinstance(choice, str) else choice
    return group if dist.get_world_size(group) > 1 else None


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def largest(value: int, group: Any) -> int:
    """The largest `value` of the group's processes; `value` itself without a group."""
    if group is None:
        return value
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    shared = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=group)
    return int(shared)


def gathered(value: Any, group: Any = None) -> list[Any]:
    """`value` of every process of the group (of all without one), on every one."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    result: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(result, value, group=group)
    return result


def together(action: Callable[[], T], choice: Any = "default") -> T:
    """Run `action`; if it fails on any rank, raise on all: its own error there, else OtherRankError.

    Every process of the group (see `group_of`) must call it.
    """
    group = group_of(choice)
    failure: BaseException | None = None
    try:
        value = action()
    except Exception as error:
        failure = error
    if not largest(int(failure is not None), group):
        return value
    reports = gathered(None if failure is None else f"{type(failure).__name__}: {failure}", group)
    if failure is not None:
        raise failure
    rank, report = next((rank, report) for rank, report in enumerate(reports) if report is not None)
    raise OtherRankError(f"rank {rank} failed: {report}")
