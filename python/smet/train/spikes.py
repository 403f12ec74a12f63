# SPDX-License-Identifier: BSD-3-Clause
"""Loss jumps after topology updates, without the trend that a falling loss puts into them.

An update after step t shows first in the loss of step t + 1, which sees only the prune; newborns act from
step t + 2 on. So, with losses numbered by step (the loss of step s is that before the s-th optimizer step)::

    jump   = mean(loss[t+2 .. t+11]) - mean(loss[t-9 .. t])
    trend  = the same difference of the least-squares line through loss[t-W+1 .. t]
    spike  = jump - trend = jump - 11 * slope

Where a run without topology updates saw the same data, the paired jump is `jump` on the differences of the
losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

AROUND = 10  # steps in each of the two means
_FIRST_AFTER = 2  # the first step that newborns act on, counted from the update
_FEWEST = 20  # losses that a trend needs


@dataclass(frozen=True)
class Spikes:
    """Jumps at several steps: their mean, their largest and their standard error."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean; None without any."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def largest(self) -> float | None:
        """Largest; None without any."""
        return max(self.values) if self.values else None

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None with fewer than two."""
        if len(self.values) < 2:
            return None
        return float(np.std(self.values, ddof=1) / math.sqrt(len(self.values)))


def jump(losses: Sequence[float], update: int) -> float | None:
    """Mean loss of the 10 steps from the second after `update` on, minus that of the 10 before.

    `losses[0]` is the loss of step 1; `update` is the number t of steps done when the topology changed.
    None where the run has too few steps on either side.
    """
    after = losses[update + _FIRST_AFTER - 1 : update + _FIRST_AFTER - 1 + AROUND]
    before = losses[update - AROUND : update] if update >= AROUND else []
    if len(after) < AROUND or len(before) < AROUND:
        return None
    return float(np.mean(after) - np.mean(before))


def spike(losses: Sequence[float], update: int, window: int) -> float | None:
    """The detrended jump (see above); the trend is fitted on the `window` steps up to the update."""
    raw = jump(losses, update)
    history = np.asarray(losses[max(0, update - window) : update], dtype=np.float64)
    if raw is None or len(history) < _FEWEST:
        return None
    slope = np.polyfit(np.arange(len(history)), history, 1)[0]
    return float(raw - slope * (AROUND + _FIRST_AFTER - 1))


def spikes(losses: Sequence[float], updates: Iterable[int], window: int) -> Spikes:
    """The detrended jump at every update that has one."""
    found = (spike(losses, update, window) for update in updates)
    return Spikes(tuple(value for value in found if value is not None))


def quiet_spikes(losses: Sequence[float], updates: Sequence[int], window: int) -> Spikes:
    """The same statistic half an interval after each update, where nothing happens: what noise gives."""
    return spikes(losses, (update + window // 2 for update in updates), window)


def paired_jumps(losses: Sequence[float], control: Sequence[float], updates: Iterable[int]) -> Spikes:
    """Jumps of losses - control; both runs saw the same data, so that most of the noise cancels."""
    differences = [a - b for a, b in zip(losses, control, strict=False)]
    found = (jump(differences, update) for update in updates)
    return Spikes(tuple(value for value in found if value is not None))
