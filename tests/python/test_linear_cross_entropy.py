# SPDX-License-Identifier: BSD-3-Clause
"""linear_cross_entropy: torch's loss and gradients within derived bounds, and never all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import smet
from smet.train.process_memory import peak_bytes, reset_peak, resident_bytes

OP = torch.ops.smet.linear_cross_entropy
EPS = 2.0**-24


def problem(dtype=torch.float32, tokens=37, features=24, classes=1000, seed=0):
    """Input, weight, bias, and targets of which some are ignored."""
    draw = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, features, generator=draw).to(dtype) for n in (tokens, classes))
    bias = torch.randn(classes, generator=draw).to(dtype)
    target = torch.randint(classes, (tokens,), generator=draw)
    target[::5] = -100
    return [t.requires_grad_() for t in (x, w, bias)], target


def exact_logits(tokens=64, features=8, classes=3000):
    """Whole numbers whose products float32 holds exactly: what is left is the error of the log-sum-exp."""
    draw = torch.Generator().manual_seed(1)
    x, w = (torch.randint(-3, 4, (n, features), generator=draw).float() for n in (tokens, classes))
    return x, w, torch.randint(classes, (tokens,), generator=draw)


def torchs(x, w, bias, target, **options):
    return F.cross_entropy(F.linear(x, w, bias).flatten(0, -2), target.flatten(), **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_float64_equals_torch(reduction, with_bias, ignore_index):
    (x, w, bias), target = problem(torch.float64)
    target[target == -100] = ignore_index
    options = {"reduction": reduction, "ignore_index": ignore_index}
    given = bias if with_bias else None
    ours = smet.linear_cross_entropy(x, w, target, linear_bias=given, **options)
    theirs = torchs(x, w, given, target, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    wanted = [x, w, bias] if with_bias else [x, w]
    scale = torch.linspace(1, 2, ours.numel(), dtype=torch.float64).view(ours.shape)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, scale), torch.autograd.grad(theirs, wanted, scale), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("slice_", [0, 1, 7, 64, 1000, 5000])
def test_slices_change_nothing_but_rounding(slice_):
    (x, w, bias), target = problem(torch.float64)
    losses = OP(x, w, target, bias, -100, slice_)[0]
    torch.testing.assert_close(losses, torchs(x, w, bias, target, reduction="none"), rtol=1e-13, atol=1e-13)
    grads = torch.autograd.grad(losses.sum(), (x, w, bias))
    expected = torch.autograd.grad(torchs(x, w, bias, target, reduction="sum"), (x, w, bias))
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_gradcheck():
    (x, w, bias), target = problem(torch.float64, tokens=6, features=3, classes=11)
    assert torch.autograd.gradcheck(lambda *a: OP(a[0], a[1], target, a[2], -100, 4)[0], (x, w, bias))
    loss = smet.linear_cross_entropy(x, w, target)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("slice_", [0, 100])
def test_float32_loss_within_its_bound(slice_):
    """exp errs by 1 ulp, a pairwise sum of less than 2^12 terms by 12: 2^-20 in the log, then rounding."""
    x, w, target = exact_logits()
    losses = OP(x, w, target, None, -100, slice_)[0]
    exact = F.cross_entropy(x.double() @ w.double().t(), target, reduction="none")
    error = (losses.double() - exact).abs()
    assert error.max() > 0
    assert (error <= 2.0**-20 + EPS * exact.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_within_their_bound(dtype):
    """A softmax errs by its exponent's rounding; a sum of k products by k eps of the sum of their sizes."""
    (x, w, _), target = problem(dtype, tokens=70, features=16, classes=900)
    losses = OP(x, w, target, None, -100, 128)[0]
    assert losses.dtype == torch.float32
    losses.sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    logits = wide[0] @ wide[1].t()
    F.cross_entropy(logits, target, reduction="sum").backward()
    size = (wide[0].abs() @ wide[1].abs().t()).detach()  # bounds partial sums of the logits
    softmax = torch.softmax(logits.detach(), 1) * (target != -100)[:, None]
    absolute = softmax + F.one_hot(target.clamp(min=0), 900) * (target != -100)[:, None]
    # The exponent's absolute error is the softmax's relative one: products and their sum, log-sum-exp, minus.
    relative = EPS * (16 * size + 4 * logits.abs().detach() + 40)
    slope = softmax * relative
    bounds = [
        slope @ wide[1].abs() + 900 * EPS * (absolute @ wide[1].abs()),
        slope.t() @ wide[0].abs() + 70 * EPS * (absolute.t() @ wide[0].abs()),
    ]
    half_ulp = {torch.float32: EPS, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    smallest = 2.0**-25 if dtype == torch.float16 else 0.0  # half of the smallest subnormal
    for ours, exact, bound in zip((x, w), wide, bounds, strict=True):
        assert ours.grad.dtype == dtype
        error = (ours.grad.double() - exact.grad).abs()
        assert (error <= 1.01 * (bound + half_ulp * (exact.grad.abs() + bound)) + smallest).all()


def test_never_all_logits():
    tokens, classes = 2048, 50_000  # 410 MB of logits
    x, w = torch.randn(tokens, 32, requires_grad=True), torch.randn(classes, 32, requires_grad=True)
    target = torch.randint(classes, (tokens,))
    smet.linear_cross_entropy(x[:64], w, target[:64]).backward()  # threads, code
    reset_peak()
    before = resident_bytes()
    smet.linear_cross_entropy(x, w, target).backward()
    assert peak_bytes() - before < 64 << 20  # 32 MB of scratch, 13 of gradients
    torch.testing.assert_close(
        smet.linear_cross_entropy(x, w, target), torchs(x, w, None, target), rtol=1e-5, atol=0
    )


def test_any_leading_dimensions_and_no_tokens():
    (x, w, _), target = problem(tokens=30)
    shaped = smet.linear_cross_entropy(x.view(2, 15, 24), w, target.view(2, 15), reduction="none")
    assert torch.equal(shaped, smet.linear_cross_entropy(x, w, target, reduction="none").view(2, 15))
    one = smet.linear_cross_entropy(x[1], w, target[1])
    torch.testing.assert_close(one, F.cross_entropy(w @ x[1], target[1]), rtol=1e-5, atol=0)
    assert smet.linear_cross_entropy(x[:0], w, target[:0], reduction="sum") == 0
    assert smet.linear_cross_entropy(x[:0], w, target[:0]).isnan()  # as torch's
    assert smet.linear_cross_entropy(x, w, torch.full((30,), -100)).isnan()


def test_excluded_classes_and_frozen_arguments():
    (x, w, bias), target = problem(tokens=9, classes=300)
    bias = bias.detach()
    bias[200:] = -float("inf")
    target = target.clamp(min=0) % 200
    losses = OP(x, w.detach(), target, bias, -100, 64)[0]  # whole slices are excluded
    expected = torchs(x, w, bias, target, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(losses.sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), x)[0], rtol=1e-4, atol=1e-5)


