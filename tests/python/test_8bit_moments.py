# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW with moments="8bit": state, errors, saving, topology updates, threads, and how it trains."""

import copy
import itertools
import pickle

import pytest
import torch
from torch.nn import Parameter

import smet
from adamw_helpers import equal_bits, same, snapshot, threads_leave_equal_bytes
from smet import CompactAdamW
from test_adamw_step import call, run
from test_bf16_moments import copy_params, train

SCALES = ("exp_avg_scale", "exp_avg_sq_scale")


def build(moments="8bit", seed=0, dtype=torch.bfloat16, **options):
    """An optimizer over the values of a layer, a dense matrix and a bias."""
    generator = torch.Generator().manual_seed(seed)
    layer = smet.SparseLinear(2100, 20, density=0.3, name="fc", seed=3, dtype=dtype)
    out = torch.nn.Linear(70, 7, dtype=dtype)
    net = torch.nn.ModuleDict({"fc": layer, "out": out})
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator).to(dtype))
    return CompactAdamW(net, lr=1e-2, moments=moments, **options), net


def decoded(state, layer=None):
    """(m, v) of a state as float64, by the formula of its documentation."""
    codes, scale = state["exp_avg"].double(), state["exp_avg_scale"].double()
    codes_sq, scale_sq = state["exp_avg_sq"].double(), state["exp_avg_sq_scale"].double()
    block = blocks_of(state, layer)
    m = scale.flatten()[block] * (codes / 127) * (codes / 127).abs()
    return m, (scale_sq.flatten()[block] * (codes_sq / 255) ** 2) ** 2


