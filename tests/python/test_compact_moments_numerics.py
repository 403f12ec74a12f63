# SPDX-License-Identifier: BSD-3-Clause
"""Cases N1-N13 of CompactAdamW for bf16 and 8-bit moments.

A step reads moments from their codes, computes with them in fp32, moves the parameter by the results as they
are, and rounds those at random to one of the two neighbouring codes. So against the method in float64, from
the decoded state and one step long,

    weights   within 4 ulp of the largest of their terms: N1's bound, no rounding of a moment takes part
    codes     one of the two neighbours of the float64 moment (of fp32's, 4 ulp from it)

which `follow` asserts at every step of every case. Only over many steps do roundings show; those bounds are
derived where they stand.
"""

import math

import pytest
import torch
from torch.nn import Parameter

import smet
from adamw_helpers import equal_bits, ulp
from reference_adamw import ReferenceAdamW, linear_warm
from smet import CompactAdamW
from test_8bit_moments import blocks_of, decoded
from test_compact_adamw_numerics import gradients, regrow

FORMATS = pytest.mark.parametrize("moments", ["bf16", "8bit"])
ROWS, COLS = 6, 512


def dense(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return Parameter(torch.randn(ROWS, COLS, generator=generator)), None


def sparse():
    layer = smet.SparseLinear(2100, ROWS, bias=False, density=0.25, name="fc", seed=1)
    return layer.values, layer


def moments_of(state, layer):
    """(m, v) in float64."""
    if state["exp_avg"].dtype == torch.int8:
        return decoded(state, layer)
    return state["exp_avg"].double(), state["exp_avg_sq"].double()


def assert_neighbours(state, layer, m, v, terms):
    """Every stored moment is one of the two nearest codes around (m, v), the float64 moments of the step.

    fp32's moments, which are what is rounded, are off from those by 4 ulp of their largest term (N1): `terms`
    of m, which may cancel, v itself of v.
    """
    slack = 4 * 2.0**-23
    if state["exp_avg"].dtype == torch.bfloat16:
        for got, want, term in ((state["exp_avg"], m, terms), (state["exp_avg_sq"], v, v)):
            unit = torch.exp2(torch.floor(torch.log2(want.abs().clamp(min=2.0**-126)))) * 2.0**-7
            assert ((got.double() - want).abs() < unit + slack * term + 2.0**-132).all()
        return
    block = blocks_of(state, layer)
    for got, want, term, key, most in (
        (state["exp_avg"].double().abs(), m.abs(), terms, "exp_avg_scale", 127),
        (state["exp_avg_sq"].double(), v.sqrt(), v.sqrt(), "exp_avg_sq_scale", 255),
    ):
        scale = state[key].flatten().double()
        zeros = torch.zeros_like(scale)
        largest = zeros.scatter_reduce(0, block.flatten(), want.flatten(), "amax")
        error = slack * zeros.scatter_reduce(0, block.flatten(), term.flatten(), "amax")
        assert ((largest - scale).abs() <= error + 1e-44).all()
        scale, error = scale[block], error[block]
        units = torch.where(scale > 0, want / scale, 0.0) * most**2
        # In units, of which a code's neighbours are at least one apart, the errors of moment and scale; and a
        # number within 2^-15 of the way from a code to the next is that code.
        tolerance = 1 + 2.0**-14 + 2 * most**2 * torch.where(scale > 0, error / scale, 0.0)
        assert ((got - units.clamp(max=most**2).sqrt()).abs() < tolerance).all()


def follow(opt, p, layer, reference, grads, event=None):
    """Steps with each gradient, each compared with the reference from the decoded state."""
    state = opt.state[p]
    for step, grad in enumerate(grads):
        if event is not None:
            event(step)
        before = p.detach().clone()
        reference.w = before.double()
        reference.m, reference.v = moments_of(state, layer)
        old_m = reference.m.abs()
        p.grad = grad.reshape(p.shape)
        reference.step(p.grad)
        opt.step()
        terms = torch.maximum(reference.w.abs(), before.double().abs())
        beta1, beta2 = reference.betas
        age = (
            reference.t - reference.birth if reference.local_age else torch.full_like(p, reference.t)
        ).double()
        root = (reference.v / (1 - beta2**age)).sqrt() + reference.eps
        g = p.grad.double().abs() + (
            reference.weight_decay * before.double().abs() if reference.coupled else 0
        )
        lr = reference.lr * reference.density**-reference.exponent * 4  # warm(a) is at most 4 here
        update = lr * (old_m + (1 - beta1) * g) / (1 - beta1**age) / root  # at most: |m| can be the sum
        near = 4 * ulp(torch.maximum(terms, torch.nan_to_num(update, posinf=0.0)), torch.float32)
        assert ((p.detach().double() - reference.w).abs() <= near).all(), step
        assert_neighbours(state, layer, reference.m, reference.v, torch.maximum(old_m, (1 - beta1) * g))


@FORMATS
@pytest.mark.parametrize("make", [dense, sparse])
def test_n1_every_step_against_float64(moments, make):
    """N1: 300 steps without an outlier.

    And a whole run: the weights' way differs from fp32's by what the roundings do to m / sqrt(v). One
    rounding of v has a standard deviation of at most half the distance of its neighbours, e v; v remembers
    1 / (1 - beta2^2) = 500 of them and its root halves it: e sqrt(500) / 2, .044 for bf16's e = 2^-8. m
    remembers 5.3: .009. So every update is off by less than 5 % of itself in standard deviation and so is
    their sum, however they go together. 8-bit v has no such bound: a sqrt(v) far below its block's largest
    one has neighbours as far as itself.
    """
    p, layer = make()
    opt = CompactAdamW([p], moments=moments)
    density = 1.0 if layer is None else layer.density
    reference = ReferenceAdamW(p.detach(), density=density)
    follow(opt, p, layer, reference, gradients(p.numel(), 300))
    if moments == "8bit":
        return
    p, layer = make()
    start, length = p.detach().clone(), torch.zeros(p.shape, dtype=torch.float64)
    opt, whole = CompactAdamW([p], moments=moments), ReferenceAdamW(p.detach(), density=density)
    for grad in gradients(p.numel(), 300):
        p.grad = grad.reshape(p.shape)
        before = whole.w.clone()
        whole.step(p.grad)
        length += (whole.w - before).abs()
        opt.step()
    assert not torch.equal(p, start)
    assert (p.detach().double() - whole.w).norm() <= 0.05 * length.norm()


@FORMATS
def test_n2_dense_equals_torch_at_density_1(moments):
    """N2: from zero moments the parameter moves as fp32's, bit for bit, whose N2 compares it with torch's."""
    (p, _), (q, _) = dense(), dense()
    compact, full = CompactAdamW([p], moments=moments), CompactAdamW([q])
    for step, grad in enumerate(gradients(p.numel(), 20)):
        for param, opt in ((p, compact), (q, full)):
            param.grad = grad.reshape(param.shape)
            state = opt.state[param]
            for key in ("exp_avg", "exp_avg_sq"):
                state[key].zero_()
            assert int(state["step"]) == step
            opt.step()
        assert equal_bits(p.detach(), q.detach())


@FORMATS
def test_n3_newborns_equal_dense_ones(moments):
    """N3: packed values with cohorts against all positions: equal bit for bit while moments are zero, so at
    births; afterwards each follows the method (`follow`), with random bits of its own."""
    p, layer = sparse()
    full = smet.SparseLinear(2100, ROWS, bias=False, density=1.0, name="all", seed=1)
    columns = torch.arange(2100)
    where = ((layer.mask[:, columns // 32] >> (columns % 32)) & 1 == 1).flatten().nonzero().flatten()
    with torch.no_grad():
        p.copy_(full.values[where])
    options = {"lr": 1e-2, "density_scaling": 0, "warmup": 10, "moments": moments}
    opts = CompactAdamW([full.values], **options), CompactAdamW([p], **options)
    for step, grad in enumerate(gradients(full.values.numel(), 20)):
        born = torch.arange(step, p.numel(), 9)
        if step in (0, 7, 15):
            if step:
                regrow(opts[0], full.values, where[born], step)
                regrow(opts[1], p, born, step)
            else:
                born = torch.arange(p.numel())
        full.values.grad, p.grad = grad, grad[where]
        for opt in opts:
            opt.step()
        if step in (0, 7, 15):
            assert equal_bits(full.values.detach()[where][born], p.detach()[born])


@FORMATS
def test_n5_tiny_and_huge_gradients(moments):
    """N5: parameters stay finite, a live v stays live; every size has rows, hence blocks, of its own."""
    sizes = torch.tensor([1e-45, 1e-40, 1e-30, 1e-22, 1e-8, 1.0, 1e8, 1e15, 3e18])
    p = Parameter(torch.randn(len(sizes), 128, generator=torch.Generator().manual_seed(0)))
    opt = CompactAdamW([p], moments=moments)
    signs = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).sign()
    for _ in range(50):
        p.grad = sizes[:, None] * signs
        opt.step()
        assert p.isfinite().all()
        v = moments_of(opt.state[p], None)[1]
        live = (sizes.double() ** 2 * 0.001 > 1e-45)[:, None].expand_as(v)
        assert (v[live] > 0).all()
    p, _ = dense()
    p = Parameter(p[:, :128].detach().clone())
    opt, reference = CompactAdamW([p], moments=moments), ReferenceAdamW(p.detach())
    follow(opt, p, None, reference, (g * 1e12 for g in gradients(p.numel(), 20, spread=6)))


@FORMATS
@pytest.mark.parametrize("eps", [1e-8, 1e-2, 1.0])
def test_n6_eps_placement(moments, eps):
    """N6: eps is added to the corrected root of the decoded v."""
    p, layer = sparse()
    opt = CompactAdamW([p], eps=eps, lr=1e-2, moments=moments)
    reference = ReferenceAdamW(p.detach(), eps=eps, lr=1e-2, density=layer.density)
    follow(opt, p, layer, reference, gradients(p.numel(), 20))


@FORMATS
@pytest.mark.parametrize("start", [1, 2**24, 2**40])
def test_n7_corrections_and_random_bits_beyond_2_24(moments, start):
    """N7: the corrections follow the counter, and so do the random bits: no two steps round alike."""
    p, _ = dense()
    opt = CompactAdamW([p], betas=(0.9, 1 - 1e-4), moments=moments)
    reference = ReferenceAdamW(p.detach(), betas=(0.9, 1 - 1e-4))
    opt.state[p]["step"].fill_(start)
    reference.t = start
    follow(opt, p, None, reference, gradients(p.numel(), 3))
    codes = []
    for _ in range(2):
        for key in ("exp_avg", "exp_avg_sq"):
            opt.state[p][key].zero_()
        opt.step()
        codes.append(opt.state[p]["exp_avg"].clone())
    assert not torch.equal(*codes)


@FORMATS
def test_n8_v_does_not_stall(moments):
    """N8: v of equal gradients reaches its limit and stays there on average.

    Its rounding is unbiased in bf16; in 8 bits that of sqrt(v) is, so that v gains the variance of one
    rounding a step, at most a quarter of the squared distance of the neighbours, (2 c + 1) / 255^2 of the
    scale, and remembers 1 / (1 - beta2) of them. The limit of n weights' mean is known to 5 standard errors:
    one rounding of v is off by at most half a distance, of which 1 / (1 - beta2^2) = 500 are remembered.
    """
    n, steps = 20_000, 4000
    p = Parameter(torch.zeros(8, n // 8))
    opt = CompactAdamW([p], lr=0.0, moments=moments)
    grad = torch.full_like(p, 0.25)
    grad[:, ::512] = 0.5  # the largest of each block, which is exact
    for _ in range(steps):
        p.grad = grad
        opt.step()
    usual = torch.ones_like(p, dtype=torch.bool)
    usual[:, ::512] = False
    v = moments_of(opt.state[p], None)[1][usual]
    exact = 0.0625 * (1 - 0.999**steps)
    if moments == "bf16":
        distance, excess = 2.0**-12, 0.0  # v is in [2^-5, 2^-4), eight bits
    else:
        scale = 0.5 * math.sqrt(1 - 0.999**steps)
        distance_of_root = (2 * math.sqrt(0.5) * 255 + 1) / 255**2 * scale  # sqrt(v) is half the scale
        distance, excess = 2 * math.sqrt(exact) * distance_of_root, 1000 * distance_of_root**2 / 4
    error = 5 * distance / 2 * math.sqrt(500 / v.numel())
    assert exact - error <= v.mean().item() <= exact + excess + error


@FORMATS
@pytest.mark.parametrize(
    ("options", "warm"),
    [
        ({"warmup": 5}, linear_warm(5)),
        ({"warmup": 5, "boost": 4.0, "boost_tau": 20.0}, linear_warm(5, 4.0, 20.0)),
        ({"age_schedule": "none", "local_age": False}, linear_warm(0)),
    ],
)
def test_n9_ages(moments, options, warm):
    """N9: newborns' corrections and warm-up, several cohorts in one block."""
    p, layer = sparse()
    opt = CompactAdamW([p], lr=1e-2, moments=moments, **options)
    local_age = options.get("local_age", True)
    reference = ReferenceAdamW(p.detach(), lr=1e-2, density=layer.density, warm=warm, local_age=local_age)

    def event(step):
        if step in (4, 8, 30):
            born = torch.arange(step, p.numel(), 7)
            regrow(opt, p, born, step)
            elements = torch.zeros(p.numel(), dtype=torch.bool)
            elements[born] = True
            reference.regrow(elements)

    follow(opt, p, layer, reference, gradients(p.numel(), 40), event)


@FORMATS
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_n10_density_scale(moments, exponent):
    """N10: lr * d^-p at every step, not compounded."""
    p, layer = sparse()
    opt = CompactAdamW([p], lr=1e-2, density_scaling=exponent, moments=moments)
    reference = ReferenceAdamW(p.detach(), lr=1e-2, density=layer.density, exponent=exponent)
    follow(opt, p, layer, reference, gradients(p.numel(), 15))
    assert opt.param_groups[0]["lr"] == 1e-2


@FORMATS
@pytest.mark.parametrize("coupled", [False, True])
def test_n11_weight_decay_decoupled_vs_l2(moments, coupled):
    """N11, and maximize with it."""
    p, layer = sparse()
    opt = CompactAdamW(
        [p], lr=1e-2, weight_decay=0.3, coupled_weight_decay=coupled, maximize=True, moments=moments
    )
    reference = ReferenceAdamW(
        p.detach(), lr=1e-2, weight_decay=0.3, coupled=coupled, density=layer.density, maximize=True
    )
    follow(opt, p, layer, reference, gradients(p.numel(), 20))


@FORMATS
def test_n12_clipped_gradients_are_those_of_the_step(moments):
    """N12: clip_grad_norm_ scales packed gradients, and the moments are those of what it leaves."""
    p, layer = sparse()
    opt = CompactAdamW([p], moments=moments)
    reference = ReferenceAdamW(p.detach(), density=layer.density)
    grad = next(gradients(p.numel(), 1))
    p.grad = grad.clone()
    norm = torch.nn.utils.clip_grad_norm_([p], 0.5)
    assert norm.item() == pytest.approx(grad.double().norm().item(), rel=1e-6)
    follow(opt, p, layer, reference, [p.grad.clone()])
    m, _ = moments_of(opt.state[p], layer)
    assert m.norm().item() == pytest.approx(0.1 * 0.5, rel=0.02)


@FORMATS
def test_n13_lr_zero_is_noop_but_moments_move(moments):
    """N13."""
    p, layer = sparse()
    start = p.detach().clone()
    opt = CompactAdamW([p], lr=0.0, moments=moments)
    reference = ReferenceAdamW(p.detach(), lr=0.0, density=layer.density)
    follow(opt, p, layer, reference, gradients(p.numel(), 5))
    assert equal_bits(p.detach(), start)
    assert (opt.state[p]["exp_avg_sq"] > 0).all()
