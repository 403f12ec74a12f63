# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW(master_weights=True): bfloat16 parameters trained as float32 ones, for 2 bytes each."""

import copy
import pickle

import pytest
import torch
from torch.nn import Parameter

import smet
from adamw_helpers import equal_bits, same, snapshot, threads_leave_equal_bytes, through_file
from checkpoint_helpers import Run, differences, tensors_of
from smet import CompactAdamW
from test_adamw_step import call, run

FORMATS = ("fp32", "bf16", "8bit")


def join(param, low):
    """The float32 master, by its definition."""
    high = param.detach().contiguous().view(torch.int16).to(torch.int64) << 16
    bits = (high + low) % 2**32
    return torch.where(bits < 2**31, bits, bits - 2**32).int().view(torch.float32)


def masters(opt):
    return [join(p, opt.state[p]["master_low"]) for p in opt.param_groups[0]["params"]]


def split(master):
    """Nearest bfloat16, ties away from zero, and what it lacks."""
    bits = master.contiguous().view(torch.int32).to(torch.int64)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def build(seed=0, dtype=torch.bfloat16, **options):
    """An optimizer over the values of a layer, a dense matrix and a vector."""
    generator = torch.Generator().manual_seed(seed)
    values = Parameter(torch.randn(500, generator=generator).to(dtype))
    rank = (torch.arange(20, dtype=torch.int32) * 25).reshape(20, 1)
    smet._C.register_values(values, 20, 130, "fc", rank)
    weight = Parameter(torch.randn(7, 100, generator=generator).to(dtype))
    bias = Parameter(torch.randn(7, generator=generator).to(dtype))
    params = [("fc.values", values), ("out.weight", weight), ("out.bias", bias)]
    opt = CompactAdamW(params, lr=1e-3, **{"master_weights": True, **options})
    opt.rank = rank
    return opt


def train(opt, steps):
    """Gradients that are bfloat16 numbers, whatever the parameters are."""
    for _ in range(steps):
        for p in opt.param_groups[0]["params"]:
            t = opt.state[p]["step"].item()
            grad = torch.sin(torch.arange(p.numel()).double() * 1.7 + t).reshape(p.shape)
            p.grad = grad.bfloat16().to(p.dtype)
        opt.step()


def regrow(opt, first, cohort):
    """As a topology update does it, of every ninth weight."""
    values = opt.param_groups[0]["params"][0]
    state = opt.state[values]
    for tensor in (values.data, *(state[k] for k in ("exp_avg", "exp_avg_sq", "master_low") if k in state)):
        tensor[first::9] = 0
    state["cohort"][first::9] = cohort
    state["births"][cohort] = state["step"]


@pytest.mark.parametrize("moments", FORMATS)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1, "coupled_weight_decay": True, "maximize": True, "warmup": 3, "boost": 2.0}],
    ids=["plain", "coupled"],
)
def test_steps_are_those_of_float32_parameters(moments, options):
    """Masters, moments and cohorts of 40 steps with newborns, bit for bit; parameters are upper halves."""
    opt, wide = build(moments=moments, **options), build(dtype=torch.float32, moments=moments, **options)
    for p, q in zip(opt.param_groups[0]["params"], wide.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)
        assert "master_low" not in wide.state[q]
    for steps, first, cohort in ((5, 1, 1), (9, 4, 200), (26, 0, 2)):
        for each in (opt, wide):
            train(each, steps)
            regrow(each, first, cohort)
    rounded = 0
    for p, q, master in zip(
        opt.param_groups[0]["params"], wide.param_groups[0]["params"], masters(opt), strict=True
    ):
        assert equal_bits(master, q.detach())
        high, low = split(q.detach())
        assert equal_bits(p.detach(), high) and equal_bits(opt.state[p]["master_low"], low)
        rounded += (low != 0).sum().item()
        for key, value in wide.state[q].items():
            assert equal_bits(opt.state[p][key], value), key
    assert rounded > 1000


def test_without_masters_small_updates_are_lost():
    """What it is for: 300 updates of a twentieth of a bfloat16 unit."""
    ends = []
    for option in (False, True):
        p = Parameter(torch.ones(8, dtype=torch.bfloat16))
        opt = CompactAdamW([p], lr=2**-7 / 20, weight_decay=0.0, master_weights=option)
        for _ in range(300):
            p.grad = -torch.ones_like(p)
            opt.step()
        ends.append(p[0].item())
    assert ends == [1.0, pytest.approx(1 + 15 * 2**-7)]


def test_state_and_options():
    opt = build()
    for p in opt.param_groups[0]["params"]:
        low = opt.state[p]["master_low"]
        assert low.dtype == torch.int16 and low.shape == p.shape and not low.any() and not low.requires_grad
    assert opt.param_groups[0]["master_weights"] is True
    for dtype in (torch.float32, torch.float64):
        p = Parameter(torch.ones(3, dtype=dtype))
        assert "master_low" not in CompactAdamW([p], master_weights=True).state[p]
    a, b = (Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(2))
    groups = CompactAdamW([{"params": [a], "master_weights": True}, {"params": [b]}])
    assert "master_low" in groups.state[a] and "master_low" not in groups.state[b]
    frozen = Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
    late = CompactAdamW([frozen], master_weights=True)
    frozen.requires_grad_()
    frozen.grad = torch.ones_like(frozen)
    late.step()
    assert late.state[frozen]["master_low"].any()


