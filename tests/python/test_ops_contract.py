# SPDX-License-Identifier: BSD-3-Clause
"""What may be relied on for every operator: opcheck, errors before any write, bounded scratch."""

import pytest
import torch
from torch.library import opcheck

import smet
from problems import SMALL
from test_ops import OPS, draw

REGISTERED = [n.split(".")[0] for n in torch._C._dispatch_get_all_op_names() if n.startswith("smet::")]


def adamw_arguments():
    n = 6
    tables = torch.tensor([1.0, 1e-3, 1.0], dtype=torch.float64).repeat(256, 1)
    tensors = [[torch.rand(n)] for _ in range(4)]
    return (
        *tensors,
        *([],) * 5,  # no scales, masters, ranks or columns: no 8-bit moments
        [torch.zeros(n, dtype=torch.uint8)],
        [tables],
        [0.9],
        [0.999],
        [1e-8],
        [0.0],
        [False],
        [],
        ["w"],
    )


def cohort_table_arguments():
    births = torch.full((256,), -1)
    births[0] = 0
    steps = [torch.tensor(4), torch.tensor(7)]
    numbers = [1e-3, 1.0, 0.1, 0.9, 0.999, 100.0, 1.0, 50.0]  # lr to boost_tau
    lists = [[number, number] for number in numbers]
    rates = [torch.tensor(1e-3), torch.empty(0)]
    return (steps, [births, torch.empty(0)], rates, *lists, [True, False], [0, 0], [0, 1], ["a", "b"])


def topology_arguments(values, mask, rank, cols):
    moments = [torch.rand_like(values), torch.rand_like(values)]
    cohort = torch.zeros(values.numel(), dtype=torch.uint8)
    return (values, mask, rank, moments, cohort, values.clone(), True, cols, 3, None, 1, 7, 1)


def samples(requires_grad):
    """(operator, arguments) for every operator of the library."""
    problem = SMALL[0]
    x, values, mask, rank, bias, _ = draw(problem, torch.float32)
    dy = torch.randn(problem.tokens, problem.out)
    n, cols = values.numel(), problem.in_
    scratch = torch.empty(4 * n, dtype=torch.uint8)
    fresh = [t.clone() for t in (values, mask, rank)]
    if requires_grad:
        x, values, bias, dy = (t.requires_grad_() for t in (x, values, bias, dy))
    full = torch.randn(problem.out, cols, requires_grad=requires_grad)
    differentiable = [
        ("expand", (values, mask, rank, cols)),
        ("gather", (full, mask, rank, n)),
        ("sparse_linear", (x, values, mask, rank, bias)),
        ("sparse_linear", (x, values, mask, rank)),
        ("sparse_linear_backward", (dy, x, values, mask, rank)),
        ("sparse_linear_backward_input", (dy, values, mask, rank, cols)),
        ("sparse_linear_backward_values", (dy, x, mask, rank, n)),
    ]
    if requires_grad:
        return differentiable
    hidden, classes, target = torch.randn(5, 3), torch.randn(7, 3), torch.arange(5)
    logsumexp = (hidden @ classes.t()).double().logsumexp(1)
    moments = [torch.rand(n), torch.rand(n)]
    cohort = torch.zeros(n, dtype=torch.uint8)
    plan = (mask, rank, fresh[0], True, cols, 3, None, 7, 1)
    return [
        *differentiable,
        ("mask_rank", (mask, cols)),
        ("mask_hash", (mask, cols)),
        ("draw_positions", (mask, cols, 5, 7)),
        ("linear_cross_entropy", (hidden, classes, target)),
        (
            "linear_cross_entropy_backward",
            (torch.ones(5), hidden, classes, target, logsumexp, None, -100, 3, True, True, True),
        ),
        ("grad_topk_", (torch.zeros(4, dtype=torch.int64), dy, x, mask)),
        ("adamw_step_", adamw_arguments()),
        ("cohort_table", cohort_table_arguments()),
        ("count_steps_", ([torch.zeros((), dtype=torch.int64)], torch.zeros(()))),
        ("topology_plan", plan),
        ("topology_commit_", (*fresh, moments, cohort, OPS.topology_plan(*plan)[0], cols, 1, scratch)),
        ("topology_update_", topology_arguments(*[t.clone() for t in fresh], cols)),
    ]


def sample_ids():
    return [(grad, i) for grad in (False, True) for i in range(len(samples(grad)))]


