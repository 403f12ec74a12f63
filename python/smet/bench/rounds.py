# SPDX-License-Identifier: BSD-3-Clause
"""Measuring in rounds: every body once a round, so that a change of the machine's speed meets all of them.

A round whose baseline ran below 85 % of its best rate says more about the machine than about the code: it
counts in no median, and another one is run in its place, up to three times as many as asked for.
Minima are of all rounds: on a busy machine a body's undisturbed moment is seldom the baseline's.
"""

from __future__ import annotations

import itertools
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
    """Seconds of one body or part: minimum of all rounds, median of those that count."""

    minimum: float
    median: float


@dataclass(frozen=True)
class Rounds:
    """Samples of every body, by part, a number for each round; `whole` is all of a body."""

    samples: dict[str, dict[str, list[float]]]
    counts: list[bool]

    @property
    def kept(self) -> int:
        """Rounds that count."""
        return sum(self.counts)

    @property
    def rejected(self) -> int:
        """Rounds that do not."""
        return len(self.counts) - self.kept

    def times(self, body: str, part: str = WHOLE) -> Times:
        """Minimum and median of one part of a body."""
        seconds = self.samples[body][part]
        return Times(min(seconds), statistics.median(itertools.compress(seconds, self.counts)))


def run_rounds(
    bodies: Mapping[str, Body],
    baseline: str,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    seconds: float = 0.0,
) -> Rounds:
    """Run `bodies` in random order until `rounds` rounds count; the first two only warm up.

    Short bodies take more rounds, until `seconds` have passed: a minimum wants an undisturbed moment of each.
    """
    order = list(bodies)
    shuffle = random.Random(0).shuffle
    log: list[dict[str, dict[str, float]]] = []
    began = clock()
    for attempt in itertools.count():
        shuffle(order)
        taken: dict[str, dict[str, float]] = {}
        for name in order:
            start = clock()
            parts = bodies[name]()
            taken[name] = {WHOLE: clock() - start, **(parts or {})}
        if attempt >= _WARM_UP:
            log.append(taken)
        done = len(log) >= _PATIENCE * rounds or sum(_counting(log, baseline)) >= rounds
        if done and clock() - began >= seconds:
            break
    samples = {name: {part: [taken[name][part] for taken in log] for part in log[0][name]} for name in bodies}
    return Rounds(samples, _counting(log, baseline))


def _counting(log: list[dict[str, dict[str, float]]], baseline: str) -> list[bool]:
    seconds = [taken[baseline][WHOLE] for taken in log]
    slowest = min(seconds, default=0.0) / _SLOWEST
    return [taken <= slowest for taken in seconds]
