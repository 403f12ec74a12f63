# SPDX-License-Identifier: BSD-3-Clause
"""Lower bounds on a GPU: the byte counts per position, and nothing called a measurement."""

import pytest
from torch import nn

import smet
from smet.device_bounds import GPUS, device_bounds

POSITIONS, N = 64 * 2048, 32768  # density .25
INDEX = 4 * 64 * (64 + 2)


def bounds(**options):
    model = nn.Sequential(nn.Linear(2048, 64, bias=False))
    return device_bounds(smet.estimate(model, 0.25, dtype="bfloat16", skip=(), **options), "h100")


@pytest.mark.parametrize("moments,per_weight,dense_per_weight", [("fp32", 23, 22), ("bf16", 15, 14)])
def test_bytes_of_each_kernel(moments, per_weight, dense_per_weight):
    """bf16: an expand or gather moves 2d + 2 bytes and the index, AdamW 23d (fp32) or 15d (bf16)."""
    found = bounds(moments=moments)
    through_dense = 2 * N + 2 * POSITIONS + INDEX
    assert [bound.moved for bound in found.bounds] == [through_dense] * 3 + [per_weight * N]
    assert [bound.instead for bound in found.bounds] == [0, 0, 0, dense_per_weight * POSITIONS]
    state = 2 + (8 if moments == "fp32" else 4) + 1
    assert found.update.moved == 2 * N + 2 * state * N + 2 * INDEX
    assert found.seconds(3.35e12) == 1
    moved = 3 * through_dense + per_weight * N - dense_per_weight * POSITIONS
    assert found.added == pytest.approx(moved / 3.35e12)


def test_the_table_says_what_it_is():
    text = str(bounds())
    assert "lower bounds, not measured" in text and "3,350 GB/s peak (NVIDIA H100 data sheet)" in text
    assert text.splitlines()[-1].startswith("-0.000327 ms a step against dense")


def test_a_7b_block_as_the_kernels_were_sized():
    """Two expands and a gather of one LLaMA-7B block (202.4 M positions) at d = .25: .48 ms on an H100."""
    found = device_bounds(smet.estimate("7b", 0.25, dtype="bfloat16"), "h100")
    assert found.seconds(sum(bound.moved for bound in found.bounds[:3])) / 32 == pytest.approx(
        0.48e-3, rel=0.01
    )


def test_unknown_device():
    with pytest.raises(ValueError, match="unknown device 'b300'; there are a100, h100, h200, rtx4090"):
        device_bounds(smet.estimate("9m"), "b300")
    assert all(gpu.source for gpu in GPUS.values())
