# SPDX-License-Identifier: BSD-3-Clause
"""Measuring in rounds: every body once a round, so that a change of the machine's speed meets all of them.

A round whose baseline ran below 85 % of its best rate says more about the machine than about the code: it is
rejected for all bodies alike, and another one is run in its place, up to three times as many as asked for.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Body = Callable[[], Mapping[str, float] | None]  # returns seconds of its parts, or nothing

WHOLE = "whole"
_WARM_UP = 2
_SLOWEST = 0.85  # of the baseline's best rate
_PATIENCE = 3


@dataclass(frozen=True)
class Times:
    """Seconds of one body or part over the rounds that count."""

    minimum: float
    median: float


@dataclass(frozen=True)
class Rounds:
    """Samples of every body, by part; `whole` is all of it."""

    samples: dict[str, dict[str, list[float]]]
    kept: int
    rejected: int

    def times(self, body: str, part: str = WHOLE) -> Times:
        """Minimum and median of one part of a body."""
        seconds = self.samples[body][part]
        return Times(min(seconds), statistics.median(seconds))


def run_rounds(
    bodies: Mapping[str, Body],
    baseline: str,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Run `bodies` in random order until `rounds` rounds count; the first two only warm up."""
    order = list(bodies)
    shuffle = random.Random(0).shuffle
    log: list[dict[str, dict[str, float]]] = []
    for attempt in range(_PATIENCE * rounds + _WARM_UP):
        shuffle(order)
        taken: dict[str, dict[str, float]] = {}
        for name in order:
            start = clock()
            parts = bodies[name]()
            taken[name] = {WHOLE: clock() - start, **(parts or {})}
        if attempt >= _WARM_UP:
            log.append(taken)
        if len(_counting(log, baseline)) >= rounds:
            break
    counting = _counting(log, baseline)
    samples = {
        name: {part: [taken[name][part] for taken in counting] for part in counting[0][name]}
        for name in bodies
    }
    return Rounds(samples, len(counting), len(log) - len(counting))


def _counting(log: list[dict[str, dict[str, float]]], baseline: str) -> list[dict[str, dict[str, float]]]:
    if not log:
        return []
    slowest = min(taken[baseline][WHOLE] for taken in log) / _SLOWEST
    return [taken for taken in log if taken[baseline][WHOLE] <= slowest]
