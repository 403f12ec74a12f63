# SPDX-License-Identifier: BSD-3-Clause
"""sparsify_ and densify_: what is chosen, what comes out, what is kept."""

import copy
import re

import pytest
import torch
from torch import nn

import smet
from small_models import Model, model
from smet.sparse_linear import SparseLinear


def active(layer):
    """The dense [out, in] boolean mask, from where the values land."""
    ones = torch.ones_like(layer.values)
    return torch.ops.smet.expand(ones, layer.mask, layer.rank, layer.in_features).bool()


# What comes out


def test_weights_at_the_active_positions_are_the_given_ones():
    dense = model()
    sparse = copy.deepcopy(dense)
    table = smet.sparsify_(sparse, 0.3)
    assert [layer.name for layer in table.layers] == [
        f"layers.{i}.{name}_proj" for i in range(2) for name in ("q", "up", "down")
    ]
    for layer in table.layers:
        old, new = dense.get_submodule(layer.name), sparse.get_submodule(layer.name)
        assert type(new) is SparseLinear
        mask = active(new)
        assert int(mask.sum()) == new.nnz == layer.n == round(0.3 * old.weight.numel())
        assert torch.equal(new.dense_weight(), old.weight * mask)
        assert (new.bias is None) == (old.bias is None)
        if old.bias is not None:
            assert torch.equal(new.bias, old.bias)
    assert type(sparse.lm_head) is nn.Linear
    assert [
        key.replace("values", "weight") for key in sparse.state_dict() if not key.endswith("mask")
    ] == list(dense.state_dict())


def test_masked_dense_model_computes_the_same():
    dense, sparse = model(), model()
    smet.sparsify_(sparse, 0.4)
    for name, layer in smet.sparse_layers(sparse):
        dense.get_submodule(name).weight.data *= active(layer)
    tokens = torch.arange(20).view(2, 10)
    torch.testing.assert_close(sparse(tokens), dense(tokens), rtol=1e-5, atol=1e-6)


def test_equal_seed_and_name_give_equal_positions_whatever_the_order_or_wrapping():
    first, second = model(), model()
    smet.sparsify_(first, 0.25, seed=5)
    smet.sparsify_(second, 0.25, seed=5, include="down_proj")
    smet.sparsify_(second, 0.25, seed=5, include=("q_proj", "up_proj"))
    compiled = nn.Sequential()
    compiled.module = model()
    smet.sparsify_(compiled, 0.25, seed=5)
    third = model()
    smet.sparsify_(third, 0.25, seed=6)
    masks = [{n: layer.mask for n, layer in smet.sparse_layers(m)} for m in (first, second, compiled, third)]
    assert masks[0].keys() == masks[1].keys() == masks[2].keys()
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name])
        assert torch.equal(mask, masks[2][name])
        assert not torch.equal(mask, masks[3][name])
    assert not torch.equal(masks[0]["layers.0.q_proj"], masks[0]["layers.1.q_proj"])


def test_global_generator_is_not_touched():
    """T11: neither used nor moved."""
    sparse = model()
    state = torch.get_rng_state()
    smet.sparsify_(sparse, 0.25, init_std=0.02)
    assert torch.equal(torch.get_rng_state(), state)


