# SPDX-License-Identifier: BSD-3-Clause
"""smet::topology_update_ against the update written out plainly, byte for byte."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topology_helpers import OPS, bits, pack, plain_update, unpack

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 1e-40, -3e38, math.inf, -math.inf, math.nan])
SCORES = st.one_of(VALUES, st.floats(-2, 2, width=16))
COLUMNS = st.sampled_from([1, 2, 31, 32, 33, 63, 70, 1023, 1024, 1025, 1100])


@st.composite
def layers(draw):
    """A packed layer with moments and cohorts, and an update that fits it."""
    cols = draw(COLUMNS)
    rows = draw(st.integers(1, 2 if cols > 100 else 9))
    n = draw(st.integers(0, min(rows * cols, 400)))
    k = draw(st.integers(0, min(n, rows * cols - n)))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    dense = torch.zeros(rows * cols, dtype=torch.bool)
    dense[torch.randperm(rows * cols, generator=generator)[:n]] = True
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    pool = torch.tensor(draw(st.lists(SCORES, min_size=1, max_size=40)), dtype=torch.float64)
    score = pool[torch.randint(len(pool), (n,), generator=generator)].to(dtype)
    given_positions = None
    if draw(st.booleans()):
        free = (~dense).nonzero().flatten()
        given_positions = free[torch.randperm(len(free), generator=generator)[:k]]
    return {
        "dense": dense.reshape(rows, cols),
        "values": torch.randn(n, generator=generator).to(dtype),
        "moments": [
            torch.randn(n, generator=generator),
            torch.rand(n, generator=generator, dtype=torch.float64),
        ],
        "cohort": torch.randint(0, 4, (n,), generator=generator, dtype=torch.uint8),
        "score": score,
        "magnitude": draw(st.booleans()),
        "k": k,
        "grown": given_positions,
        "newborn": draw(st.sampled_from([1, 2, 255])),
        "key": draw(st.integers(-(2**63), 2**63 - 1)),
        "update": draw(st.integers(0, 2**32 - 1)),
    }


def run(layer):
    """The operator on copies; returns (mask, rank, values, moments, cohort, result)."""
    cols = layer["dense"].shape[1]
    mask = pack(layer["dense"])
    rank = OPS.mask_rank(mask, cols)
    values, cohort = layer["values"].clone(), layer["cohort"].clone()
    moments = [m.clone() for m in layer["moments"]]
    arguments = (layer["score"], layer["magnitude"], cols, layer["k"], layer["grown"])
    keys = (layer["newborn"], layer["key"], layer["update"])
    result = OPS.topology_update_(values, mask, rank, moments, cohort, *arguments, *keys)
    return mask, rank, values, moments, cohort, result


@settings(max_examples=150, deadline=None)
@given(layers())
def test_equals_the_plain_update_byte_for_byte(layer):
    """T1, T2, T4, T5, T6, T7, S3, G6: NaN first, ties by position, survivors' bits, newborns 0, died."""
    cols = layer["dense"].shape[1]
    mask, rank, values, moments, cohort, result = run(layer)
    grown = None if layer["grown"] is None else layer["grown"].tolist()
    arrays = [bits(t) for t in (layer["values"], *layer["moments"])]
    new, new_arrays, new_cohort, nan_count, died = plain_update(
        layer["dense"],
        arrays,
        layer["cohort"].tolist(),
        layer["score"],
        layer["magnitude"],
        layer["k"],
        grown,
        layer["newborn"],
        layer["key"] % 2**64,
        layer["update"],
    )
    assert torch.equal(unpack(mask, cols), new)
    assert torch.equal(mask, pack(new)), "pad bits are set"
    assert torch.equal(rank, OPS.mask_rank(mask, cols))
    assert [bits(t) for t in (values, *moments)] == new_arrays
    assert cohort.tolist() == new_cohort
    assert result.tolist() == [layer["k"], nan_count, *died]
    regrown = new & ~layer["dense"]
    assert int(regrown.sum()) == layer["k"], "T6: a pruned entry came back"


