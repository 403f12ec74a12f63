# SPDX-License-Identifier: BSD-3-Clause
"""Data-parallel processes and one checkpoint: rank 0 writes, and what fails on one rank fails on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from smet.checkpoint.errors import CheckpointError

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gathered(value: Any) -> list[Any]:
    """`value` of every rank, on every rank."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    result: list[Any] = [None] * world
    dist.all_gather_object(result, value)
    return result


def together(action: Callable[[], T]) -> T:
    """Run `action`; if it fails on any rank, raise on all: its own error there, else one that says so.

    Every rank must call it.
    """
    failure: Exception | None = None
    try:
        value = action()
    except Exception as error:
        failure = error
    reports = gathered(None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    for rank, report in enumerate(reports):
        if report is not None:
            raise CheckpointError(f"rank {rank} failed: {report}")
    return value
