# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW with moments="bf16": state, errors, saving, topology updates, threads, and how it trains."""

import copy

import pytest
import torch
from torch.nn import Parameter

import smet
from adamw_helpers import equal_bits, make_values, same, snapshot, threads_leave_equal_bytes
from smet import CompactAdamW
from test_adamw_step import call, run

SMALLEST = 2.0**-133  # the smallest bf16 above 0


def build(moments="bf16", seed=0, dtype=torch.bfloat16, **options):
    """An optimizer over values and a dense matrix."""
    generator = torch.Generator().manual_seed(seed)
    values = make_values(20, 30, 150, dtype=dtype, name="fc", generator=generator)
    weight = Parameter(torch.randn(7, 5, generator=generator).to(dtype))
    return CompactAdamW([("fc.values", values), ("out.weight", weight)], lr=1e-2, moments=moments, **options)


def train(opt, steps):
    for _ in range(steps):
        for p in opt.param_groups[0]["params"]:
            t = opt.state[p]["step"].item()
            p.grad = torch.sin(torch.arange(p.numel()).double() * 1.7 + t).reshape(p.shape).to(p.dtype)
        opt.step()


def copy_params(source, target):
    for p, q in zip(source.param_groups[0]["params"], target.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)


def test_moments_take_two_bytes_and_are_those_of_fp32_rounded():
    """After one step from zero moments each is one of the two bf16 neighbours of fp32's."""
    compact, full = build(), build("fp32")
    train(compact, 1)
    train(full, 1)
    for p, q in zip(compact.param_groups[0]["params"], full.param_groups[0]["params"], strict=True):
        assert equal_bits(p.detach(), q.detach())  # a parameter moves by the moments as computed
        for key in ("exp_avg", "exp_avg_sq"):
            ours, exact = compact.state[p][key], full.state[q][key]
            assert ours.dtype == torch.bfloat16 and exact.dtype == torch.float32
            bits = exact.view(torch.int32)
            low, high = bits >> 16 << 16, (bits + 0xFFFF) >> 16 << 16
            got = ours.float().view(torch.int32)
            assert ((got == low) | (got == high)).all()
            assert (got != low).any() and (got != high).any()


def test_every_group_has_its_own_format():
    a, b = Parameter(torch.ones(3)), Parameter(torch.ones(4, dtype=torch.float64))
    opt = CompactAdamW([{"params": [a]}, {"params": [b], "moments": "fp32"}], moments="bf16")
    a.grad, b.grad = torch.ones(3), torch.ones(4, dtype=torch.float64)
    opt.step()
    assert opt.state[a]["exp_avg_sq"].dtype == torch.bfloat16
    assert opt.state[b]["exp_avg_sq"].dtype == torch.float64


def test_what_is_refused():
    with pytest.raises(ValueError, match='Invalid moments: "int8"; expected "fp32", "bf16" or "8bit"'):
        CompactAdamW([Parameter(torch.ones(3))], moments="int8")
    with pytest.raises(TypeError, match='float64 parameter and moments="bf16"; expected moments="fp32"'):
        CompactAdamW([Parameter(torch.ones(3, dtype=torch.float64))], moments="bf16")
    with pytest.raises(ValueError, match="unknown moments 'int8'"):
        smet.estimate("9m", moments="int8")


def test_the_operator_refuses_moments_that_do_not_fit():
    half = {"exp_avgs": [torch.zeros(6).bfloat16()], "exp_avg_sqs": [torch.zeros(6).bfloat16()]}
    with pytest.raises(ValueError, match=r"moments of 'layer0.values' are BFloat16 and moment_keys is empty"):
        run(call(**half))
    with pytest.raises(ValueError, match="moment_keys has 2 entries; expected one per parameter, 1"):
        run(call(**half, moment_keys=[1, 2]))
    with pytest.raises(TypeError, match=r"exp_avg_sq of 'layer0.values' has dtype Float; expected BFloat16"):
        run(call(**half | {"exp_avg_sqs": [torch.zeros(6)]}, moment_keys=[1]))
    with pytest.raises(TypeError, match=r"exp_avg of 'layer0.values' has dtype BFloat16; expected Double"):
        run(call(dtype=torch.float64, **half, moment_keys=[1]))
    torch.library.opcheck(torch.ops.smet.adamw_step_.default, (), call(**half, moment_keys=[1]))