def test_magnitude_takes_the_largest_and_ties_go_to_the_later_position():
    """T7: the same total order as pruning."""
    dense = nn.Sequential(nn.Linear(6, 2, bias=False))
    weight = torch.tensor([[1.0, -3.0, 2.0, 2.0, -2.0, float("nan")], [0.0, 2.0, -5.0, 0.5, 1.0, 1.0]])
    dense[0].weight.data.copy_(weight)
    smet.sparsify_(dense, 5 / 12, select="magnitude")  # 5, 3, then three of the four twos
    expected = torch.zeros(2, 6, dtype=torch.bool)
    expected[0, [1, 3, 4]] = expected[1, [1, 2]] = True
    assert torch.equal(active(dense[0]), expected)
    assert dense[0].values.tolist() == [-3, 2, -2, 2, -5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("conv1d", [False, True])
def test_magnitude_equals_a_plain_sort(dtype, conv1d):
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(1)
    layer = Conv1D(37, 70) if conv1d else nn.Linear(70, 37)
    layer.weight.data.normal_().mul_(4).round_()  # many ties
    dense = nn.Sequential(layer.to(dtype))
    weight = (layer.weight.t() if conv1d else layer.weight).detach().clone()
    smet.sparsify_(dense, 0.3, select="magnitude")
    order = sorted(range(weight.numel()), key=lambda i: (abs(weight.flatten()[i].item()), i))
    expected = torch.zeros(weight.numel(), dtype=torch.bool)
    expected[order[-round(0.3 * weight.numel()) :]] = True
    assert torch.equal(active(dense[0]).flatten(), expected)
    assert torch.equal(dense[0].dense_weight(), weight * expected.view_as(weight))


def test_fan_in_scales_by_the_layers_own_density():
    """N10: each layer by its own factor, once."""
    plain, scaled = model(), model()
    densities = {"q_proj": 0.25, "_proj": 0.64}
    smet.sparsify_(plain, densities)
    smet.sparsify_(scaled, densities, init_scale="fan_in")
    for (name, a), (_, b) in zip(smet.sparse_layers(plain), smet.sparse_layers(scaled), strict=True):
        torch.testing.assert_close(b.values, a.values / a.density**0.5, rtol=1e-6, atol=0)
        assert a.density == pytest.approx(0.25 if "q_proj" in name else 0.64, abs=1e-3)


def test_initial_values_depend_on_name_and_seed_alone():
    """C21: the same whether the model was built densely (from any weights) or on the meta device."""
    first, second = model(seed=1), model(seed=2)
    with torch.device("meta"):
        meta = Model()
    for m in (first, second, meta):
        smet.sparsify_(m, 0.25, init_std=0.02, seed=3)
    assert all(layer.values.is_meta and layer.mask.is_meta for _, layer in smet.sparse_layers(meta))
    meta.to_empty(device="cpu")
    for (name, a), (_, b), (_, c) in zip(*map(smet.sparse_layers, (first, second, meta)), strict=True):
        for key in ("values", "mask", "rank"):
            assert torch.equal(getattr(a, key), getattr(b, key)), name
            assert torch.equal(getattr(a, key), getattr(c, key)), name
        assert a.values.std().item() == pytest.approx(0.02, rel=0.15)


def test_meta_model_never_allocates_a_dense_layer():
    """A 7B layer would be 180 MB; the largest tensor is its mask, 5.6 MB."""
    with torch.device("meta"):
        big = nn.Sequential(nn.Linear(11008, 4096, bias=False))
    smet.sparsify_(big, 0.002, init_std=0.02)
    with torch.profiler.profile(profile_memory=True) as profile:
        big.to_empty(device="cpu")
    sizes = [event.cpu_memory_usage for event in profile.events()]
    assert big[0].nnz == round(0.002 * 4096 * 11008)
    assert 4096 * 11008 / 8 <= max(sizes) < 6e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_grad_flags_training_and_hooks_are_kept(dtype):
    dense = model().to(dtype)
    calls = []
    handle = dense.layers[0].q_proj.register_forward_hook(lambda *_: calls.append("forward"))
    dense.layers[0].q_proj.register_forward_pre_hook(lambda *_, **__: calls.append("pre"), with_kwargs=True)
    dense.layers[0].q_proj.register_full_backward_hook(lambda *_: calls.append("backward"))
    dense.layers[0].up_proj.weight.requires_grad_(False)
    dense.layers[0].up_proj.bias.requires_grad_(False)
    dense.layers[1].eval()
    smet.sparsify_(dense, 0.5)
    for _, layer in smet.sparse_layers(dense):
        assert layer.values.dtype == dtype
    assert not dense.layers[0].up_proj.values.requires_grad
    assert not dense.layers[0].up_proj.bias.requires_grad
    assert dense.layers[0].q_proj.values.requires_grad
    assert dense.layers[0].q_proj.training
    assert not dense.layers[1].q_proj.training
    dense(torch.arange(5)).float().sum().backward()
    assert calls == ["pre", "forward", "backward"]
    handle.remove()
    dense(torch.arange(5))
    assert calls == ["pre", "forward", "backward", "pre"]


def test_one_module_at_two_places_stays_one_module():
    shared = nn.Linear(8, 8)
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    table = smet.sparsify_(net, 0.5)
    assert len(table.layers) == 1
    assert isinstance(net["a"], SparseLinear)
    assert net["a"] is net["b"][0]
    smet.densify_(net)
    assert type(net["a"]) is nn.Linear
    assert net["a"] is net["b"][0]


def test_sparse_parameters_are_the_values():
    net = model()
    smet.sparsify_(net)
    assert smet.sparse_parameters(net) == {layer.values for _, layer in smet.sparse_layers(net)}


# And back


def test_densify_restores_the_function_and_the_names():
    dense = model()
    names = list(dense.state_dict())
    smet.sparsify_(dense, 0.3)
    tokens = torch.arange(20).view(2, 10)
    expected = dense(tokens)
    smet.densify_(dense)
    assert list(dense.state_dict()) == names
    assert not list(smet.sparse_layers(dense))
    torch.testing.assert_close(dense(tokens), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no sparse layer"):
        smet.densify_(dense)


def test_density_one_round_trip_is_exact():
    dense = model()
    weights = {name: p.clone() for name, p in dense.named_parameters()}
    smet.sparsify_(dense, 1.0)
    smet.densify_(dense)
    for name, parameter in dense.named_parameters():
        assert torch.equal(parameter, weights[name])


# Which layers


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        ("up_proj", ["layers.0.up_proj", "layers.1.up_proj"]),
        ("*.1.*", ["layers.1.q_proj", "layers.1.up_proj", "layers.1.down_proj"]),
        ("layers.[01].q_proj", ["layers.0.q_proj", "layers.1.q_proj"]),
        (re.compile(r"0\.(q|up)_proj$"), ["layers.0.q_proj", "layers.0.up_proj"]),
        (lambda name, module: module.in_features == 96, ["layers.0.down_proj", "layers.1.down_proj"]),
        (["0.q", lambda name, module: name.endswith("1.q_proj")], ["layers.0.q_proj", "layers.1.q_proj"]),
    ],
)
def test_include(include, expected):
    net = model()
    assert [layer.name for layer in smet.sparsify_(net, include=include).layers] == expected
    assert [name for name, _ in smet.sparse_layers(net)] == expected