def blocks_of(state, layer):
    """Of each weight the number of its block: 1,024 columns of a dense row, or whole segments of a layer."""
    blocks = state["exp_avg_scale"].shape[1]
    if layer is None:
        rows, cols = state["exp_avg"].shape
        position = torch.arange(rows * cols).reshape(rows, cols)
        return position // cols * blocks + position % cols // 1024
    columns = torch.arange(layer.in_features)
    active = (layer.mask[:, columns // 32] >> (columns % 32)) & 1 == 1
    row, column = active.nonzero(as_tuple=True)
    segments = -(-layer.in_features // 1024)
    together = next(k for k in itertools.count(1) if -(-segments // k) == blocks)
    return row * blocks + column // 1024 // together


def test_state_of_codes_and_scales():
    """Values and matrices have codes; a bias, of one column, keeps float32."""
    opt, net = build()
    values, weight, bias = (
        opt.state[net["fc"].values],
        opt.state[net["out"].weight],
        opt.state[net["out"].bias],
    )
    for state, shape, scales in ((values, net["fc"].values.shape, (20, 3)), (weight, (7, 70), (7, 1))):
        assert state["exp_avg"].dtype == torch.int8 and state["exp_avg_sq"].dtype == torch.uint8
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == shape
        assert all(state[key].dtype == torch.float32 and state[key].shape == scales for key in SCALES)
    assert bias["exp_avg"].dtype == bias["exp_avg_sq"].dtype == torch.float32
    assert not set(SCALES) & set(bias)


def test_one_step_is_fp32s_to_within_one_code():
    """From zero moments: parameters move as fp32's do, bit for bit; moments are one of two neighbours."""
    (compact, net), (full, other) = build(), build("fp32")
    train(compact, 1)
    train(full, 1)
    for layer, p, q in ((net["fc"], net["fc"].values, other["fc"].values), (None, *pair(net, other))):
        assert equal_bits(p.detach(), q.detach())
        state, exact = compact.state[p], full.state[q]
        block = blocks_of(state, layer)
        for got, want, scale, most in (
            (state["exp_avg"].abs(), exact["exp_avg"].abs(), state["exp_avg_scale"], 127),
            (state["exp_avg_sq"], exact["exp_avg_sq"].sqrt(), state["exp_avg_sq_scale"], 255),
        ):
            ideal = (want.double() / scale.flatten()[block].double()).sqrt() * most
            assert ((got.double() - ideal).abs() < 1 + 1e-4).all()
        assert (state["exp_avg"].sign() * exact["exp_avg"].sign() >= 0).all()
        assert torch.equal(state["exp_avg_sq"] > 0, exact["exp_avg_sq"] > 0)


def pair(net, other):
    return net["out"].weight, other["out"].weight


def test_what_is_refused():
    with pytest.raises(TypeError, match='float64 parameter and moments="8bit"; expected moments="fp32"'):
        CompactAdamW([Parameter(torch.ones(3, dtype=torch.float64))], moments="8bit")
    opt, net = build()
    layer = net["fc"]
    values = layer.values
    smet._C.register_values(values, 20, 2100, "fc")  # without rank
    values.grad = torch.zeros_like(values)
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"positions of 'fc.values' are unknown, which own the blocks"):
        opt.step()
    assert same(before, snapshot(opt))


def test_a_rank_that_does_not_ascend_is_refused_before_any_write():
    opt, net = build()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    net["fc"].rank[5, 1] = 10**6
    before = snapshot(opt)
    with pytest.raises(ValueError, match="mask, rank and counts do not belong together"):
        opt.step()
    assert same(before, snapshot(opt))


def codes(n=6, **changes):
    """The arguments of a call with 8-bit moments of a dense tensor of one row."""
    args = {
        "exp_avgs": [torch.zeros(n, dtype=torch.int8)],
        "exp_avg_sqs": [torch.zeros(n, dtype=torch.uint8)],
        "exp_avg_scales": [torch.zeros(1, 1)],
        "exp_avg_sq_scales": [torch.zeros(1, 1)],
        "ranks": [torch.zeros(0, dtype=torch.int32)],
        "cols": [n],
        "moment_keys": [1],
    }
    return args | changes


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"moment_keys": []}, ValueError, "are 8-bit codes and moment_keys is empty"),
        ({"exp_avg_scales": []}, ValueError, "expected exp_avg_scales, exp_avg_sq_scales, ranks and cols"),
        ({"cols": [4]}, ValueError, "cols of 'layer0.values' is 4; expected a divisor of its 6 elements"),
        ({"cols": [0]}, ValueError, "cols of 'layer0.values' is 0"),
        ({"exp_avg_scales": [torch.zeros(1, 2)]}, ValueError, r"a scale .* \[1, 2\].* float32 \[1, 1\]"),
        ({"exp_avg_sq_scales": [torch.zeros(1, 1).double()]}, ValueError, "a scale .* is Double"),
        ({"exp_avg_sqs": [torch.zeros(6)]}, TypeError, "exp_avg_sq .* has dtype Float; expected Byte"),
        ({"ranks": [torch.zeros(1, 1)]}, ValueError, "the rank of 'layer0.values' is Float"),
        (
            {"ranks": [torch.zeros(1, 2, dtype=torch.int32)]},
            ValueError,
            r"expected contiguous int32 \[rows, 1\]",
        ),
        ({"ranks": [torch.ones(1, 1, dtype=torch.int32)]}, ValueError, "do not belong together"),
    ],
)
def test_the_operator_refuses_what_does_not_fit(changes, error, match):
    args = call(**codes(**changes))
    before = args["params"][0].clone()
    with pytest.raises(error, match=match):
        run(args)
    assert equal_bits(args["params"][0], before)


def test_opcheck():
    torch.library.opcheck(torch.ops.smet.adamw_step_.default, (), call(**codes()))


def test_the_rounding_is_a_function_of_the_seed():
    def moments(seed):
        opt, _ = build(seed=0)
        opt.param_groups[0]["seed"] = seed
        train(opt, 2)
        return [opt.state[p][key] for p in opt.param_groups[0]["params"] for key in ("exp_avg", "exp_avg_sq")]

    assert same(moments(0), moments(0))
    assert not same(moments(0), moments(1))


