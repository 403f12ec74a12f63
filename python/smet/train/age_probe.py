# SPDX-License-Identifier: BSD-3-Clause
"""How far the newest weights move in one step, against all others, at ages 1, 10 and 50."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smet import CompactAdamW, sparse_layers

AGES = (1, 10, 50)
_SAMPLE = 4096  # weights looked at per layer and group: the probe must cost neither time nor memory


@dataclass(frozen=True)
class UpdateSizes:
    """Mean |change| of a weight in one step; `newborn` and `mature` are means over sampled weights."""

    step: int
    update: int  # topology update that grew the newborns
    age: int
    newborn: float
    mature: float


class AgeProbe:
    """Watches the optimizer's steps at which the last grown weights have one of the `AGES`."""

    def __init__(self, model: nn.Module, optimizer: CompactAdamW) -> None:
        self._values = [layer.values for _, layer in sparse_layers(model)]
        self._state = optimizer.state
        self._grown_at: int | None = None
        self._update = 0
        self.result: UpdateSizes | None = None

    def grew(self, step: int, update: int) -> None:
        """Topology update number `update` happened after `step` steps."""
        self._grown_at, self._update = step, update

    def state(self) -> dict[str, int | None]:
        """For checkpoints."""
        return {"grown_at": self._grown_at, "update": self._update}

    def load_state(self, state: dict[str, int | None]) -> None:
        """Continue where `state` was taken."""
        self._grown_at, self._update = state["grown_at"], state["update"] or 0

    @contextmanager
    def watch(self, step: int) -> Iterator[None]:
        """Around all that updates weights in step number `step`; leaves the sizes in `result`, or None."""
        self.result = None
        age = step - self._grown_at if self._grown_at is not None else 0
        if age not in AGES:
            yield
            return
        newborn_id = 1 + (self._update - 1) % 255
        samples = [self._choose(values, newborn_id) for values in self._values]
        before = [[values.detach()[index].clone() for index in pair] for values, pair in samples]
        yield
        moved: tuple[list[Tensor], list[Tensor]] = ([], [])
        for (values, pair), old in zip(samples, before, strict=True):
            for group, index, was in zip(moved, pair, old, strict=True):
                group.append((values.detach()[index].double() - was.double()).abs())
        newborn, mature = (torch.cat(group) for group in moved)
        if len(newborn) and len(mature):
            self.result = UpdateSizes(step, self._update, age, newborn.mean().item(), mature.mean().item())

    def _choose(self, values: Tensor, newborn_id: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Indices of up to _SAMPLE newborn and other weights, evenly spread over the layer."""
        newborn = self._state[values]["cohort"] == newborn_id
        return values, (_spread(newborn.nonzero()[:, 0]), _spread((~newborn).nonzero()[:, 0]))


def _spread(index: Tensor) -> Tensor:
    """A copy: a view would keep the whole index of every layer, 8 bytes for each weight."""
    return index[:: max(1, -(-len(index) // _SAMPLE))].clone()
