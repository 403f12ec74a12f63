# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW's arithmetic: against the method in float64, against torch, and in the corners (cases N)."""

import math
import os
import subprocess
import sys

import pytest
import torch

from adamw_helpers import equal_bits, make_values, max_ulp, ulp
from reference_adamw import ReferenceAdamW, linear_warm
from smet import CompactAdamW


def gradients(n, steps, dtype=torch.float32, spread=4):
    """Reproducible gradients whose size spans `spread` decades over the elements."""
    generator = torch.Generator().manual_seed(11)
    scale = 10.0 ** (-spread * torch.rand(n, generator=generator, dtype=torch.float64))
    for _ in range(steps):
        yield (torch.randn(n, generator=generator, dtype=torch.float64) * scale).to(dtype)


def parameter(n, dtype=torch.float32):
    return torch.nn.Parameter(
        torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    )


def test_n1_fp64_ref_1000_steps_fp32():
    """N1: each stored number within 4 ulp of the formula in float64, no outliers; 1e-6 after 1,000 steps."""
    n, p = 1031, parameter(1031)
    opt = CompactAdamW([p])
    whole_run, beta1, beta2 = ReferenceAdamW(p.detach()), 0.9, 0.999
    worst = [0.0, 0.0, 0.0]
    for t, grad in enumerate(gradients(n, 1000), 1):
        before, m_before = p.detach().clone(), opt.state[p]["exp_avg"].clone()
        v_before = opt.state[p]["exp_avg_sq"].clone()
        whole_run.step(grad)
        p.grad = grad
        opt.step()
        if t > 100 and t % 10:
            continue  # the float64 arithmetic below takes longer than the step
        m, v, g = (x.double() for x in (opt.state[p]["exp_avg"], opt.state[p]["exp_avg_sq"], grad))
        update = 1e-3 / (1 - beta1**t) * m / ((v / (1 - beta2**t)).sqrt() + 1e-8)
        errors = (
            max_ulp(p.detach(), before.double() * (1 - 1e-3 * 0.01) - update, before, update),
            max_ulp(m.float(), beta1 * m_before.double() + (1 - beta1) * g, m_before, (1 - beta1) * g),
            max_ulp(v.float(), beta2 * v_before.double() + (1 - beta2) * g**2),
        )
        worst = list(map(max, worst, errors))
    print("N1: worst error of one step, in ulp: w {:.2f}, m {:.2f}, v {:.2f}".format(*worst))
    assert max(worst) <= 4
    error = ((p.detach().double() - whole_run.w).norm() / whole_run.w.norm()).item()
    print(f"N1: after 1,000 steps {error:.2e} relative")
    assert error <= 1e-6


def weights_are_near(opt, p, q, before, m_before):
    """|p - q| within 2 ulp of the weight, or 8 ulp of the terms of its update where those are larger.

    Two implementations differ by the roundings of both; where m's terms cancel, by roundings of the terms.
    """
    group, state = opt.param_groups[0], opt.state[p]
    t, (beta1, beta2) = int(state["step"]), group["betas"]
    m = torch.maximum(m_before.double().abs(), (1 - beta1) * p.grad.double().abs())
    denominator = (state["exp_avg_sq"].double() / (1 - beta2**t)).sqrt() + group["eps"]
    terms = group["lr"] * m / (1 - beta1**t) / denominator
    near = torch.maximum(2 * ulp(torch.maximum(before.abs(), q.abs()), p.dtype), 8 * ulp(terms, p.dtype))
    return bool(((p.detach().double() - q.detach().double()).abs() <= near).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.0}, {"maximize": True}, {"betas": (0.8, 0.95), "eps": 1e-3, "lr": 0.1}],
    ids=["default", "no decay", "maximize", "betas and eps"],
)
def test_n2_dense_equals_torch_at_density_1(dtype, options):
    """N2: from equal state, the stated ulp from torch's single-tensor AdamW, fused multiply-adds or not."""
    p, q = parameter(5003, dtype), parameter(5003, dtype)
    ours = CompactAdamW([p], **options)
    theirs = torch.optim.AdamW([q], foreach=False, **options)
    for grad in gradients(5003, 30, dtype):
        p.grad, q.grad = grad.clone(), grad.clone()
        before, m_before = p.detach().clone(), ours.state[p]["exp_avg"].clone()
        ours.step()
        theirs.step()
        mine, torchs = ours.state[p], theirs.state[q]
        assert max_ulp(mine["exp_avg"], torchs["exp_avg"], m_before, grad) <= 1
        assert max_ulp(mine["exp_avg_sq"], torchs["exp_avg_sq"]) <= 1
        assert weights_are_near(ours, p, q, before, m_before)
        with torch.no_grad():  # the next step starts equal
            q.copy_(p)
            torchs["exp_avg"].copy_(mine["exp_avg"])
            torchs["exp_avg_sq"].copy_(mine["exp_avg_sq"])


