# SPDX-License-Identifier: BSD-3-Clause
"""Shapes that all tests of the layer draw on: a new shape or density in every test is one row here."""

from typing import NamedTuple


class Problem(NamedTuple):
    out: int
    in_: int
    density: float
    tokens: int

    def __str__(self):
        return f"{self.out}x{self.in_}-d{self.density}-t{self.tokens}"


PROBLEMS = [
    Problem(5, 37, 0.3, 4),
    Problem(1, 64, 0.5, 3),  # one row
    Problem(64, 1, 0.5, 3),  # one column
    Problem(31, 127, 0.1, 7),  # primes
    Problem(16, 32, 1.0, 2),  # full
    Problem(33, 1025, 0.02, 5),  # two segments, the second of one column
    Problem(7, 2048, 0.25, 1),  # exact segments
    Problem(128, 352, 0.25, 64),  # a LLaMA of 9 M
]
SMALL = PROBLEMS[:4]