@pytest.mark.parametrize("requires_grad,index", sample_ids())
def test_s10_opcheck(requires_grad, index):
    name, arguments = samples(requires_grad)[index]
    results = opcheck(getattr(OPS, name), arguments)
    assert set(results.values()) == {"SUCCESS"}, (name, results)


WITH_KERNELS = [  # others are made of torch's own operators
    index
    for index, (name, _) in enumerate(samples(False))
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"smet::{name}", "CPU")
]


def test_every_registered_operator_has_a_sample():
    assert {name.removeprefix("smet::") for name in REGISTERED} == {name for name, _ in samples(False)}


@pytest.mark.skipif(bool(smet._C.algorithm_names("cuda")), reason="a CUDA build of smet")
@pytest.mark.parametrize("index", WITH_KERNELS)
def test_a_cuda_tensor_without_a_cuda_build_says_what_is_missing(index):
    """Called as torch would call it for a CUDA tensor, which this machine need not be able to make."""
    name, arguments = samples(False)[index]
    on_cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(NotImplementedError, match=rf"smet::{name} got a CUDA tensor, .*SMET_CUDA=ON"):
        getattr(OPS, name).default.redispatch(on_cuda, *arguments)


def test_unknown_algorithm_lists_the_names(monkeypatch):
    x, values, mask, rank, _, _ = draw(SMALL[0])
    with pytest.raises(ValueError, match=r"unknown algorithm 'fast'.*known: auto, tile_spmm, expand_gemm"):
        OPS.sparse_linear(x, values, mask, rank, None, "fast")
    monkeypatch.setenv("SMET_ALGORITHM", "quick")
    with pytest.raises(ValueError, match="unknown algorithm 'quick'"):
        OPS.sparse_linear(x, values, mask, rank)
    assert OPS.sparse_linear(x, values, mask, rank, None, "expand_gemm").shape == (
        4,
        5,
    )  # the layer's own wins
    with pytest.raises(ValueError, match="'tile_spmm' does not apply to a 5x37 layer of dtype Double"):
        OPS.sparse_linear(x, values, mask, rank, None, "tile_spmm")


LINEAR_ERRORS = {
    "input dtype": (dict(x=torch.float32), TypeError, "input has dtype.*Float.*values.*Double"),
    "integer input": (dict(x=torch.int64), TypeError, "expected float32, float64, bfloat16 or float16"),
    "bias dtype": (dict(bias=torch.float32), TypeError, "bias has dtype"),
    "bias shape": (
        dict(bias=torch.zeros(6, dtype=torch.float64)),
        ValueError,
        r"bias has shape \[6\].*\[5\]",
    ),
    "features": (
        dict(x=torch.zeros(3, 70, dtype=torch.float64)),
        ValueError,
        "mask has shape.*70 input features",
    ),
    "scalar": (dict(x=torch.zeros((), dtype=torch.float64)), ValueError, "input has no dimensions"),
    "values 2-D": (dict(values=torch.zeros(2, 2, dtype=torch.float64)), ValueError, "values has shape"),
    "mask dtype": (dict(mask=torch.int64), TypeError, "mask and rank must be int32"),
    "rank shape": (dict(rank=torch.zeros(4, 1, dtype=torch.int32)), ValueError, "rank has shape.*mask_rank"),
    "device": (
        dict(mask=torch.zeros(5, 2, dtype=torch.int32, device="meta")),
        ValueError,
        "expected one device",
    ),
}


@pytest.mark.parametrize("case", LINEAR_ERRORS)
def test_s6_s7_wrong_arguments_of_sparse_linear(case):
    change, error, message = LINEAR_ERRORS[case]
    arguments = dict(zip(("x", "values", "mask", "rank", "bias"), draw(SMALL[0])[:5], strict=True))
    for name, new in change.items():
        arguments[name] = arguments[name].to(new) if isinstance(new, torch.dtype) else new
    with pytest.raises(error, match=message):
        OPS.sparse_linear(*arguments.values())