def test_autocast_and_compile():
    (x, w, _), target = problem()
    with torch.autocast("cpu", torch.bfloat16):
        ours = smet.linear_cross_entropy(x, w, target)
    assert torch.equal(ours, smet.linear_cross_entropy(x.bfloat16(), w.bfloat16(), target))
    ours.backward()
    assert x.grad.dtype == torch.float32
    compiled = torch.compile(smet.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(smet.linear_cross_entropy(x, w, target), x)
    assert torch.equal(torch.autograd.grad(compiled(x, w, target), x)[0], expected)


def test_opcheck():
    (x, w, bias), target = problem(tokens=5, classes=70)
    opcheck(OP, (x, w, target, bias, -100, 32))
    opcheck(OP, (x.detach(), w.detach(), target))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.ones(7, 3)}, ValueError, r"input has shape \[7, 3\]; expected \[tokens, 24\]"),
        ({"target": torch.zeros(6, dtype=torch.long)}, ValueError, r"target has shape \(6,\)"),
        ({"target": torch.zeros(7)}, TypeError, "target has dtype Float"),
        ({"target": torch.full((7,), 1000)}, IndexError, r"target holds a class outside \[0, 1000\)"),
        ({"target": torch.full((7,), -1)}, IndexError, "that is not ignore_index"),
        ({"linear_weight": torch.ones(9, 24).double()}, TypeError, "linear_weight has dtype Double"),
        ({"linear_weight": torch.ones(24)}, ValueError, r"expected \[classes, features\]"),
        ({"linear_bias": torch.ones(9)}, ValueError, r"linear_bias has shape \[9\]; expected \[1000\]"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'; expected 'mean', 'sum', 'none'"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {
        "input": torch.ones(7, 24),
        "linear_weight": torch.ones(1000, 24),
        "target": torch.zeros(7, dtype=torch.long),
        **change,
    }
    with pytest.raises(error, match=message):
        smet.linear_cross_entropy(**arguments)