def test_a_channels_last_weight_is_trained_as_a_contiguous_one():
    """Blocks are stretches of the contiguous order, whatever the parameter's strides."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 8, 3, 3, generator=generator)
    grads = [torch.randn(6, 8, 3, 3, generator=generator) for _ in range(4)]
    p, q = Parameter(start.clone()), Parameter(start.to(memory_format=torch.channels_last))
    opts = CompactAdamW([p], moments="8bit"), CompactAdamW([q], moments="8bit")
    for grad in grads:
        p.grad, q.grad = grad.clone(), grad.to(memory_format=torch.channels_last)
        for opt in opts:
            opt.step()
    assert q.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(p, q)
    assert all(equal_bits(opts[0].state[p][key], opts[1].state[q][key]) for key in ("exp_avg", *SCALES))


# Saving and loading


def test_saved_and_loaded_bit_for_bit():
    """C4 for 8-bit moments: a loaded optimizer goes on as the one that was saved."""
    opt, _net = build(stochastic_rounding=True)
    train(opt, 5)
    fresh, _other = build(seed=1, stochastic_rounding=True)  # the nets hold the positions
    copy_params(opt, fresh)
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert same(snapshot(opt), snapshot(fresh))
    train(opt, 5)
    train(fresh, 5)
    assert same(snapshot(opt), snapshot(fresh))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("with_model", [True, False])
def test_copies_go_on_bit_for_bit(make_copy, with_model):
    """Also of the optimizer alone, whose copied values belong to no layer."""
    opt, net = build()
    train(opt, 2)
    twin = make_copy((net, opt))[1] if with_model else make_copy(opt)
    train(opt, 3)
    train(twin, 3)
    assert same(snapshot(opt), snapshot(twin))


@pytest.mark.parametrize("other", ["fp32", "bf16"])
def test_moments_of_another_format_are_converted(other):
    """To the nearest code and from codes, exactly; what is above 0 stays above 0."""
    (opt, net), (source, source_net) = build(), build(other)
    train(source, 3)
    saved = source.state[source_net["fc"].values]
    saved["exp_avg_sq"][:2] = torch.tensor([1e-38, 0.0])
    opt.load_state_dict(source.state_dict())
    assert opt.param_groups[0]["moments"] == "8bit"
    layer, state = net["fc"], opt.state[net["fc"].values]
    assert state["exp_avg_sq"][0] == 1 and state["exp_avg_sq"][1] == 0
    block, m = blocks_of(state, layer), saved["exp_avg"].double()
    largest = torch.zeros(state["exp_avg_scale"].numel(), dtype=torch.float64)
    largest = largest.scatter_reduce(0, block, m.abs(), "amax").float()
    assert torch.equal(largest, state["exp_avg_scale"].flatten())
    units = m.abs() / largest[block].double() * 127**2
    code = state["exp_avg"].double().abs()
    for neighbour in (code - 1, code + 1):
        assert ((code**2 - units).abs() <= (neighbour**2 - units).abs() + 1e-6).all()
    back, back_net = build(other)
    back.load_state_dict(opt.state_dict())
    want_m, want_v = decoded(state, layer)
    got = back.state[back_net["fc"].values]
    assert torch.allclose(got["exp_avg"].double(), want_m, rtol=2**-8 if other == "bf16" else 1e-6, atol=0)
    assert torch.allclose(got["exp_avg_sq"].double(), want_v, rtol=2**-8 if other == "bf16" else 1e-6, atol=0)
    for optimizer in (opt, back):
        train(optimizer, 1)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("exp_avg_scale", torch.zeros(20, 2), r"'exp_avg_scale' is .*\[20, 2\], expected float32 \[20, 3\]"),
        ("exp_avg_sq", torch.zeros(12600), "'exp_avg_sq' is Float .*, expected 8-bit codes"),
        ("exp_avg_sq_scale", None, "no 'exp_avg_sq_scale'"),
    ],
)
def test_a_saved_state_that_does_not_fit_is_refused(key, value, match):
    opt, _ = build()
    train(opt, 1)
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][0].pop(key)
    if value is not None:
        saved["state"][0][key] = value
    before = snapshot(opt)
    with pytest.raises(ValueError, match=match):
        opt.load_state_dict(saved)
    assert same(before, snapshot(opt))


def run_of(moments="8bit", dtype=torch.float32, **options):
    """A net of a sparse and a dense layer, trained with topology updates."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        smet.SparseLinear(1100, 30, density=0.3, name="0", seed=4, dtype=dtype),
        torch.nn.Tanh(),
        torch.nn.Linear(30, 80, dtype=dtype),
    )
    opt = CompactAdamW(net, lr=1e-2, moments=moments, **options)
    topo = smet.TopologyScheduler(net, opt, interval=2, fraction=0.3, total_steps=40, stop=1.0, seed=5)
    return net, opt, topo


