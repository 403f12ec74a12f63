# SPDX-License-Identifier: BSD-3-Clause
"""Exact counts per layer at a global density."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smet import _C

SHAPES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=8)
DENSITY = st.floats(1e-3, 1.0)


@given(SHAPES, DENSITY)
def test_uniform_is_round_of_each_layer(shapes: list[tuple[int, int]], density: float) -> None:
    counts = _C.distribute(shapes, density, "uniform")
    assert counts == [math.floor(density * (out * cols) + 0.5) for out, cols in shapes]
    assert counts == [_C.active_count(density, *shape) for shape in shapes]


@given(SHAPES, DENSITY)
def test_erk_sums_exactly_and_respects_the_cap(shapes: list[tuple[int, int]], density: float) -> None:
    counts = _C.distribute(shapes, density, "erk")
    assert sum(counts) == math.floor(density * sum(out * cols for out, cols in shapes) + 0.5)
    assert all(0 <= n <= out * cols for n, (out, cols) in zip(counts, shapes, strict=True))


@given(SHAPES, DENSITY)
def test_erk_is_proportional_to_fan_in_plus_fan_out(shapes: list[tuple[int, int]], density: float) -> None:
    """Against water filling in rational arithmetic: every count is within one of its exact quota."""
    sizes = [out * cols for out, cols in shapes]
    budget = Fraction(math.floor(density * sum(sizes) + 0.5))
    quota = [Fraction(0)] * len(shapes)
    pool = list(range(len(shapes)))
    while pool:
        share = budget / max(1, sum(sum(shapes[i]) for i in pool))
        full = [i for i in pool if share * sum(shapes[i]) >= sizes[i]]
        for i in full or pool:
            quota[i] = Fraction(sizes[i]) if full else share * sum(shapes[i])
        if not full:
            break
        budget -= sum(sizes[i] for i in full)
        pool = [i for i in pool if i not in full]
    counts = _C.distribute(shapes, density, "erk")
    assert all(abs(n - q) < 1 + Fraction(1, 10**6) for n, q in zip(counts, quota, strict=True))


@pytest.mark.parametrize("name", _C.distribution_names())
def test_density_one_is_dense(name: str) -> None:
    assert _C.distribute([(3, 5), (100, 7), (1, 1)], 1.0, name) == [15, 700, 1]


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0000001, math.nan, math.inf])
def test_bad_density_is_refused(density: float) -> None:
    """S13"""
    with pytest.raises(ValueError, match=r"expected 0 < density <= 1"):
        _C.distribute([(3, 5)], density)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown distribution 'erdos'; known: 'uniform', 'erk'"):
        _C.distribute([(3, 5)], 0.5, "erdos")