def test_what_is_refused():
    half, brain = (Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.float16, torch.bfloat16))
    with pytest.raises(TypeError, match=r"float16 parameter and master_weights=True; expected bfloat16 or"):
        CompactAdamW([half], master_weights=True)
    with pytest.raises(ValueError, match=r"stochastic_rounding: True beside master_weights=True"):
        CompactAdamW([brain], master_weights=True, stochastic_rounding=True)
    with pytest.raises(TypeError, match=r"Invalid master_weights: 'yes'; expected True or False"):
        CompactAdamW([brain], master_weights="yes")


def lows(dtype=torch.int16, n=6):
    return {"master_lows": [torch.zeros(n, dtype=dtype)]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dtype": torch.float32, **lows()}, TypeError, "'layer0.values' is Float and has a master_low"),
        (lows(torch.int32), TypeError, "master_low of 'layer0.values' has dtype Int; expected Short"),
        (lows(n=5), ValueError, r"master_low of 'layer0.values' has shape \[5\]; expected"),
        ({**lows(), "rounding_keys": [7]}, ValueError, "and a rounding key; expected 0"),
        ({"master_lows": lows()["master_lows"] * 2}, ValueError, "master_lows has 2 entries; expected one"),
        ({"master_lows": [torch.zeros(1, dtype=torch.int16).expand(6)]}, ValueError, "share memory"),
    ],
)
def test_the_operator_refuses_masters_that_do_not_fit(changes, error, message):
    args = call(**{"dtype": torch.bfloat16, **changes})
    before = args["params"][0].clone()
    with pytest.raises(error, match=message):
        run(args)
    assert equal_bits(args["params"][0], before)


def test_opcheck():
    torch.library.opcheck(torch.ops.smet.adamw_step_.default, (), call(dtype=torch.bfloat16, **lows()))


def test_any_layout():
    """A transposed parameter, and one with gaps: what a contiguous one gets."""
    ends = []
    for layout in (lambda t: t, lambda t: t.t().contiguous().t(), lambda t: torch.stack([t, t], -1)[..., 0]):
        p = Parameter(layout(torch.linspace(-1, 1, 42).reshape(6, 7).bfloat16()))
        opt = CompactAdamW([p], lr=1e-3, master_weights=True)
        for step in range(3):
            p.grad = torch.cos(torch.arange(42.0) + step).reshape(6, 7).bfloat16()
            opt.step()
        ends.append([p.detach().contiguous(), opt.state[p]["master_low"].contiguous()])
    assert ends[0][1].any() and same(ends[0], ends[1]) and same(ends[0], ends[2])


@pytest.mark.parametrize("moments", FORMATS)
def test_threads_1_2_7_equal_bytes(moments):
    def make_optimizer(generator):
        shapes = ((301, 999), (1,), (17,), (64, 1024))
        params = [Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in shapes]
        return CompactAdamW(params, moments=moments, master_weights=True)

    assert threads_leave_equal_bytes(make_optimizer)


# Saving and loading


def take_params(source, target):
    for p, q in zip(source.param_groups[0]["params"], target.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)


@pytest.mark.parametrize("moments", FORMATS)
def test_saved_and_loaded_bit_for_bit(moments):
    opt, fresh = build(moments=moments), build(seed=1, moments=moments)
    train(opt, 5)
    train(fresh, 2)
    take_params(opt, fresh)
    fresh.load_state_dict(through_file(opt.state_dict()))
    assert same(snapshot(opt), snapshot(fresh))
    train(opt, 5)
    train(fresh, 5)
    assert same(snapshot(opt), snapshot(fresh))


def test_what_was_saved_without_masters_begins_at_the_parameters():
    plain, opt = build(master_weights=False, stochastic_rounding=True), build(seed=1)
    train(plain, 3)
    train(opt, 2)
    take_params(plain, opt)
    opt.load_state_dict(plain.state_dict())
    group = opt.param_groups[0]
    assert group["master_weights"] is True and group["stochastic_rounding"] is False
    for p, master in zip(group["params"], masters(opt), strict=True):
        assert equal_bits(master, p.detach().float()) and opt.state[p]["step"] == 3
    train(opt, 1)
    opt.load_state_dict(torch.optim.AdamW(group["params"]).state_dict())
    assert opt.param_groups[0]["master_weights"] is True
    assert not any(opt.state[p]["master_low"].any() for p in group["params"])


def test_masters_without_a_place_are_dropped():
    opt, plain = build(), build(seed=1, master_weights=False, stochastic_rounding=True)
    train(opt, 3)
    take_params(opt, plain)
    plain.load_state_dict(opt.state_dict())
    group = plain.param_groups[0]
    assert group["master_weights"] is False and group["stochastic_rounding"] is True
    assert all("master_low" not in plain.state[p] for p in group["params"])
    train(plain, 1)