SCALAR_TORCH = """
import sys, torch
sys.path.insert(0, {tests!r})
from adamw_helpers import equal_bits
from test_compact_adamw_numerics import gradients, parameter, weights_are_near
from smet import CompactAdamW
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
for dtype in (torch.float32, torch.float64):
    p, q = parameter(5003, dtype), parameter(5003, dtype)
    ours, theirs = CompactAdamW([p]), torch.optim.AdamW([q], foreach=False)
    for grad in gradients(5003, 25, dtype):
        p.grad, q.grad = grad.clone(), grad.clone()
        before, m_before = p.detach().clone(), ours.state[p]["exp_avg"].clone()
        ours.step(); theirs.step()
        assert equal_bits(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"])
        assert equal_bits(ours.state[p]["exp_avg_sq"], theirs.state[q]["exp_avg_sq"])
        worst = (p - q).abs().argmax()
        assert weights_are_near(ours, p, q, before, m_before), (theirs.state[q]["step"], p[worst], q[worst])
        with torch.no_grad(): q.copy_(p)
"""


def test_n2_moments_bit_equal_to_torchs_scalar_code():
    """N2: without torch's fused multiply-adds the moments are equal bit for bit, the weights nearly.

    The weights cannot be: torch's square roots are MKL's, which rounds one in five wrongly.
    """
    script = SCALAR_TORCH.format(tests=os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def regrow(opt, values, ids, cohort):
    """What a topology update does to the optimizer's state for newborns: no value, no history, a birth."""
    state = opt.state[values]
    with torch.no_grad():
        values[ids] = 0
    state["exp_avg"][ids] = state["exp_avg_sq"][ids] = 0
    state["cohort"][ids] = cohort
    state["births"][cohort] = state["step"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_n3_masked_dense_equivalence(dtype):
    """N3: packed values with cohorts and a dense tensor with those of its elements give the same bits."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(40, 50, generator=generator) < 0.3
    n = int(mask.sum())
    dense = make_values(1, 2000, 2000, dtype=dtype, generator=generator)  # every position, active or not
    packed = make_values(40, 50, n, dtype=dtype)
    where = mask.flatten().nonzero().flatten()
    with torch.no_grad():
        packed.copy_(dense[where])
    opts = [CompactAdamW([p], lr=1e-2, density_scaling=0, warmup=10) for p in (dense, packed)]
    for step, grad in enumerate(gradients(2000, 40, dtype)):
        if step in (7, 19):
            born = torch.arange(step, n, 9)
            regrow(opts[0], dense, where[born], step)
            regrow(opts[1], packed, born, step)
        dense.grad, packed.grad = grad * mask.flatten(), grad[where]
        for opt in opts:
            opt.step()
    assert equal_bits(dense.detach()[where].contiguous(), packed.detach())
    for key in ("exp_avg", "exp_avg_sq"):
        assert equal_bits(opts[0].state[dense][key][where].contiguous(), opts[1].state[packed][key])


def test_n5_tiny_and_huge_gradients():
    """N5: denormal, tiny and huge gradients, and infinite moments, give what torch's AdamW gives."""
    sizes = torch.tensor([1e-45, 1e-40, 1e-38, 1e-30, 1e-22, 1e-8, 1.0, 1e8, 1e15, 3e19, 1e22, 1e30, 3e38])
    grad = torch.cat([sizes, -sizes, torch.zeros(1)])
    p, q = parameter(len(grad)), parameter(len(grad))
    ours, theirs = CompactAdamW([p]), torch.optim.AdamW([q], foreach=False)
    for _ in range(3):
        p.grad, q.grad = grad.clone(), grad.clone()
        before = p.detach().clone()
        ours.step()
        theirs.step()
        assert p.isfinite().all()
        assert max_ulp(p.detach(), q.detach(), before) <= 4
        mine, torchs = ours.state[p]["exp_avg_sq"], theirs.state[q]["exp_avg_sq"]
        assert torch.equal(mine.isinf(), torchs.isinf())
        assert max_ulp(mine[mine.isfinite()], torchs[mine.isfinite()]) <= 2
        with torch.no_grad():
            q.copy_(p)


def test_n6_eps_placement_matches_torch():
    """N6: eps is added to the corrected root, outside of it; a large eps tells the places apart."""
    for eps in (1e-8, 1e-2, 1.0):
        p = parameter(1000, torch.float64)
        opt, reference = CompactAdamW([p], eps=eps, lr=1e-2), ReferenceAdamW(p.detach(), eps=eps, lr=1e-2)
        q = parameter(1000, torch.float64)
        theirs = torch.optim.AdamW([q], eps=eps, lr=1e-2)
        for grad in gradients(1000, 20, torch.float64):
            p.grad, q.grad = grad, grad.clone()
            opt.step()
            theirs.step()
            reference.step(grad)
        torch.testing.assert_close(p.detach(), reference.w, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("start", [0, 1, 2**24 - 1, 2**24, 2**31, 2**40])
def test_n7_bias_correction_at_step_1_and_beyond_2_24(start):
    """N7: the step counter does not saturate, as float32 would at 2^24, and the corrections follow it."""
    p = parameter(100, torch.float64)
    betas = (0.9, 1 - 1e-9)  # so slow that the correction still matters at 2^24
    opt, reference = CompactAdamW([p], betas=betas), ReferenceAdamW(p.detach(), betas=betas)
    opt.state[p]["step"].fill_(start)
    reference.t = start
    for count, grad in enumerate(gradients(100, 3, torch.float64), 1):
        p.grad = grad
        opt.step()
        reference.step(grad)
        assert opt.state[p]["step"].dtype == torch.int64 and opt.state[p]["step"].item() == start + count
    torch.testing.assert_close(p.detach(), reference.w, rtol=1e-9, atol=1e-12)


def test_n8_bf16_param_fp32_moments_do_not_stall():
    """N8: at b2 = .999 bf16 moments would stop at 2^-8 of their limit; fp32 moments reach it."""
    p = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    opt = CompactAdamW([p], lr=0.0)
    for _ in range(5000):
        p.grad = torch.full_like(p, 0.5)
        opt.step()
    assert opt.state[p]["exp_avg_sq"].dtype == torch.float32
    torch.testing.assert_close(
        opt.state[p]["exp_avg_sq"], torch.full((64,), 0.25 * (1 - 0.999**5000)), rtol=1e-4, atol=0
    )


def test_n8_stochastic_rounding_keeps_updates_below_one_ulp():
    """N8: updates of 1/20 bf16 ulp are lost by rounding to nearest, kept on average by rounding at random."""
    n, steps, lr = 400_000, 40, 2.0**-7 / 20
    results = {}
    for stochastic in (False, True):
        p = torch.nn.Parameter(torch.ones(n, dtype=torch.bfloat16))
        opt = CompactAdamW([p], lr=lr, weight_decay=0, stochastic_rounding=stochastic, seed=5)
        for _ in range(steps):
            p.grad = torch.full_like(p, -1.0)
            opt.step()
        results[stochastic] = p.detach().double()
    assert bool((results[False] == 1).all())
    mean = results[True].mean().item()
    print(f"N8: mean {mean:.6f}, exact {1 + steps * lr:.6f}")
    assert abs(mean - (1 + steps * lr)) < 3e-5


def test_n8_stochastic_rounding_is_a_function_of_seed_parameter_and_step():
    runs = []
    for seed in (5, 5, 6):
        p = [torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16)) for _ in range(2)]
        opt = CompactAdamW(p, lr=1e-4, stochastic_rounding=True, seed=seed)
        torch.manual_seed(len(runs))  # the global generator plays no part
        for _ in range(2):
            for q in p:
                q.grad = torch.full_like(q, -1.0)
            opt.step()
        runs.append([q.detach().clone() for q in p])
    assert equal_bits(runs[0][0], runs[1][0]) and equal_bits(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])
    assert not torch.equal(runs[0][0], runs[2][0])


