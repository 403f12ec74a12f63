# SPDX-License-Identifier: BSD-3-Clause
"""Memory from shapes alone: exact by kind, and equal to what architecture's formula says per position."""

import pytest
import torch
from torch import nn

import smet
from smet.llama_sizes import LLAMA_SIZES, LlamaSize


def test_bytes_by_kind_are_exact():
    model = nn.Sequential(nn.Linear(1030, 7), nn.ReLU(), nn.Linear(7, 3))
    table = smet.estimate(model, 0.3, skip=("2",))
    n = 2163  # round(.3 * 7210)
    assert table.by_kind == {
        "weights": 4 * n,
        "gradients": 4 * n,
        "moments": 8 * n,
        "cohorts": n,
        "index": 4 * 7 * (33 + 2),  # words of 32 columns and segments of 1,024
        "dense_weights": 4 * (7 + 21 + 3),
        "dense_gradients": 4 * (7 + 21 + 3),
        "dense_moments": 8 * (7 + 21 + 3),
        "other": 0,
    }
    assert table.dense_adamw_bytes == 16 * (7210 + 7 + 21 + 3)
    assert table.total == sum(table.by_kind.values())
    assert table.dense_parameters == 31


@pytest.mark.parametrize(
    ("dtype", "per_weight", "dense"), [("float32", 17, 16), ("bfloat16", 13, 12), ("float64", 33, 32)]
)
@pytest.mark.parametrize("density", [0.05, 0.25, 0.5])
def test_formula_of_the_data_format(dtype, per_weight, dense, density):
    """P1: 17 d + .129 for float32, 13 d + .129 for bfloat16 weights, per position."""
    table = smet.estimate("1b", density, dtype=dtype)
    per_position = table.sparse_total / table.positions
    assert per_position == pytest.approx(per_weight * density + 0.129, rel=0.002)
    assert table.formula == pytest.approx(table.sparse_total, rel=0.002)
    assert table.sparse_ratio == pytest.approx(per_position / dense, rel=1e-9)


def test_7b_is_priced_without_allocation():
    table = smet.estimate("7b", 0.25)
    assert table.layers == 7 * 32
    assert table.positions == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert table.n * 4 == table.positions
    assert table.dense_parameters == 2 * 32000 * 4096 + 65 * 4096
    text = str(table)
    assert "LLaMA 7b" in text
    assert "dense 108 GB -> 32.6 GB" in text
    assert text.isascii()


def test_erk_keeps_the_total():
    uniform, erk = smet.estimate("9m", 0.25), smet.estimate("9m", 0.25, distribution="erk")
    assert erk.n == uniform.n == round(0.25 * uniform.positions)


def test_patterns_and_densities_choose_layers():
    mlp = smet.estimate("9m", 0.5, include="*.mlp.*")
    assert mlp.layers == 3 * 4
    by_pattern = smet.estimate("9m", {"q_proj": 0.1, "mlp": 0.5})
    assert by_pattern.layers == 4 * 4
    assert by_pattern.n == 4 * (round(0.1 * 128 * 128) + 3 * round(0.5 * 128 * 352))


def test_vocabulary_changes_the_dense_part_alone():
    small, large = smet.estimate("9m", vocab=1000), smet.estimate("9m", vocab=1001)
    assert large.dense_parameters - small.dense_parameters == 2 * 128
    assert large.sparse_total == small.sparse_total


def test_frozen_parameters_need_no_gradients_and_moments():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight.requires_grad_(False)
    table = smet.estimate(model, 0.5)
    assert table.by_kind["weights"] == 2 * 4 * 2048
    assert table.by_kind["gradients"] == 4 * 2048
    assert table.by_kind["moments"] == 8 * 2048
    assert table.by_kind["cohorts"] == 2048
    assert table.dense_adamw_bytes == (16 + 4) * 4096


def test_custom_size():
    table = smet.estimate(LlamaSize(hidden=32, intermediate=96, heads=2, layers=1, vocab=10))
    assert table.positions == 4 * 32 * 32 + 3 * 32 * 96


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("8b",), ValueError, "unknown model size '8b'; there are 9m, 20m"),
        (("9m", 0.0), ValueError, "density is 0.0; expected 0 < density <= 1"),
        (("9m", float("nan")), ValueError, "density is nan"),
        ((3,), TypeError, "expected a model size, a transformers configuration or a module; got int"),
        (({"hidden_size": 3},), ValueError, "needs 'model_type'"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        smet.estimate(*arguments)


def test_bad_options():
    with pytest.raises(ValueError, match="unknown dtype 'int8'; there are float32"):
        smet.estimate("9m", dtype="int8")
    with pytest.raises(ValueError, match="not trained"):
        smet.estimate("9m", dtype=torch.int64)
    with pytest.raises(ValueError, match="vocab= goes with a named size"):
        smet.estimate(nn.Sequential(nn.Linear(4, 4)), vocab=3)
    with pytest.raises(ValueError, match="unknown distribution"):
        smet.estimate("9m", distribution="er")


def test_sizes_are_the_papers():
    """Parameters of the projections, from the table of hidden and intermediate sizes."""
    assert {name: smet.estimate(name).positions for name in LLAMA_SIZES} == {
        name: size.layers * (4 * size.hidden**2 + 3 * size.hidden * size.intermediate)
        for name, size in LLAMA_SIZES.items()
    }