@pytest.mark.parametrize("bad", [torch.zeros(3, dtype=torch.int16), torch.zeros(500)], ids=["shape", "dtype"])
def test_masters_that_do_not_fit_change_nothing(bad):
    opt, other = build(), build(seed=1)
    train(opt, 3)
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][0]["master_low"] = bad
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"'fc.values': 'master_low' is .* expected torch.int16 \[500\]"):
        other.load_state_dict(saved)
    assert same(before, snapshot(other))


def test_an_older_state_dict_and_an_older_pickle_have_no_such_option():
    opt = build()
    train(opt, 2)
    saved = opt.state_dict()
    for group in saved["param_groups"]:
        del group["master_weights"]
    opt.load_state_dict(saved)
    assert opt.param_groups[0]["master_weights"] is True
    again = pickle.loads(pickle.dumps(opt))
    assert same(snapshot(opt), snapshot(again)) and again.param_groups[0]["master_weights"] is True
    older = build(master_weights=False)
    for options in (older.defaults, older.param_groups[0]):
        del options["master_weights"]
    assert pickle.loads(pickle.dumps(older)).param_groups[0]["master_weights"] is False


@pytest.mark.parametrize("moments", FORMATS)
def test_a_checkpoint_resumes_bit_for_bit(moments, tmp_path):
    """With topology updates, stopped between the operations of a step."""
    options = {"dtype": torch.bfloat16, "master_weights": True, "moments": moments}
    torch.manual_seed(7)
    whole = Run(**options)
    whole.advance(29)
    whole.save(tmp_path)
    whole.advance(40)
    again = Run(seed=1, **options)
    again.load(tmp_path)
    again.advance(40)
    ends = tensors_of(whole), tensors_of(again)
    assert differences(*ends) == []
    assert ends[0]["state layers.0.values master_low"].any()


# The rest of the library


def test_topology_updates_keep_masters_of_survivors_bit_for_bit():
    layer = smet.SparseLinear(1100, 24, density=0.3, name="fc", seed=3, dtype=torch.bfloat16)
    net = torch.nn.Sequential(layer)
    opt = CompactAdamW(net, lr=1e-2, master_weights=True)
    topo = smet.TopologyScheduler(net, opt, interval=1, fraction=0.3, total_steps=100, stop=1.0, seed=6)
    columns = torch.arange(1100)

    def active():
        return (layer.mask[:, columns // 32] >> (columns % 32)) & 1 == 1

    def dense():
        out = torch.full((24, 1100), -(2**40), dtype=torch.int64)
        out[active()] = join(layer.values, opt.state[layer.values]["master_low"]).view(torch.int32).long()
        return out

    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        layer.values.grad = torch.randn(layer.values.shape, generator=generator).bfloat16()
        opt.step()
        before, old = active(), dense()
        assert topo.step() is not None
        survivors, newborns = before & active(), active() & ~before
        assert newborns.sum() == (before & ~active()).sum() > 0
        assert torch.equal(dense()[survivors], old[survivors])
        assert (dense()[newborns] == 0).all()


def test_a_weight_that_is_set_from_outside():
    """Its master follows, to half a unit; zero stays zero, though a low half below 0 lies beside it."""
    p = Parameter(torch.linspace(0.9, 1.1, 1000).bfloat16())
    opt = CompactAdamW([p], lr=1e-4, weight_decay=0.0, master_weights=True)
    p.grad = torch.ones_like(p)
    opt.step()
    assert (opt.state[p]["master_low"] < 0).any()
    with torch.no_grad():
        p.zero_()
    p.grad = torch.zeros_like(p)
    opt.param_groups[0]["lr"] = 0.0
    opt.step()
    assert not p.isnan().any() and p.abs().max() < 1e-40


def test_report_and_estimate_price_two_bytes():
    net = torch.nn.Sequential(smet.SparseLinear(1024, 32, density=0.25, name="fc", dtype=torch.bfloat16))
    layer = net[0]
    layer.values.grad = torch.zeros_like(layer.values)
    n = layer.values.numel()
    report = smet.report(net, CompactAdamW(net, moments="bf16", master_weights=True))
    assert report.by_kind["moments"] == 6 * n
    assert report.by_kind["dense_moments"] == 6 * 32
    assert report.deviation == pytest.approx(0, abs=1e-3)
    without, table = (
        smet.estimate("1b", 0.25, dtype="bfloat16", moments="bf16", master_weights=option)
        for option in (False, True)
    )
    assert table.sparse_total - without.sparse_total == 2 * table.n
    assert table.by_kind["dense_moments"] == 6 * table.dense_parameters
    assert table.formula == pytest.approx(table.sparse_total, rel=0.002)
    assert table.sparse_total / table.positions == pytest.approx(11 * 0.25 + 0.129, rel=0.002)
    assert "moments bf16, master weights" in str(table)
    wide = smet.estimate("1b", 0.25, dtype="float32", master_weights=True)
    assert wide.total == smet.estimate("1b", 0.25, dtype="float32").total
