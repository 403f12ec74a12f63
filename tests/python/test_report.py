# SPDX-License-Identifier: BSD-3-Clause
"""Measured bytes: the formula holds within 2 %, and the report sees all that is allocated, once."""

import pytest
import torch
from torch import nn

import smet
from small_models import Model, model


def trained(dtype=torch.float32, density=0.25, width=512, opt=smet.CompactAdamW, **kwargs):
    net = model(width=width, depth=1).to(dtype)
    smet.sparsify_(net, density, **kwargs)
    optimizer = opt(net.parameters(), lr=1e-3)
    net(torch.arange(8)).float().square().sum().backward()
    optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    ("dtype", "per_weight", "dense"),
    [(torch.float32, 17, 16), (torch.bfloat16, 13, 12), (torch.float64, 33, 32)],
)
@pytest.mark.parametrize("density", [0.1, 0.25, 0.5])
def test_memory_formula(dtype, per_weight, dense, density):
    """P1: within 2 % of (17 d + .129) per position in float32, (13 d + .129) with bfloat16 weights."""
    net, opt = trained(dtype, density)
    table = smet.report(net, opt)
    positions = 512 * 512 + 2 * 512 * 1024
    expected = (per_weight * density + 0.129) * positions
    print(f"{dtype} d={density}: {table.sparse_total} bytes measured, {expected:.0f} by formula")
    assert abs(table.sparse_total / expected - 1) < 0.02
    assert table.formula == pytest.approx(expected, rel=1e-3)
    assert table.deviation == pytest.approx(table.sparse_total / table.formula - 1)
    assert abs(table.deviation) < 0.02
    assert table.sparse_dense_adamw_bytes == dense * positions


def test_measured_equals_estimated_by_kind():
    """Where the layers' rows are whole words and segments do not matter: exact, dense parts included."""
    net, opt = trained(width=96, density=0.3)
    table = smet.report(net, opt)
    expected = smet.estimate(model(width=96, depth=1), 0.3)
    other = table.by_kind.pop("other")
    assert table.by_kind == {kind: count for kind, count in expected.by_kind.items() if kind != "other"}
    assert table.dense_adamw_bytes == expected.dense_adamw_bytes
    parameters = list(net.parameters())
    assert other == 8 * len(parameters) + 3 * 256 * 8  # a step each, a birth table per sparse layer


def test_every_byte_of_the_run_is_in_the_report():
    """The sum over all tensors that the model and the optimizer hold, found without the report's help."""
    net, opt = trained(width=100, density=0.3)
    tensors = list(net.parameters()) + [p.grad for p in net.parameters()] + list(net.buffers())
    tensors += [value for state in opt.state.values() for value in state.values()]
    assert smet.report(net, opt).total == sum(t.numel() * t.element_size() for t in tensors)


def test_per_layer_adds_up():
    net, opt = trained(distribution="erk")
    table = smet.report(net, opt)
    assert list(table.per_layer) == ["layers.0.q_proj", "layers.0.up_proj", "layers.0.down_proj"]
    for name, layer in table.per_layer.items():
        module = net.get_submodule(name)
        assert (layer.n, layer.shape) == (module.nnz, (module.out_features, module.in_features))
        assert layer.density == module.density
        assert layer.by_kind["weights"] == 4 * module.nnz
        assert layer.by_kind["cohorts"] == module.nnz
    assert sum(layer.total for layer in table.per_layer.values()) == table.sparse_total
    assert table.ratio == table.total / table.dense_adamw_bytes
    assert table.sparse_ratio < 0.30


def test_gradients_are_charged_where_they_live():
    net, opt = trained()
    full = smet.report(net, opt)
    opt.zero_grad()
    bare = smet.report(net, opt)
    assert full.missing_gradients == 0
    assert bare.missing_gradients == 3
    assert bare.by_kind["gradients"] == bare.by_kind["dense_gradients"] == 0
    assert full.total - bare.total == full.by_kind["gradients"] + full.by_kind["dense_gradients"]
    assert abs(bare.deviation) < 0.02
    assert "3 sparse layers have no gradient" in str(bare)


def test_without_optimizer_weights_and_index_are_counted():
    net, _ = trained()
    table = smet.report(net)
    assert table.by_kind["moments"] == table.by_kind["cohorts"] == table.by_kind["other"] == 0
    assert abs(table.deviation) < 0.02


def test_waste_is_seen():
    """A moment in the wrong dtype, or a dense mask that somebody keeps, moves the deviation beyond 2 %."""
    net, opt = trained()
    values = net.layers[0].up_proj.values
    opt.state[values]["exp_avg"] = opt.state[values]["exp_avg"].double()
    assert smet.report(net, opt).deviation > 0.02
    net, opt = trained()
    layer = net.layers[0].up_proj
    layer.mask = torch.zeros(layer.out_features, layer.in_features, dtype=torch.int32)[
        :, : layer.mask.size(1)
    ]
    assert smet.report(net, opt).deviation > 0.02


def test_shared_storage_counts_once():
    net = Model()
    net.lm_head.weight = net.embed.weight
    smet.sparsify_(net)
    table = smet.report(net)
    assert table.by_kind["dense_weights"] == 4 * (50 * 48 + 2 * (96 + 48))


def test_any_torch_optimizer_and_a_dense_model():
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    opt = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 32)).sum().backward()
    opt.step()
    table = smet.report(net, opt)
    assert not table.per_layer
    assert table.deviation == 0.0
    assert table.dense_adamw_bytes == 16 * 2 * (32 * 32 + 32)
    assert table.total - table.by_kind["other"] == table.dense_adamw_bytes
    assert str(table)


def test_text():
    net, opt = trained()
    net.layers.extend(model(width=512, depth=1).layers)
    smet.sparsify_(net.layers[1], 0.25)
    lines = str(smet.report(net, opt)).split("\n")
    assert lines[0].split() == [
        "density", "weights", "gradients", "moments", "cohorts", "index", "total", "dense", "AdamW", "ratio"
    ]  # fmt: skip
    assert lines[-2].startswith("sparse layers: ")
    assert lines[-1].startswith("dense ")
    assert all(line.isascii() for line in lines)


def test_groups_add_up_in_the_text():
    net = model(width=512, depth=3)
    smet.sparsify_(net)
    text = str(smet.report(net))
    assert "layers.*.q_proj x 3" in text
    q_proj = next(line for line in text.split("\n") if "q_proj" in line)
    expected = "0.25  786 kB  0 B  0 B  0 B  104 kB  891 kB  3.15 MB  0.283"
    assert q_proj.split()[3:] == expected.split()
