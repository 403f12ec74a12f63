# SPDX-License-Identifier: BSD-3-Clause
"""SparseLinear as a torch module: construction, conversion, copies, state dicts, devices and dtypes."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

import smet
from problems import PROBLEMS
from smet._packing import active_positions, pack, unpack

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def layer(**options):
    return smet.SparseLinear(37, 50, **{"density": 0.3, "name": "fc", **options})


def same(a, b):
    """Every tensor of two layers equal, bit for bit, the derived rank included."""
    names = ("values", "mask", "rank", "bias")
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


def registered(module):
    *info, rank = smet._C.values_info(module.values)
    return info == [module.out_features, module.in_features, module.name] and rank is module.rank


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_s14_counts_shapes_and_forward_match_a_dense_layer(problem, bias, device):
    fc = smet.SparseLinear(problem.in_, problem.out, bias, density=problem.density, device=device)
    n = math.floor(problem.density * problem.out * problem.in_ + 0.5)  # halves away from zero
    assert fc.nnz == n == active_positions(fc.mask) and fc.values.shape == (n,)
    assert fc.density == n / (problem.out * problem.in_) and (fc.bias is None) == (not bias)
    dense = fc.to_dense()
    assert int(dense.weight.count_nonzero()) <= n
    x = torch.randn(problem.tokens, problem.in_, device=device)
    torch.testing.assert_close(fc(x), dense(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(fc.dense_weight()[unpack(fc.mask, problem.in_)], fc.values)


@pytest.mark.parametrize("density", [0, -0.1, 1.0001, float("nan"), float("inf")])
def test_s13_density_out_of_range(density):
    with pytest.raises(ValueError, match="density"):
        layer(density=density)


def test_s13_density_one_is_a_linear_layer():
    fc = layer(density=1)
    assert fc.nnz == 37 * 50 and torch.equal(fc.dense_weight().flatten(), fc.values)


def test_wrong_options():
    with pytest.raises(ValueError, match="init_std"):
        layer(init_std=-1.0)
    with pytest.raises(ValueError, match="init_scale"):
        layer(init_scale="fan_out")
    with pytest.raises(TypeError, match=r"layer 'fc'.*floating"):
        layer(dtype=torch.int32)
    with pytest.raises(ValueError, match=r"layer 'fc': input has shape \(2, 36\).*37"):
        layer()(torch.zeros(2, 36))
    with pytest.raises(TypeError, match=r"torch\.autocast"):
        layer()(torch.zeros(2, 37, dtype=torch.bfloat16))


def test_initial_values_depend_on_seed_and_name_alone(threads):
    first = layer()
    torch.manual_seed(99)
    with threads(1):
        assert same(first, layer())
    for other in (layer(seed=1), layer(name="other")):
        assert not torch.equal(first.mask, other.mask) and not torch.equal(first.bias, other.bias)
    # A position that is active at two densities starts from the same value.
    full = layer(density=1.0)
    assert torch.equal(full.dense_weight()[unpack(first.mask, 37)], first.values)


def test_initial_distributions():
    def big(**options):
        return smet.SparseLinear(400, 300, density=0.25, name="big", **options)

    n = 30_000
    uniform = big().values.detach().double() * 20  # in (-1, 1): bound 1 / sqrt(400)
    assert uniform.abs().max() <= 1 and abs(uniform.mean()) < 4 / (3 * n) ** 0.5
    assert abs(uniform.square().mean() - 1 / 3) < 4 * (4 / 45 / n) ** 0.5
    normal = big(init_std=0.02).values.detach().double() / 0.02
    assert abs(normal.mean()) < 4 / n**0.5 and abs(normal.square().mean() - 1) < 4 * (2 / n) ** 0.5
    assert abs(normal.pow(4).mean() - 3) < 4 * (96 / n) ** 0.5 and not big(init_std=0.02).bias.any()
    torch.testing.assert_close(big(init_scale="fan_in").values, 2 * big().values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("select", ["random", "magnitude"])
def test_from_dense_and_back(select):
    dense = nn.Linear(37, 50)
    dense.bias.requires_grad_(False)
    fc = smet.SparseLinear.from_dense(dense, 0.3, select=select, seed=3, name="fc").eval()
    active = unpack(fc.mask, 37)
    assert torch.equal(fc.values, dense.weight[active]) and not fc.bias.requires_grad and registered(fc)
    if select == "magnitude":
        assert dense.weight[active].abs().min() >= dense.weight[~active].abs().max()
    else:
        assert torch.equal(fc.mask, layer(seed=3).mask)
    back = fc.to_dense()
    assert torch.equal(back.weight, dense.weight * active) and torch.equal(back.bias, dense.bias)
    assert not back.training and back.weight.requires_grad and not back.bias.requires_grad
    again = smet.SparseLinear.from_dense(back, mask=active)
    assert torch.equal(again.mask, fc.mask) and torch.equal(again.values, fc.values)
    packed = smet.SparseLinear.from_dense(back.weight, mask=fc.mask)
    assert torch.equal(packed.values, fc.values) and packed.bias is None


def test_from_dense_options_and_errors():
    dense = nn.Linear(37, 50)
    plain = smet.SparseLinear.from_dense(dense, 0.25, name="fc")
    scaled = smet.SparseLinear.from_dense(dense, 0.25, name="fc", init_scale="fan_in")
    torch.testing.assert_close(scaled.values, plain.values / plain.density**0.5, rtol=1e-6, atol=0)
    fresh = smet.SparseLinear.from_dense(dense, 0.3, name="fc", init_std=0.1)
    assert torch.equal(fresh.values, layer(init_std=0.1).values) and torch.equal(fresh.bias, dense.bias)
    meta = smet.SparseLinear.from_dense(nn.Linear(37, 50, device="meta"), 0.3, name="fc", init_std=0.1)
    assert meta.values.is_meta
    meta.to_empty(device="cpu").reset_parameters()
    assert torch.equal(meta.values, fresh.values)
    for arguments in ({}, {"density": 0.5, "mask": torch.ones(50, 37, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="either density or mask"):
            smet.SparseLinear.from_dense(dense, **arguments)
    with pytest.raises(ValueError, match="select"):
        smet.SparseLinear.from_dense(dense, 0.5, select="best")
    with pytest.raises(ValueError, match="mask has shape"):
        smet.SparseLinear.from_dense(dense, mask=torch.ones(37, 50, dtype=torch.bool))
    with pytest.raises(ValueError, match="beyond column 37"):
        smet.SparseLinear.from_dense(dense, mask=torch.full((50, 2), -1, dtype=torch.int32))
    with pytest.raises(TypeError, match="Conv2d"):
        smet.SparseLinear.from_dense(nn.Conv2d(1, 1, 1), 0.5)


def test_s8_meta_device_to_empty_and_reset():
    meta = layer(device="meta")
    assert {t.device.type for t in (meta.values, meta.mask, meta.rank, meta.bias)} == {"meta"}
    assert meta(torch.empty(3, 37, device="meta")).shape == (3, 50)
    real = meta.to_empty(device="cpu")
    real.reset_parameters()
    assert same(real, layer()) and registered(real)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_s9_dtype_and_device_moves_keep_positions(dtype, device):
    moved = layer().to(device=device, dtype=dtype)
    assert moved.values.dtype == moved.bias.dtype == dtype and moved.values.device.type == device
    fresh = layer(dtype=dtype).to(device)
    assert torch.equal(moved.mask, fresh.mask) and torch.equal(moved.rank, fresh.rank)
    assert moved.mask.dtype == moved.rank.dtype == torch.int32 and registered(moved)
    assert torch.equal(moved.half().mask, fresh.mask) and torch.equal(moved.type(dtype).mask, fresh.mask)
    y = moved.to(dtype)(torch.randn(2, 37, device=device, dtype=dtype))
    y.sum().backward()
    assert y.dtype == moved.values.grad.dtype == dtype


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_equal_independent_and_registered(how):
    def copied(module):
        if how == "deepcopy":
            return copy.deepcopy(module)
        if how == "pickle":
            return pickle.loads(pickle.dumps(module))
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    first = layer()
    first.values.requires_grad_(False)
    second = copied(first)
    assert same(first, second) and registered(second) and not second.values.requires_grad
    with torch.no_grad():
        second.values.add_(1)
        second.mask.zero_()
    assert not torch.equal(first.values, second.values) and first.mask.any()


def saved(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_round_trip_derives_rank(assign):
    first, second = layer(), layer(seed=5)
    state = saved(first)
    assert sorted(state) == ["bias", "mask", "values"]
    assert str(second.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
    assert same(first, second) and registered(second)
    meta = layer(device="meta")
    meta.load_state_dict(state, assign=True)
    assert same(first, meta) and registered(meta) and not meta.rank.is_meta


def test_state_dict_of_another_topology_is_refused_by_key():
    model = nn.Sequential(layer(), nn.ReLU(), layer(seed=1))
    before = copy.deepcopy(model)
    good = layer(seed=9).state_dict()
    other_count = layer(density=0.5).state_dict()
    too_few = {**good, "mask": good["mask"].clone()}
    too_few["mask"][0] = 0
    padded = {**good, "mask": good["mask"] | torch.tensor([0, 1 << 20], dtype=torch.int32)}
    damaged = {
        "active weights; this layer has 555": other_count,
        "active positions for 555 values": too_few,
        "beyond column 37": padded,
        r"expected int32 \[50, 2\]": {**good, "mask": good["mask"].float()},
        "expected int32": {**good, "mask": good["mask"][:, :1]},
    }
    for message, state in damaged.items():
        full = {f"2.{key}": tensor for key, tensor in state.items()}
        with pytest.raises(RuntimeError, match=f'"2.mask".*{message}'):
            model.load_state_dict({**{f"0.{k}": v for k, v in before[0].state_dict().items()}, **full})
        assert same(model[2], before[2])
    with pytest.raises(RuntimeError, match=r"Missing key.*mask"):
        layer().load_state_dict({k: v for k, v in good.items() if k != "mask"})
    with pytest.raises(RuntimeError, match=r"size mismatch for bias"):
        layer().load_state_dict({**good, "bias": torch.zeros(49)})


def test_set_mask_checks_before_it_writes():
    fc = layer()
    wrong = fc.mask.clone()
    wrong[0] = 0
    before = copy.deepcopy(fc)
    with pytest.raises(ValueError, match="active positions for 555 values"):
        fc.set_mask(wrong)
    assert same(fc, before)
    fc.set_mask(layer(seed=8).mask)
    assert torch.equal(fc.rank, layer(seed=8).rank)


def test_s11_inference_mode_and_no_grad():
    fc, x = layer(), torch.randn(2, 37)
    expected = fc(x)
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            y = fc(x)
        assert torch.equal(y, expected) and not y.requires_grad
    with torch.inference_mode():
        inside = layer()
        assert torch.equal(inside(x), expected)


def test_frozen_values_and_repr():
    fc = layer()
    fc.values.requires_grad_(False)
    fc(torch.randn(2, 37)).sum().backward()
    assert fc.values.grad is None and fc.bias.grad is not None
    text = "in_features=37, out_features=50, bias=True, density=0.3"
    assert repr(fc) == f"SparseLinear({text})"
    assert repr(layer(algorithm="expand_gemm")) == f"SparseLinear({text}, algorithm=expand_gemm)"


@pytest.mark.parametrize("checkpointed", [False, True])
def test_grow_candidates_are_those_of_the_last_backward(checkpointed):
    fc, k = layer(dtype=torch.float64), 40
    fc.grow_candidates = torch.full((k,), -1)
    for seed in (1, 2):
        torch.manual_seed(seed)
        x, dy = torch.randn(6, 37, dtype=torch.float64), torch.randn(6, 50, dtype=torch.float64)
        if checkpointed:
            y = torch.utils.checkpoint.checkpoint(fc, x.requires_grad_(), use_reentrant=False)
        else:
            y = fc(x)
        y.backward(dy)
    score = (dy.t() @ x.detach()).abs()
    score[unpack(fc.mask, 37)] = -1
    assert torch.equal(fc.grow_candidates, score.flatten().topk(k).indices.sort().values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer_ = layer()
        layer_.grow_candidates = torch.full((k,), -1)
        layer_(torch.randn(6, 37)).sum().backward()
    assert bool((layer_.grow_candidates >= 0).all())


def test_registry_forgets_the_dead_and_knows_no_copies():
    fc = layer()
    assert registered(fc) and smet._C.values_info(fc.values.detach()) is None
    for _ in range(200):  # entries of dead tensors are dropped on the way, and their addresses reused
        values = torch.zeros(4)
        assert smet._C.values_info(values) is None
        smet._C.register_values(values, 2, 4, "short-lived")
    with pytest.raises(ValueError, match="9 values do not fit"):
        smet._C.register_values(torch.zeros(9), 2, 4, "fc")


@pytest.mark.parametrize("shape", [(1, 1), (3, 32), (5, 33), (7, 64), (2, 1030)])
def test_pack_and_unpack_are_inverse(shape):
    dense = torch.rand(shape) < 0.5
    packed = pack(dense)
    assert packed.shape == (shape[0], -(-shape[1] // 32))
    assert torch.equal(unpack(packed, shape[1]), dense) and active_positions(packed) == int(dense.sum())
