# SPDX-License-Identifier: BSD-3-Clause
"""The operators against dense torch: values, derivatives, dtypes, shapes, errors, opcheck."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import smet
from problems import PROBLEMS, SMALL, Problem
from smet._packing import pack, unpack

OPS = torch.ops.smet
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Every row of the algorithm table with the dtypes that it has.
ALGORITHMS = [
    (name, dtype)
    for name in smet._C.algorithm_names("cpu")
    for dtype in FLOATS
    if name != "tile_spmm" or dtype != torch.float64
]
# Unit roundoff of a result that was computed in fp32 (fp64 for fp64) and rounded once.
ROUNDING = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def draw(problem, dtype=torch.float64, device="cpu"):
    """(x, values, mask, rank, bias, boolean dense mask); the numbers are exact in every dtype."""
    n = round(problem.density * problem.out * problem.in_)
    mask = OPS.draw_positions(
        pack(torch.zeros(problem.out, problem.in_, dtype=torch.bool)), problem.in_, n, 7
    )
    rank = OPS.mask_rank(mask, problem.in_)

    def numbers(*shape):
        return (torch.randint(-64, 65, shape) / 64).to(device=device, dtype=dtype)

    x, values, bias = numbers(problem.tokens, problem.in_), numbers(n), numbers(problem.out)
    return x, values, mask.to(device), rank.to(device), bias, unpack(mask, problem.in_).to(device)


def dense(values, active):
    """W by plain torch indexing, in fp64."""
    weight = torch.zeros(active.shape, dtype=torch.float64, device=values.device)
    weight[active] = values.double()
    return weight


def close(result, exact, magnitude, terms):
    """|result - exact| within the bound of a sum of `terms` products in the compute dtype, rounded once."""
    compute = ROUNDING[torch.float64 if result.dtype == torch.float64 else torch.float32]
    bound = (terms + 2) * compute * magnitude + ROUNDING[result.dtype] * exact.abs() + 2**-24 * 2**-14
    return bool(((result.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_expand_gather_are_indexing_s3_s6(problem, dtype, device):
    _, values, mask, rank, _, active = draw(problem, dtype, device)
    weight = OPS.expand(values, mask, rank, problem.in_)
    assert weight.dtype == dtype and torch.equal(weight.double(), dense(values, active))
    full = torch.randn(problem.out, problem.in_, device=device).to(dtype)
    assert torch.equal(OPS.gather(full, mask, rank, values.numel()), full[active])
    assert torch.equal(OPS.gather(full.t().contiguous().t(), mask, rank, values.numel()), full[active])


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_mask_rank_counts_the_active_before_each_segment(problem, device):
    _, _, _, rank, _, active = draw(problem, device=device)
    flat = active.flatten().cumsum(0)
    for row in range(problem.out):
        for segment in range(rank.shape[1]):
            position = row * problem.in_ + segment * 1024
            assert rank[row, segment] == (flat[position - 1] if position else 0)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("algorithm,dtype", ALGORITHMS, ids=str)
def test_sparse_linear_equals_dense_s3_s6_s14(problem, algorithm, dtype):
    x, values, mask, rank, bias, active = draw(problem, dtype)
    weight, wide = dense(values, active), x.double()
    for given in (None, bias):
        y = OPS.sparse_linear(x, values, mask, rank, given, algorithm)
        extra = 0 if given is None else bias.double()
        magnitude = wide.abs() @ weight.abs().t() + (0 if given is None else bias.double().abs())
        assert y.dtype == dtype and close(y, wide @ weight.t() + extra, magnitude, problem.in_)
    dy = (torch.randint(-64, 65, (problem.tokens, problem.out)) / 64).to(dtype)
    dx = OPS.sparse_linear_backward_input(dy, values, mask, rank, problem.in_, algorithm)
    wide_dy = dy.double()
    assert dx.dtype == dtype and close(dx, wide_dy @ weight, wide_dy.abs() @ weight.abs(), problem.out)
    dv = OPS.sparse_linear_backward_values(dy, x, mask, rank, values.numel(), algorithm)
    exact, magnitude = (wide_dy.t() @ wide)[active], (wide_dy.abs().t() @ wide.abs())[active]
    assert dv.dtype == dtype and close(dv, exact, magnitude, problem.tokens)
    both = OPS.sparse_linear_backward(dy, x, values, mask, rank, algorithm)
    assert torch.equal(both[0], dx) and torch.equal(both[1], dv)


def test_several_tiles_equal_one(threads):
    """The layer is larger than one thread's scratch in both directions."""
    problem = Problem(700, 9001, 0.05, 3)
    x, values, mask, rank, bias, active = draw(problem, torch.float64)
    with threads(1):
        assert problem.out * problem.in_ * 8 > 4 * smet._C.expand_gemm_scratch_bytes()
        y = OPS.sparse_linear(x, values, mask, rank, bias)
        dy = torch.randint(-8, 9, y.shape).double()
        dx = OPS.sparse_linear_backward_input(dy, values, mask, rank, problem.in_)
        dv = OPS.sparse_linear_backward_values(dy, x, mask, rank, values.numel())
    weight = dense(values, active)  # small dyadic numbers: every sum is exact in fp64
    assert torch.equal(y, x @ weight.t() + bias)
    assert torch.equal(dx, dy @ weight)
    assert torch.equal(dv, (dy.t() @ x)[active])


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_n4_gradcheck_and_gradgradcheck_fp64(problem):
    x, values, mask, rank, bias, _ = draw(problem)
    x, values, bias = (t.requires_grad_() for t in (x, values, bias))

    def linear(x, values, bias):
        return OPS.sparse_linear(x, values, mask, rank, bias)

    fast = problem.out * problem.in_ > 100  # one random direction instead of every element
    assert gradcheck(linear, (x, values, bias), fast_mode=fast)
    assert gradgradcheck(linear, (x, values, bias), fast_mode=fast)
    full = torch.randn(problem.out, problem.in_, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: OPS.expand(v, mask, rank, problem.in_), values, fast_mode=fast)
    assert gradcheck(lambda w: OPS.gather(w, mask, rank, values.numel()), full, fast_mode=fast)