def advance(net, opt, topo, first, last):
    for step in range(first, last):
        x = torch.randn(8, 1100, generator=torch.Generator().manual_seed(step)).to(net[0].values.dtype)
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()
        topo.step()


def test_checkpoints_go_on_bit_for_bit(tmp_path):
    """C4: also through topology updates before and after, which move codes and not scales."""
    whole, again = run_of(), run_of()
    advance(*whole, 0, 5)
    path = smet.save_checkpoint(tmp_path, *whole, step=5)
    smet.load_checkpoint(path, *again)
    advance(*whole, 5, 9)
    advance(*again, 5, 9)
    assert whole[2].hash() == again[2].hash()
    assert same(snapshot(whole[1]), snapshot(again[1]))
    assert again[1].state[again[0][0].values]["exp_avg"].dtype == torch.int8


def test_checkpoints_are_converted_at_the_positions_they_were_saved_with(tmp_path):
    """An fp32 run goes on with 8 bits and back, though the model that loads has other positions."""
    full = run_of("fp32")
    advance(*full, 0, 6)
    path = smet.save_checkpoint(tmp_path / "full", *full, step=6)
    compact = run_of()
    smet.load_checkpoint(path, *compact)
    state = compact[1].state[compact[0][0].values]
    m, _ = decoded(state, compact[0][0])
    exact = full[1].state[full[0][0].values]["exp_avg"].double()
    scale = state["exp_avg_scale"].flatten()[blocks_of(state, compact[0][0])].double()
    # The nearest code is off by at most half the distance to the next: (2 c + 1) / 2 units of scale / 127^2.
    distance = (exact.abs() / scale).sqrt() * 127 + 1
    assert ((m - exact).abs() <= distance * scale / 127**2).all()
    path = smet.save_checkpoint(tmp_path / "compact", *compact, step=6)
    back = run_of("fp32")
    smet.load_checkpoint(path, *back)
    assert torch.allclose(back[1].state[back[0][0].values]["exp_avg"].double(), m, rtol=1e-6, atol=0)