def test_skip_replaces_the_default():
    table = smet.sparsify_(model(), skip=("layers.0", lambda name, module: "down" in name))
    assert [layer.name for layer in table.layers] == ["layers.1.q_proj", "layers.1.up_proj", "lm_head"]
    assert table.kept[0] == ("layers.0.q_proj", (48, 48), "skip='layers.0'")


def test_output_embeddings_stay_dense_whatever_their_name():
    net = model()
    net.decoder = net.lm_head
    del net.lm_head
    net.get_output_embeddings = lambda: net.decoder
    assert ("decoder", (50, 48), "output embeddings") in smet.sparsify_(copy.copy(net), include=None).kept
    assert type(net.decoder) is nn.Linear


def test_output_embeddings_can_be_asked_for():
    net = model()
    net.get_output_embeddings = lambda: net.lm_head
    table = smet.sparsify_(net, include=("lm_head",), skip=())
    assert [layer.name for layer in table.layers] == ["lm_head"]


def test_subclasses_with_their_own_forward_stay_dense_and_say_so():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.ModuleDict(
        {"a": Doubling(8, 8), "attention": nn.MultiheadAttention(8, 2), "plain": nn.Linear(8, 8)}
    )
    table = smet.sparsify_(net)
    assert [layer.name for layer in table.layers] == ["plain"]
    assert table.kept == [
        ("a", (8, 8), "Doubling has its own forward"),
        ("attention.out_proj", (8, 8), "MultiheadAttention reads its weight directly"),
    ]
    net["attention"](torch.ones(3, 1, 8), torch.ones(3, 1, 8), torch.ones(3, 1, 8))


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_transformer_encoder_works_in_training_and_evaluation(norm_first):
    """torch's encoder layer reads linear1.weight itself in evaluation, on its fast path."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first, dropout=0.0)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    smet.sparsify_(net, 0.5)
    x = torch.randn(2, 5, 16)
    trained = net(x)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(x), trained, rtol=1e-5, atol=1e-6)


def test_erk_spends_the_budget_unevenly():
    net = model()
    table = smet.sparsify_(net, 0.3, distribution="erk")
    positions = sum(layer.shape[0] * layer.shape[1] for layer in table.layers)
    assert sum(layer.n for layer in table.layers) == round(0.3 * positions)
    densities = {layer.name.split(".")[-1]: layer.density for layer in table.layers}
    assert densities["q_proj"] > densities["up_proj"] == densities["down_proj"]
    assert table.density == pytest.approx(0.3, abs=1e-4)


def test_densities_by_pattern():
    net = model()
    table = smet.sparsify_(net, {"layers.0.q_proj": 0.5, "q_proj": 0.1, "*.up_proj": 0.2})
    assert {layer.name: layer.n for layer in table.layers} == {
        "layers.0.q_proj": 1152,
        "layers.0.up_proj": 922,
        "layers.1.q_proj": 230,
        "layers.1.up_proj": 922,
    }
    assert ("layers.0.down_proj", (48, 96), "no density given") in table.kept


# The table


def test_table_groups_equal_layers_and_closes_with_the_bytes():
    with torch.device("meta"):
        net = Model(width=1024, depth=12)
    table = smet.sparsify_(net, 0.25, init_std=0.02)
    dense = 12 * (1024 * 1024 + 2 * 2 * 1024 * 1024) * 4
    index = 12 * (1024 * 33 + 2048 * 33 + 1024 * 66) * 4
    assert table.dense_bytes == dense
    assert table.bytes == dense // 4 + index
    lines = str(table).split("\n")
    assert lines[0].split() == ["layer", "shape", "n", "density", "bytes"]
    assert lines[2].split() == [
        "layers.*.q_proj",
        "x",
        "12",
        "1024",
        "x",
        "1024",
        "262,144",
        "0.25",
        "14.2",
        "MB",
    ]
    assert len(lines) == 2 + 3 + 1 + 1
    assert lines[-2] == "stays dense: lm_head  50 x 1024  (skip='lm_head')"
    assert lines[-1] == "dense 252 MB -> 71.0 MB"
    assert str(table).isascii()