def test_wrong_arguments_of_the_backward_operators():
    x, values, mask, rank, _, _ = draw(SMALL[0])
    dy = torch.zeros(4, 5, dtype=torch.float64)
    n, cols = values.numel(), SMALL[0].in_
    with pytest.raises(ValueError, match=r"grad_output has shape.*expected a last dimension of 5"):
        OPS.sparse_linear_backward_input(x, values, mask, rank, cols)
    with pytest.raises(ValueError, match="same leading dimensions"):
        OPS.sparse_linear_backward_values(dy[:2], x, mask, rank, n)
    with pytest.raises(ValueError, match=r"active weights"):
        OPS.sparse_linear_backward_values(dy, x, mask, rank, 2**31)
    with pytest.raises(TypeError, match="dtype"):
        OPS.sparse_linear_backward_values(dy.float(), x, mask, rank, n)


def test_mask_rank_rejects_pad_bits_and_wrong_words():
    mask = torch.zeros(3, 2, dtype=torch.int32)
    mask[1, 1] = 1 << 5
    assert OPS.mask_rank(mask, 38).tolist() == [[0], [0], [1]]
    for op in (OPS.mask_rank, OPS.mask_hash):
        with pytest.raises(ValueError, match="bits set at or beyond column 37"):
            op(mask, 37)
        with pytest.raises(ValueError, match=r"mask has shape"):
            op(mask, 65)
        with pytest.raises(TypeError, match="int32"):
            op(mask.long(), 38)
    with pytest.raises(ValueError, match="beyond column 37"):
        OPS.draw_positions(mask, 37, 1, 0)


def test_draw_positions_limits():
    empty = torch.zeros(2, 1, dtype=torch.int32)
    assert OPS.draw_positions(empty, 3, 6, 1).tolist() == [[7], [7]]
    for k in (-1, 7):
        with pytest.raises(ValueError, match="6 inactive positions"):
            OPS.draw_positions(empty, 3, k, 1)
    with pytest.raises(ValueError, match="stream"):
        OPS.draw_positions(empty, 3, 1, 1, 9)
    drawn = OPS.draw_positions(torch.full((2, 1), 1, dtype=torch.int32), 3, 2, 1)
    assert not (drawn & 1).any()


def test_grad_topk_errors_leave_positions_alone():
    x, _, mask, _, _, active = draw(SMALL[0])
    dy = torch.zeros(4, 5, dtype=torch.float64)
    too_many = int((~active).sum()) + 1
    positions = torch.full((too_many,), -7)
    with pytest.raises(ValueError, match="the number of inactive positions"):
        OPS.grad_topk_(positions, dy, x, mask)
    with pytest.raises(TypeError, match="int64"):
        OPS.grad_topk_(positions[:2].int(), dy, x, mask)
    with pytest.raises(ValueError, match="same leading dimensions"):
        OPS.grad_topk_(positions[:2], dy[:1], x, mask)
    assert bool((positions == -7).all())


def test_scratch_is_bounded_by_a_constant_times_threads(threads):
    """The largest buffer that a forward or backward allocates beyond its results is the stated bound."""
    out, cols, tokens = 3000, 2000, 2
    mask = OPS.draw_positions(torch.zeros(out, 63, dtype=torch.int32), cols, out * cols // 100, 1)
    rank, values = OPS.mask_rank(mask, cols), torch.randn(out * cols // 100)
    x, dy = torch.randn(tokens, cols), torch.randn(tokens, out)
    calls = {
        "forward": lambda: OPS.sparse_linear(x, values, mask, rank, None, "expand_gemm"),
        "input": lambda: OPS.sparse_linear_backward_input(dy, values, mask, rank, cols, "expand_gemm"),
        "values": lambda: OPS.sparse_linear_backward_values(dy, x, mask, rank, values.numel(), "expand_gemm"),
        "topk": lambda: OPS.grad_topk_(torch.zeros(5, dtype=torch.int64), dy, x, mask),
    }
    for count in (1, 2):
        with threads(count):
            bound = smet._C.expand_gemm_scratch_bytes()
            assert bound == count * 2**21 < out * cols * 4
            for name, call in calls.items():
                with torch.profiler.profile(profile_memory=True) as profile:
                    call()
                sizes = [e.bytes for e in memory_events(profile)]
                assert max(sizes) <= bound, name
                # everything that was alive at once: the scratch, the result, and less than 64 KiB beside them
                assert peak(sizes) <= bound + 4 * max(tokens * out, values.numel()) + 2**16, name


def memory_events(profile):
    class Event:
        def __init__(self, event):
            self.bytes = event.nbytes()

    return [Event(e) for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]


def peak(sizes):
    alive = most = 0
    for size in sizes:
        alive += size
        most = max(most, alive)
    return most