def test_topology_updates_keep_survivors_bit_for_bit():
    """T4 for 8-bit moments: value, codes and cohort of survivors, and all scales; newborns have code 0."""
    layer = smet.SparseLinear(2100, 24, density=0.3, name="fc", seed=3)
    net = torch.nn.Sequential(layer)
    opt = CompactAdamW(net, lr=1e-2, moments="8bit")
    topo = smet.TopologyScheduler(net, opt, interval=1, fraction=0.3, total_steps=100, stop=1.0, seed=6)
    state = opt.state[layer.values]

    def active():
        columns = torch.arange(2100)
        return (layer.mask[:, columns // 32] >> (columns % 32)) & 1 == 1

    def dense(tensor):
        bits = {1: torch.uint8, 4: torch.int32}[tensor.element_size()]
        out = torch.full((24, 2100), -(2**40), dtype=torch.int64)
        out[active()] = tensor.detach().view(bits).long()
        return out

    for _ in range(5):
        layer.values.grad = torch.randn(layer.values.shape, generator=torch.Generator().manual_seed(1))
        opt.step()
        before = active()
        tensors = {"values": layer.values, **{k: state[k] for k in ("exp_avg", "exp_avg_sq", "cohort")}}
        kept, scales = {k: dense(t) for k, t in tensors.items()}, [state[key].clone() for key in SCALES]
        assert topo.step() is not None
        survivors, newborns = before & active(), active() & ~before
        assert newborns.sum() == (before & ~active()).sum() > 0
        assert same(scales, [state[key] for key in SCALES])
        for key, tensor in tensors.items():
            assert torch.equal(dense(tensor)[survivors], kept[key][survivors]), key
            if key != "cohort":
                assert (dense(tensor)[newborns] == 0).all(), key


def test_fused_backward_gives_the_same_bits():
    plain, fused = run_of(), run_of(fused_backward=True)
    advance(*plain, 0, 7)
    advance(*fused, 0, 7)
    assert same(snapshot(plain[1]), snapshot(fused[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_1_2_7_equal_bytes(dtype):
    nets = []  # kept: they hold the positions

    def make_optimizer(generator):
        shapes = [(300, 3000, 0.3), (64, 64, 0.5), (700, 1024, 0.02)]
        net = torch.nn.ModuleList(
            smet.SparseLinear(cols, rows, density=density, name=str(i), dtype=dtype)
            for i, (rows, cols, density) in enumerate(shapes)
        )
        net.append(torch.nn.Linear(2000, 50, dtype=dtype))
        with torch.no_grad():
            net[-1].weight.copy_(torch.randn(net[-1].weight.shape, generator=generator))
            net[-1].bias.zero_()
        nets.append(net)
        return CompactAdamW(net, moments="8bit", stochastic_rounding=True)

    assert threads_leave_equal_bytes(make_optimizer)


def test_report_and_estimate_price_one_byte_and_the_scales():
    """P1: 7.06 d + .129 bytes per position with bf16 weights, to 2 %."""
    net = torch.nn.Sequential(smet.SparseLinear(4096, 32, density=0.25, name="fc", dtype=torch.bfloat16))
    opt = CompactAdamW(net, moments="8bit")
    layer = net[0]
    layer.values.grad = torch.zeros_like(layer.values)
    n = layer.values.numel()
    report = smet.report(net, opt)
    assert report.by_kind["moments"] == 2 * n + 2 * 4 * 32 * 4
    assert abs(report.deviation) < 0.02
    for model, density in (("1b", 0.25), ("7b", 0.25), ("7b", 0.1)):
        table = smet.estimate(model, density, dtype="bfloat16", moments="8bit")
        assert table.sparse_total / table.positions == pytest.approx(7.06 * density + 0.129, rel=0.02)
        assert table.formula == pytest.approx(table.sparse_total, rel=0.02)


def test_estimate_is_what_the_optimizer_allocates():
    """Byte for byte, dense parameters and their float32 exceptions included."""
    net = torch.nn.Sequential(
        torch.nn.Embedding(300, 96),
        torch.nn.Linear(96, 1500, bias=False),
        torch.nn.LayerNorm(1500),
        torch.nn.Conv1d(1500, 4, 1),
        torch.nn.Conv1d(4, 5, 3),
    )
    table = smet.estimate(copy.deepcopy(net).to("meta"), 0.2, moments="8bit", include="1", skip=())
    smet.sparsify_(net, density=0.2, include="1", skip=())
    opt = CompactAdamW(net, moments="8bit")
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    report = smet.report(net, opt)
    for kind in ("moments", "dense_moments"):
        assert table.by_kind[kind] == report.by_kind[kind] > 0