def test_v_decays_and_a_live_v_stays_live():
    """500 steps without gradients: v falls by .999^500 = .606 on average, to 5 standard errors.

    One step's rounding has a variance of at most a quarter of the squared unit, which is at most 2^-7 of v.
    """
    n, steps = 20_000, 500
    p = Parameter(torch.zeros(n))
    opt = CompactAdamW([p], lr=0.0, moments="bf16")
    p.grad = torch.zeros(n)
    opt.state[p]["exp_avg_sq"].fill_(1e-3)
    opt.state[p]["exp_avg_sq"][0] = SMALLEST
    for _ in range(steps):
        opt.step()
    v = opt.state[p]["exp_avg_sq"].double()
    assert v[0] == SMALLEST
    error = 5 * 2.0**-8 * (steps / n) ** 0.5
    assert v[1:].mean().item() == pytest.approx(1e-3 * 0.999**steps, rel=error)


def test_the_rounding_is_a_function_of_the_seed():
    def moments(seed):
        opt = build()
        opt.param_groups[0]["seed"] = seed
        train(opt, 2)
        return [opt.state[p][key] for p in opt.param_groups[0]["params"] for key in ("exp_avg", "exp_avg_sq")]

    assert same(moments(0), moments(0))
    assert not any(map(equal_bits, moments(0), moments(1)))


def test_parameters_and_moments_are_rounded_by_different_bits():
    """m = .1 is .8 of the way to the next bf16 number, the parameter -1.003 .384 of it: independently so."""
    n = 65536
    p = Parameter(torch.zeros(n, dtype=torch.bfloat16))
    opt = CompactAdamW([p], lr=1.003, eps=0.0, moments="bf16", stochastic_rounding=True)
    p.grad = torch.ones_like(p)
    opt.step()
    up_p, up_m = p.detach().double() < -1.003, opt.state[p]["exp_avg"].double() > 0.1
    for got, rate in ((up_p, 0.384), (up_m, 0.8), (up_p & up_m, 0.384 * 0.8)):
        assert got.double().mean().item() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / n) ** 0.5)


def test_saved_and_loaded_bit_for_bit():
    """C4 for bf16 moments: a loaded optimizer goes on as the one that was saved."""
    opt = build(stochastic_rounding=True)
    train(opt, 5)
    fresh = build(seed=1, stochastic_rounding=True)
    copy_params(opt, fresh)
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert same(snapshot(opt), snapshot(fresh))
    train(opt, 5)
    train(fresh, 5)
    assert same(snapshot(opt), snapshot(fresh))


def test_moments_of_the_other_format_are_converted():
    """The option stays what it is here; fp32 to nearest, but what is above 0 stays above 0."""
    full, compact = build("fp32"), build()
    train(full, 3)
    state = full.state[full.param_groups[0]["params"][0]]
    state["exp_avg_sq"][:2] = torch.tensor([1e-44, 0.0])
    compact.load_state_dict(full.state_dict())
    assert compact.param_groups[0]["moments"] == "bf16"
    got = compact.state[compact.param_groups[0]["params"][0]]
    assert got["exp_avg_sq"][0] == SMALLEST
    assert got["exp_avg_sq"][1] == 0
    assert torch.equal(got["exp_avg_sq"][2:], state["exp_avg_sq"][2:].bfloat16())
    assert torch.equal(got["exp_avg"], state["exp_avg"].bfloat16())
    train(compact, 1)
    back = build("fp32")
    back.load_state_dict(compact.state_dict())
    assert back.param_groups[0]["moments"] == "fp32"
    ours = back.state[back.param_groups[0]["params"][0]]["exp_avg"]
    assert ours.dtype == torch.float32
    assert torch.equal(ours, compact.state[compact.param_groups[0]["params"][0]]["exp_avg"].float())
    train(back, 1)


def test_checkpoints_go_on_bit_for_bit(tmp_path):
    def make():
        net = torch.nn.Sequential(smet.SparseLinear(40, 30, density=0.3, name="0", seed=4))
        opt = CompactAdamW(net, lr=1e-2, moments="bf16")
        topo = smet.TopologyScheduler(net, opt, interval=2, fraction=0.3, total_steps=20, stop=1.0, seed=5)
        return net, opt, topo

    def advance(net, opt, topo, first, last):
        for step in range(first, last):
            x = torch.randn(8, 40, generator=torch.Generator().manual_seed(step))
            opt.zero_grad()
            net(x).square().mean().backward()
            opt.step()
            topo.step()

    whole, again = make(), make()
    advance(*whole, 0, 5)
    path = smet.save_checkpoint(tmp_path, *whole, step=5)
    smet.load_checkpoint(path, *again)
    advance(*whole, 5, 9)
    advance(*again, 5, 9)
    assert whole[2].hash() == again[2].hash()
    assert same(snapshot(whole[1]), snapshot(again[1]))
    assert again[1].state[again[0][0].values]["exp_avg"].dtype == torch.bfloat16