@settings(max_examples=30, deadline=None)
@given(layers())
def test_nothing_to_replace_changes_nothing(layer):
    """T3"""
    layer |= {"k": 0, "grown": None, "newborn": 9}
    mask, _, values, moments, cohort, result = run(layer)
    assert torch.equal(mask, pack(layer["dense"]))
    assert bits(values) == bits(layer["values"])
    assert [bits(m) for m in moments] == [bits(m) for m in layer["moments"]]
    assert torch.equal(cohort, layer["cohort"])
    assert int(result[0]) == 0 and not result[2:].any()


def test_ties_go_by_flat_position():
    """T7: all magnitudes equal, so the first k positions are pruned."""
    dense = torch.zeros(7, 45, dtype=torch.bool)
    dense.view(-1)[::2] = True
    mask, n = pack(dense), int(dense.sum())
    score = torch.ones(n)
    score[1::2] = -1
    new, nan = OPS.topology_plan(mask, OPS.mask_rank(mask, 45), score, True, 45, 40, None, 1, 1)
    kept = (unpack(new, 45) & dense).flatten().nonzero().flatten()
    assert kept.tolist() == dense.flatten().nonzero().flatten()[40:].tolist()
    assert int(nan) == 0


def test_a_row_of_256_cohorts_is_counted():
    """died[] of every id at once."""
    dense = torch.zeros(16, 64, dtype=torch.bool)
    dense.view(-1)[:512] = True
    cohort = torch.arange(512).remainder(256).to(torch.uint8)
    layer = {
        "dense": dense,
        "values": torch.ones(512),
        "moments": [],
        "cohort": cohort,
        "score": torch.cat([torch.zeros(256), torch.ones(256)]),
        "magnitude": True,
        "k": 256,
        "grown": None,
        "newborn": 7,
        "key": 1,
        "update": 1,
    }
    *_, new_cohort, result = run(layer)
    assert result[2:].tolist() == [1] * 256
    counts = torch.bincount(new_cohort.long(), minlength=256)
    assert counts[7] == 256  # newborns; the survivor that carried 7 is mature now
    assert counts[0] == 2 and counts[1:].sum() == 510


BROKEN = {
    "k above active": ({"k": 9}, ValueError, "k is 9; expected 0 to 8"),
    "negative k": ({"k": -1}, ValueError, "k is -1"),
    "score of another length": ({"score": torch.zeros(7)}, ValueError, "8 active positions, but there are 7"),
    "integer score": ({"score": torch.zeros(8, dtype=torch.int64)}, TypeError, "score has dtype"),
    "2-D score": ({"score": torch.zeros(4, 2)}, ValueError, "score has shape"),
    "short moment": ({"moments": [torch.zeros(7)]}, ValueError, "a moment or gradient has shape"),
    "complex moment": (
        {"moments": [torch.zeros(8, dtype=torch.complex128)]},
        TypeError,
        "elements of 1, 2, 4 or 8 bytes",
    ),
    "strided moment": ({"moments": [torch.zeros(16)[::2]]}, ValueError, "expected contiguous"),
    "float cohort": ({"cohort": torch.zeros(8)}, TypeError, "cohort has dtype"),
    "cohort 0": ({"newborn": 0}, ValueError, "newborn_cohort is 0"),
    "cohort 256": ({"newborn": 256}, ValueError, "newborn_cohort is 256"),
    "positions too few": ({"grown": torch.tensor([1])}, ValueError, r"expected \[2\]"),
    "positions int32": ({"grown": torch.tensor([1, 3]).int()}, TypeError, "expected int64"),
    "position negative": ({"grown": torch.tensor([-1, 3])}, ValueError, "position -1 is out of range"),
    "position beyond": ({"grown": torch.tensor([1, 16])}, ValueError, "position 16 is out of range"),
    "position active": ({"grown": torch.tensor([1, 2])}, ValueError, "position 2 is active"),
    "position twice": ({"grown": torch.tensor([3, 3])}, ValueError, "position 3 is given twice"),
    "update too large": ({"update": 2**32}, ValueError, "update is 4294967296"),
}