@pytest.mark.parametrize("wanted", ["input", "values", "bias", "input values"])
def test_only_what_needs_a_gradient_is_computed(wanted):
    tensors = dict(zip(("input", "values", "mask", "rank", "bias"), draw(SMALL[0])[:5], strict=True))
    for name in wanted.split():
        tensors[name].requires_grad_()
    names = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    y = OPS.sparse_linear(*tensors.values())
    with Record():
        y.sum().backward()
    assert ("smet::sparse_linear_backward_input" in names) == (wanted == "input")
    assert ("smet::sparse_linear_backward_values" in names) == (wanted == "values")
    assert ("smet::sparse_linear_backward" in names) == (wanted == "input values")
    assert all(tensors[name].grad is not None for name in wanted.split())


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3), (2, 1, 3)], ids=str)
def test_s5_any_leading_dimensions(shape):
    problem = SMALL[0]
    _, values, mask, rank, bias, active = draw(problem)
    x = torch.randn(*shape, problem.in_, dtype=torch.float64, requires_grad=True)
    y = OPS.sparse_linear(x, values.requires_grad_(), mask, rank, bias.requires_grad_())
    expected = torch.nn.functional.linear(x, dense(values.detach(), active), bias)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    ours = torch.autograd.grad(y.sum(), (x, bias, values))
    theirs = torch.autograd.grad(expected.sum(), (x, bias))
    for a, b in zip(ours, theirs, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert shape != (0,) or not ours[2].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_s1_noncontiguous_and_expanded_inputs_and_gradients(dtype):
    problem = SMALL[0]
    x, values, mask, rank, _, _ = draw(problem, dtype)
    # Small dyadic numbers: sums are exact, so that results are equal whatever order BLAS adds in.
    dy = torch.randint(-64, 65, (problem.tokens, problem.out)).to(dtype) / 64
    wide = torch.randint(-64, 65, (problem.tokens, 2 * problem.in_ + 1)).to(dtype) / 64
    inputs = [x.t().contiguous().t(), x[:1].expand(4, -1), x[:, :1].expand(-1, problem.in_)]
    inputs += [wide[:, 1 : problem.in_ + 1], wide[:, 1::2]]
    grads = [dy.t().contiguous().t(), dy[:1, :1].expand(4, problem.out)]
    for tensor in inputs:
        for grad in grads:
            a, b = tensor.contiguous(), grad.contiguous()
            checks = [
                (OPS.sparse_linear, (tensor, values, mask, rank), (a, values, mask, rank)),
                (OPS.sparse_linear_backward_values, (grad, tensor, mask, rank, values.numel()), None),
                (OPS.sparse_linear_backward_input, (grad, values, mask, rank, problem.in_), None),
            ]
            assert torch.equal(checks[0][0](*checks[0][1]), checks[0][0](*checks[0][2]))
            assert torch.equal(checks[1][0](*checks[1][1]), checks[1][0](b, a, *checks[1][1][2:]))
            assert torch.equal(checks[2][0](*checks[2][1]), checks[2][0](b, *checks[2][1][1:]))
    strided = torch.stack([values, values], 1)[:, 0]
    assert torch.equal(
        OPS.expand(strided, mask, rank, problem.in_), OPS.expand(values, mask, rank, problem.in_)
    )


@pytest.mark.parametrize("out,in_", [(0, 5), (5, 0), (0, 0)])
def test_layers_without_positions(out, in_):
    mask = torch.zeros(out, -(-in_ // 32), dtype=torch.int32)
    rank, values, bias = OPS.mask_rank(mask, in_), torch.zeros(0, requires_grad=True), torch.randn(out)
    x = torch.randn(3, in_, requires_grad=True)
    y = OPS.sparse_linear(x, values, mask, rank, bias)
    assert torch.equal(y, bias.expand(3, out))
    gx, gv = torch.autograd.grad(y.sum(), (x, values))
    assert gx.shape == x.shape and not gx.any() and gv.shape == (0,)


def test_s4_index_math_beyond_2_to_31():
    """A 200,000 x 200,000 layer: 4e10 positions, shapes only."""
    side, n = 200_000, 2**31 - 1
    meta = {"device": "meta"}
    mask = torch.empty(side, side // 32, dtype=torch.int32, **meta)
    rank = OPS.mask_rank(mask, side)
    assert rank.shape == (side, 196)
    x, values = torch.empty(2, side, **meta), torch.empty(n, **meta)
    assert OPS.sparse_linear(x, values, mask, rank).shape == (2, side)
    assert OPS.sparse_linear_backward_values(x, x, mask, rank, n).shape == (n,)
    assert OPS.expand(values, mask, rank, side).numel() == side * side


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_g8_autocast_dtypes_forward_backward(dtype):
    problem = SMALL[0]
    x, values, mask, rank, bias, _ = draw(problem, torch.float32)
    x, values, bias = (t.requires_grad_() for t in (x, values, bias))
    with torch.autocast("cpu", dtype=dtype):
        y = OPS.sparse_linear(x, values, mask, rank, bias)
        low = OPS.sparse_linear(x.to(dtype), values.to(dtype), mask, rank, bias.to(dtype))
        assert y.dtype == dtype and torch.equal(y, low)
        y.sum().backward()  # also inside autocast: scratch products must stay fp32
    assert all(t.grad.dtype == torch.float32 for t in (x, values, bias))
    dy = torch.full_like(y, 1)
    with torch.autocast("cpu", dtype=dtype):
        wide = OPS.sparse_linear_backward_values(dy.float(), x.detach(), mask, rank, values.numel())
    assert wide.dtype == torch.float32
    plain = OPS.sparse_linear_backward_values(dy.float(), x.detach(), mask, rank, values.numel())
    assert torch.equal(wide, plain)


def test_grad_topk_equals_sorting_the_dense_gradient():
    problem = Problem(90, 3000, 0.3, 6)
    x, _, mask, _, _, active = draw(problem, torch.float64)
    dy = torch.randint(-4, 5, (problem.tokens, problem.out)).double()  # many equal magnitudes: ties count
    score = (dy.t() @ x).abs()
    score[active] = -1
    for k in (0, 1, 1000, int((~active).sum())):
        positions = torch.full((k,), -1)
        OPS.grad_topk_(positions, dy, x, mask)
        expected = score.flatten().argsort(descending=True, stable=True)[:k].sort().values
        assert torch.equal(positions, expected)