def test_topology_updates_keep_survivors_bit_for_bit():
    """T4 for bf16 moments: value, moments and cohort of every survivor; newborns have none."""
    layer = smet.SparseLinear(1100, 24, density=0.3, name="fc", seed=3)
    net = torch.nn.Sequential(layer)
    opt = CompactAdamW(net, lr=1e-2, moments="bf16")
    topo = smet.TopologyScheduler(net, opt, interval=1, fraction=0.3, total_steps=100, stop=1.0, seed=6)
    state = opt.state[layer.values]

    def dense(tensor):
        """Integers of the tensor's bits by position; -1 where inactive."""
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
        out = torch.full((24, 1100), -(2**40), dtype=torch.int64)
        out[active()] = tensor.detach().view(bits).long()
        return out

    def active():
        columns = torch.arange(1100)
        return (layer.mask[:, columns // 32] >> (columns % 32)) & 1 == 1

    for _ in range(5):
        layer.values.grad = torch.randn(layer.values.shape, generator=torch.Generator().manual_seed(1))
        opt.step()
        before = active()
        kept = {k: dense(t) for k, t in (("values", layer.values), *state.items()) if k in KEPT}
        assert topo.step() is not None
        survivors, newborns = before & active(), active() & ~before
        assert newborns.sum() == (before & ~active()).sum() > 0
        for key, old in kept.items():
            new = dense(layer.values if key == "values" else state[key])
            assert torch.equal(new[survivors], old[survivors]), key
            if key != "cohort":
                assert (new[newborns] == 0).all(), key


KEPT = ("values", "exp_avg", "exp_avg_sq", "cohort")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_1_2_7_equal_bytes(dtype):
    def make_optimizer(generator):
        sizes = (300_001, 1, 17, 65_536)
        params = [make_values(1000, 1000, n, dtype=dtype, generator=generator) for n in sizes]
        return CompactAdamW(params, moments="bf16", stochastic_rounding=True)

    assert threads_leave_equal_bytes(make_optimizer)


def test_a_regression_trains_as_with_fp32_moments():
    """300 steps of a sparse two-layer net with topology updates: the last losses within 10 % of fp32's."""

    def final_loss(moments):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            smet.SparseLinear(32, 64, density=0.3, name="0", seed=1),
            torch.nn.Tanh(),
            smet.SparseLinear(64, 8, density=0.5, name="2", seed=2),
        )
        teacher = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
        opt = CompactAdamW(net, lr=5e-3, weight_decay=0.0, warmup=25, moments=moments)
        topo = smet.TopologyScheduler(net, opt, interval=25, total_steps=300, seed=3)
        losses = []
        for _ in range(300):
            x = torch.randn(64, 32)
            loss = torch.nn.functional.mse_loss(net(x), teacher(x).detach())
            opt.zero_grad()
            loss.backward()
            opt.step()
            topo.step()
            losses.append(loss.item())
        assert losses[0] > 2 * losses[-1]
        return sum(losses[-50:]) / 50

    full, compact = final_loss("fp32"), final_loss("bf16")
    assert abs(compact / full - 1) < 0.1


def test_report_and_estimate_price_two_bytes():
    net = torch.nn.Sequential(smet.SparseLinear(1024, 32, density=0.25, name="fc", dtype=torch.bfloat16))
    opt = CompactAdamW(net, moments="bf16")
    layer = net[0]
    layer.values.grad = torch.zeros_like(layer.values)
    n = layer.values.numel()
    report = smet.report(net, opt)
    assert report.by_kind["moments"] == 4 * n
    assert report.deviation == pytest.approx(0, abs=1e-3)
    table = smet.estimate("1b", 0.25, dtype="bfloat16", moments="bf16")
    assert table.sparse_total / table.positions == pytest.approx(9 * 0.25 + 0.129, rel=0.002)
    assert table.formula == pytest.approx(table.sparse_total, rel=0.002)
    assert table.by_kind["dense_moments"] == 4 * table.dense_parameters