def small_layer():
    dense = torch.zeros(4, 4, dtype=torch.bool)
    dense.view(-1)[::2] = True
    return {
        "dense": dense,
        "values": torch.arange(8.0),
        "moments": [torch.arange(8.0), torch.arange(8.0)],
        "cohort": torch.zeros(8, dtype=torch.uint8),
        "score": torch.arange(8.0),
        "magnitude": True,
        "k": 2,
        "grown": None,
        "newborn": 1,
        "key": 1,
        "update": 1,
    }


@pytest.mark.parametrize("case", BROKEN)
def test_a_refusal_changes_nothing(case):
    """T14"""
    change, error, message = BROKEN[case]
    layer = small_layer() | change
    mask = pack(layer["dense"])
    rank = OPS.mask_rank(mask, 4)
    tensors = [layer["values"], mask, rank, *layer["moments"], layer["cohort"]]
    before = [t.clone() for t in tensors]
    with pytest.raises(error, match=message):
        OPS.topology_update_(
            *tensors[:3],
            layer["moments"],
            layer["cohort"],
            layer["score"],
            layer["magnitude"],
            4,
            layer["k"],
            layer["grown"],
            layer["newborn"],
            layer["key"],
            layer["update"],
        )
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_shared_moments_and_foreign_ranks_are_refused():
    layer = small_layer()
    mask, moment = pack(layer["dense"]), torch.zeros(8)
    rank = OPS.mask_rank(mask, 4)
    rest = (layer["cohort"], layer["score"], True, 4, 2, None, 1, 1, 1)
    with pytest.raises(ValueError, match="share memory"):
        OPS.topology_update_(layer["values"], mask, rank, [moment, moment], *rest)
    with pytest.raises(ValueError, match="rank does not belong to mask"):
        OPS.topology_update_(layer["values"], mask, rank + 1, [moment], *rest)
    mask[0, 0] |= 1 << 10
    with pytest.raises(ValueError, match="beyond column 4"):
        OPS.topology_update_(layer["values"], mask, rank, [moment], *rest)
    assert layer["values"].tolist() == list(range(8)) and not moment.any()


def test_commit_checks_the_new_mask_and_scratch():
    layer = small_layer()
    mask = pack(layer["dense"])
    rank = OPS.mask_rank(mask, 4)
    scratch = torch.empty(32, dtype=torch.uint8)
    arguments = (layer["values"], mask, rank, layer["moments"], layer["cohort"])
    fewer = mask.clone()
    fewer[0, 0] &= ~1
    with pytest.raises(ValueError, match="new_mask has 7 active positions; expected 8"):
        OPS.topology_commit_(*arguments, fewer, 4, 1, scratch)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        OPS.topology_commit_(*arguments, mask, 4, 1, scratch[:31])
    odd = torch.empty(64, dtype=torch.uint8)[1:]
    with pytest.raises(ValueError, match=r"at a multiple of 1 bytes; expected .* at a multiple of 8"):
        OPS.topology_commit_(*arguments, mask, 4, 1, odd)
    assert layer["values"].tolist() == list(range(8))


def test_autograd_notices_a_topology_change():
    """A backward through what was saved before the update raises instead of using moved weights."""
    layer = small_layer()
    mask = pack(layer["dense"])
    rank = OPS.mask_rank(mask, 4)
    values = layer["values"].requires_grad_()
    output = OPS.sparse_linear(torch.ones(2, 4, requires_grad=True), values, mask, rank)
    with torch.no_grad():
        OPS.topology_update_(values, mask, rank, [], None, layer["score"], True, 4, 2, None, 1, 1, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