SCHEDULES = {
    "paper": ({"warmup": 100}, linear_warm(100)),
    "linear": ({"warmup": 7, "age_schedule": "linear"}, linear_warm(7)),
    "none": ({"age_schedule": "none"}, linear_warm(0)),
    "warmup 0": ({"warmup": 0}, linear_warm(0)),
    "boost": ({"warmup": 5, "boost": 4.0, "boost_tau": 20.0}, linear_warm(5, 4.0, 20.0)),
    "callable": ({"age_schedule": lambda a: 2 / (1 + a)}, lambda a: 2 / (1 + a)),
}


@pytest.mark.parametrize("local_age", [True, False], ids=["local age", "global step"])
@pytest.mark.parametrize("case", SCHEDULES)
def test_n9_warmup_factor_schedule_exact(case, local_age):
    """N9: regrown weights against the closed form in float64, per-element ages, several cohorts."""
    options, warm = SCHEDULES[case]
    values = make_values(30, 40, 300, dtype=torch.float64, name="fc")
    opt = CompactAdamW([values], lr=1e-2, local_age=local_age, **options)
    reference = ReferenceAdamW(values.detach(), lr=1e-2, density=0.25, warm=warm, local_age=local_age)
    for step, grad in enumerate(gradients(300, 130, torch.float64)):
        if step in (10, 20, 110):
            born = torch.arange(step // 10, 300, 7)
            regrow(opt, values, born, step // 10)
            elements = torch.zeros(300, dtype=torch.bool)
            elements[born] = True
            reference.regrow(elements)
        values.grad = grad
        opt.step()
        reference.step(grad)
        torch.testing.assert_close(values.detach(), reference.w, rtol=1e-12, atol=1e-14)


def test_n9_birth_at_step_0_has_no_warmup():
    """N9: weights placed before the first step are initial ones, whatever cohort they carry."""
    values = make_values(4, 5, 20, dtype=torch.float64)
    opt = CompactAdamW([values], warmup=100)
    regrow(opt, values, torch.arange(10), 1)
    with torch.no_grad():
        values.fill_(1.0)
    values.grad = torch.ones_like(values)
    opt.step()
    assert torch.equal(values[:10], values[10:])


def test_n10_density_scale_not_compounded():
    """N10: two densities, many steps, either order: lr * d^-p each time, the group's lr untouched."""
    results = []
    for order in ((0, 1), (1, 0)):
        layers = [make_values(10, 40, 100, dtype=torch.float64), make_values(10, 40, 40, dtype=torch.float64)]
        with torch.no_grad():
            for layer in layers:
                layer.copy_(torch.linspace(-1, 1, len(layer), dtype=torch.float64))
        references = [
            ReferenceAdamW(v.detach(), lr=1e-2, density=d) for v, d in zip(layers, (0.25, 0.1), strict=True)
        ]
        opt = CompactAdamW([layers[i] for i in order], lr=1e-2)
        for grad in gradients(100, 50, torch.float64):
            for layer, reference in zip(layers, references, strict=True):
                layer.grad = grad[: len(layer)].clone()
                reference.step(layer.grad)
            opt.step()
        assert opt.param_groups[0]["lr"] == 1e-2
        for layer, reference in zip(layers, references, strict=True):
            torch.testing.assert_close(layer.detach(), reference.w, rtol=1e-12, atol=1e-14)
        results.append([layer.detach() for layer in layers])
    assert all(map(equal_bits, *results))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_n10_density_exponent(exponent):
    values = make_values(10, 10, 25, dtype=torch.float64)
    start = values.detach().clone()
    opt = CompactAdamW([values], lr=1e-3, weight_decay=0, density_scaling=exponent, eps=0)
    values.grad = torch.ones_like(values)
    opt.step()
    torch.testing.assert_close(values.detach(), start - 1e-3 * 0.25**-exponent, rtol=1e-12, atol=1e-15)


def test_n11_weight_decay_decoupled_vs_l2():
    """N11: decoupled decay is torch's AdamW, coupled decay torch's Adam; both against the method too."""
    for coupled, torch_class in ((False, torch.optim.AdamW), (True, torch.optim.Adam)):
        p, q = parameter(500, torch.float64), parameter(500, torch.float64)
        ours = CompactAdamW([p], lr=1e-2, weight_decay=0.3, coupled_weight_decay=coupled)
        theirs = torch_class([q], lr=1e-2, weight_decay=0.3)
        reference = ReferenceAdamW(p.detach(), lr=1e-2, weight_decay=0.3, coupled=coupled)
        for grad in gradients(500, 30, torch.float64):
            p.grad, q.grad = grad, grad.clone()
            ours.step()
            theirs.step()
            reference.step(grad)
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(p.detach(), reference.w, rtol=1e-12, atol=1e-14)


def test_n12_gradient_clip_includes_sparse():
    """N12: clip_grad_norm_ sees the packed gradients: the norm is that of the masked dense gradient."""
    mask = torch.rand(20, 30, generator=torch.Generator().manual_seed(1)) < 0.25
    dense_grad = torch.randn(20, 30, dtype=torch.float64) * mask
    values = make_values(20, 30, int(mask.sum()), dtype=torch.float64)
    bias = parameter(20, torch.float64)
    values.grad, bias.grad = dense_grad[mask].clone(), torch.randn(20, dtype=torch.float64)
    expected = math.sqrt(dense_grad.square().sum() + bias.grad.square().sum())
    clipped = dense_grad[mask] * (0.5 / (expected + 1e-6))
    opt = CompactAdamW([values, bias])
    norm = torch.nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], 0.5)
    assert norm.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(values.grad, clipped, rtol=1e-12, atol=0)


def test_n13_lr_zero_is_noop_but_moments_move():
    """N13: as torch's."""
    p, q = parameter(200), parameter(200)
    start = p.detach().clone()
    ours, theirs = CompactAdamW([p], lr=0.0), torch.optim.AdamW([q], lr=0.0, foreach=False)
    for grad in gradients(200, 5):
        p.grad, q.grad = grad, grad.clone()
        ours.step()
        theirs.step()
    assert equal_bits(p.detach(), start)
    assert ours.state[p]["step"].item() == 5
    torch.testing.assert_close(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"], rtol=1e-6, atol=1e-9)
    assert bool((ours.state[p]["exp_avg_sq"] > 0).all())
