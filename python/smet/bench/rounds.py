# SPDX-License-Identifier: BSD-3-Clause
"""Measuring in rounds: every body once a round, so that a change of the machine's speed meets all of them.

A ratio is taken within each round, and the median of these is reported. On a busy machine it differed by up
to 18 % from one run to the next; the quotient of two minima, or of two medians, by up to 34 %.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Body = Callable[[], Mapping[str, float] | None]  # returns seconds of its parts, or nothing

WHOLE = "whole"
_WARM_UP = 2


@dataclass(frozen=True)
class Times:
    """Seconds of one body or part: minimum and median of all rounds."""

    minimum: float
    median: float


@dataclass(frozen=True)
class Rounds:
    """Samples of every body, by part, a number for each round; `whole` is all of a body."""

    samples: dict[str, dict[str, list[float]]]

    @staticmethod
    def joined(sweeps: Sequence[Rounds]) -> Rounds:
        """The rounds of several runs of the same bodies."""
        return Rounds(
            {
                body: {
                    part: [taken for sweep in sweeps for taken in sweep.samples[body][part]] for part in parts
                }
                for body, parts in sweeps[0].samples.items()
            }
        )

    @property
    def count(self) -> int:
        """How many they are."""
        return len(next(iter(self.samples.values()))[WHOLE])

    def times(self, body: str, part: str = WHOLE) -> Times:
        """Minimum and median of one part of a body."""
        seconds = self.samples[body][part]
        return Times(min(seconds), statistics.median(seconds))

    def ratio(self, body: str, baseline: str, part: str = WHOLE) -> float | None:
        """Median of a part's seconds over the baseline's of the same round; None where those are 0."""
        pairs = zip(self.samples[body][part], self.samples[baseline][part], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return statistics.median(ratios) if ratios else None


def run_rounds(
    bodies: Mapping[str, Body],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    seconds: float = 0.0,
    sweep: int = 0,
) -> Rounds:
    """Run `bodies` in an order that every `sweep` draws anew, `rounds` times after two that only warm up.

    Short bodies take more rounds, until `seconds` have passed: a minimum wants an undisturbed moment of each.
    """
    order = list(bodies)
    shuffle = random.Random(sweep).shuffle
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
        if len(log) >= rounds and clock() - began >= seconds:
            break
    return Rounds(
        {name: {part: [taken[name][part] for taken in log] for part in log[0][name]} for name in bodies}
    )
