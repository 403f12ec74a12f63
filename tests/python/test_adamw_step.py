# SPDX-License-Identifier: BSD-3-Clause
"""smet::adamw_step_, the operator: what it refuses, layouts, threads, torch's own operator checks."""

import pytest
import torch
from torch.nn import Parameter

from adamw_helpers import equal_bits, make_values, same, snapshot, threads_leave_equal_bytes
from smet import CompactAdamW


def call(n=6, dtype=torch.float32, rows=1, count=1, **changes):
    """Arguments of a call with `count` equal parameters; `changes` replace them by name."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    table = torch.tensor([[0.0, 0.1, 1.0]], dtype=torch.float64).repeat(rows, 1)
    args = {
        "params": [torch.arange(n, dtype=dtype) for _ in range(count)],
        "grads": [torch.ones(n, dtype=dtype) for _ in range(count)],
        "exp_avgs": [torch.zeros(n, dtype=compute) for _ in range(count)],
        "exp_avg_sqs": [torch.zeros(n, dtype=compute) for _ in range(count)],
        "exp_avg_scales": [],
        "exp_avg_sq_scales": [],
        "master_lows": [],
        "ranks": [],
        "cols": [],
        "cohorts": [torch.zeros(n if rows > 1 else 0, dtype=torch.uint8) for _ in range(count)],
        "tables": [table] * count,
        "beta1": [0.9] * count,
        "beta2": [0.999] * count,
        "eps": [1e-8] * count,
        "l2": [0.0] * count,
        "maximize": [False] * count,
        "rounding_keys": [],
        "names": [f"layer{i}.values" for i in range(count)],
    }
    return args | changes


def run(args, **flags):
    torch.ops.smet.adamw_step_(**args, **flags)


def written(args):
    return [t.clone() for key in ("params", "exp_avgs", "exp_avg_sqs") for t in args[key]]


OPTIONAL = ("exp_avg_scales", "exp_avg_sq_scales", "master_lows", "ranks", "cols", "rounding_keys")
LISTS = [key for key in call() if key not in ("params", *OPTIONAL)]


@pytest.mark.parametrize("key", LISTS)
def test_lists_of_unequal_length_are_refused(key):
    args = call(count=2)
    args[key] = args[key][:1]
    before = written(args | {"exp_avgs": [], "exp_avg_sqs": []})
    with pytest.raises(ValueError, match=f"{key} has 1 entries; expected one per parameter, 2"):
        run(args)
    assert same(before, written(args | {"exp_avgs": [], "exp_avg_sqs": []}))


def expanded():
    return torch.zeros(1).expand(6)


REFUSED = {
    "grad shape": ({"grads": [torch.ones(5)]}, ValueError, r"gradient of 'layer0.values' has shape \[5\]"),
    "grad dtype": (
        {"grads": [torch.ones(6).double()]},
        TypeError,
        "gradient of 'layer0.values' has dtype Double; .* Float",
    ),
    "moment dtype": (
        {"exp_avgs": [torch.ones(6).half()]},
        TypeError,
        "exp_avg of 'layer0.values' has dtype Half",
    ),
    "moment shape": ({"exp_avg_sqs": [torch.ones(2, 3)]}, ValueError, r"exp_avg_sq of .* has shape \[2, 3\]"),
    "param dtype": ({"params": [torch.ones(6).int()]}, TypeError, "a parameter has dtype Int"),
    "table dtype": ({"tables": [torch.ones(1, 3)]}, TypeError, "table of 'layer0.values' is Float on cpu"),
    "table shape": ({"tables": [torch.ones(1, 2).double()]}, ValueError, r"table of .* has shape \[1, 2\]"),
    "table empty": ({"tables": [torch.ones(0, 3).double()]}, ValueError, r"table of .* has shape \[0, 3\]"),
    "rows for ids": (
        {"cohorts": [torch.zeros(6, dtype=torch.uint8)]},
        ValueError,
        r"has shape \[1, 3\]; expected contiguous rows .* 256, one per id a uint8 can hold",
    ),
    "cohort dtype": (
        {"cohorts": [torch.zeros(6)], "tables": [torch.ones(256, 3).double()]},
        TypeError,
        "cohort of 'layer0.values' has dtype Float; expected uint8",
    ),
    "cohort length": (
        {"cohorts": [torch.zeros(5, dtype=torch.uint8)], "tables": [torch.ones(256, 3).double()]},
        ValueError,
        r"cohort of 'layer0.values' has shape \[5\]",
    ),
    "expanded param": ({"params": [expanded()]}, ValueError, "elements of 'layer0.values' share memory"),
    "expanded moment": ({"exp_avgs": [expanded()]}, ValueError, "elements of 'layer0.values' share memory"),
    "rounding keys": ({"rounding_keys": [1, 2]}, ValueError, "rounding_keys has 2 entries"),
    "NaN": (
        {"grads": [torch.full((6,), float("nan"))]},
        RuntimeError,
        "gradient of 'layer0.values' holds NaN or inf",
    ),
    "inf": (
        {"grads": [torch.full((6,), -float("inf"))]},
        RuntimeError,
        "gradient of 'layer0.values' holds NaN or inf",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_before_any_write(case):
    changes, error, message = REFUSED[case]
    args = call(**changes)
    before = written(args)
    with pytest.raises(error, match=message):
        run(args)
    assert same(before, written(args))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_g1_nonfinite_gradient_raises_with_name_before_any_write(dtype, bad):
    """G1: in the last of three tensors, at its last element: nothing anywhere has changed, bit for bit."""
    params = [make_values(9, 9, 40, dtype=dtype, name=f"fc{i}") for i in range(3)]
    opt = CompactAdamW(params)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    params[2].grad[-1] = bad
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match=r"the gradient of 'fc2\.values' holds NaN or infinity"):
        opt.step()
    assert same(before, snapshot(opt))
    params[2].grad[-1] = 1.0
    opt.step()
    assert opt.state[params[0]]["step"].item() == 2


def test_unchecked_nonfinite_gradients_pass_through_as_in_torch():
    p = Parameter(torch.ones(3))
    opt = CompactAdamW([p], on_nonfinite="ignore")
    p.grad = torch.tensor([1.0, float("nan"), 1.0])
    opt.step()
    assert p.isnan().tolist() == [False, True, False]


def test_an_age_schedule_that_fails_leaves_everything():
    values = make_values(5, 5, 10, name="fc")
    for schedule, error, message in [
        (lambda age: float("nan"), ValueError, "returned nan for age 1"),
        (lambda age: -1.0, ValueError, "returned -1 for age 1"),
        (lambda age: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda age: "x", TypeError, "."),
    ]:
        opt = CompactAdamW([values], age_schedule=schedule)
        values.grad = torch.ones_like(values)
        opt.step()  # no cohort was regrown yet
        opt.state[values]["births"][1] = 1
        before = snapshot(opt)
        with pytest.raises((error, RuntimeError), match=message):
            opt.step()
        assert same(before, snapshot(opt))


def test_births_that_are_not_before_the_step_are_refused():
    values = make_values(5, 5, 10, name="fc")
    values.grad = torch.ones_like(values)
    for birth in (1, 10**12):
        opt = CompactAdamW([values])
        opt.state[values]["births"][7] = birth
        with pytest.raises(
            ValueError, match=f"cohort 7 of 'fc.values' was born at step {birth}, not in 0 to 0"
        ):
            opt.step()
    opt.state[values]["births"] = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"births of 'fc\.values' are Long"):
        opt.step()


@pytest.mark.parametrize("lr", [float("nan"), float("inf")])
def test_a_learning_rate_that_is_not_finite_is_refused(lr):
    p = Parameter(torch.ones(2))
    opt = CompactAdamW([p])
    p.grad = torch.ones(2)
    opt.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match=f"the learning rate of 'parameter 0' is {lr}; nothing was changed"):
        opt.step()


def test_s7_tensors_in_different_places_are_refused():
    """S7: state left behind by a model that moved (a meta tensor stands in for another device)."""
    p = Parameter(torch.ones(3))
    opt = CompactAdamW([p])
    p.grad = torch.ones(3)
    opt.state[p]["exp_avg"] = torch.zeros(3, device="meta")
    with pytest.raises(
        ValueError, match="'parameter 0' is on cpu, its gradient or optimizer state on meta; build"
    ):
        opt.step()
    q = Parameter(torch.ones(4, 2))
    opt = CompactAdamW([q])
    torch.nn.functional.embedding(torch.tensor([1]), q, sparse=True).sum().backward()
    with pytest.raises(RuntimeError, match="gradient of 'parameter 0' is Sparse; expected a strided tensor"):
        opt.step()


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.t().contiguous().t(),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:1].expand_as(t),
}


@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("param_layout", ["contiguous", "transposed", "sliced"])
def test_s1_any_layout_of_parameter_and_gradient(param_layout, grad_layout):
    """S1: the layout changes nothing but where the numbers lie."""
    generator = torch.Generator().manual_seed(0)
    start, grad = torch.randn(6, 7, generator=generator), torch.randn(6, 7, generator=generator)
    grad = LAYOUTS[grad_layout](grad)
    p, q = Parameter(LAYOUTS[param_layout](start)), Parameter(start.clone())
    opts = CompactAdamW([p]), CompactAdamW([q])
    for _ in range(3):
        p.grad, q.grad = grad, grad.contiguous()
        for opt in opts:
            opt.step()
    assert p.stride() == Parameter(LAYOUTS[param_layout](start)).stride()
    assert equal_bits(p.detach().contiguous(), q.detach())
    assert equal_bits(opts[0].state[p]["exp_avg"].contiguous(), opts[1].state[q]["exp_avg"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_threads_1_2_7_equal_bytes(dtype):
    def make_optimizer(generator):
        sizes = [300_001, 1, 17, 65_536, 100_003]
        params = [make_values(1000, 1000, n, dtype=dtype, generator=generator) for n in sizes]
        params.append(Parameter(torch.randn(301, 99, generator=generator).to(dtype)))
        return CompactAdamW(params, stochastic_rounding=True)

    def begin_cohort(opt, step):
        for state in (opt.state[p] for p in opt.param_groups[0]["params"][:-1]):
            state["cohort"][step::5] = step + 1
            state["births"][step + 1] = state["step"]

    assert threads_leave_equal_bytes(make_optimizer, begin_cohort)


def test_the_finite_check_sees_every_element_with_any_number_of_threads():
    before = torch.get_num_threads()
    p = Parameter(torch.ones(100_003))
    opt = CompactAdamW([p], lr=0.0)
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            for position in (0, 1, 7, 8, 31, 4095, 16_384, 65_535, 65_536, 99_999, 100_002):
                p.grad = torch.zeros(100_003)
                opt.step()
                p.grad[position] = float("inf")
                with pytest.raises(RuntimeError, match="holds NaN or infinity"):
                    opt.step()
    finally:
        torch.set_num_threads(before)


def test_autograd_notices_that_parameters_changed():
    """As with torch's optimizers: a backward through a graph that saved the old values is an error."""
    p = Parameter(torch.ones(3))
    opt = CompactAdamW([p])
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("rows", [1, 256])
def test_opcheck(rows):
    """S10: torch's checks of the schema (what is mutated), fake tensors and functionalisation."""
    args = call(count=2, rows=rows)
    torch.library.opcheck(torch.ops.smet.adamw_step_.default, (), args)


def test_one_operator_call_for_all_layers():
    """The step of many groups, dense and sparse, is one call."""
    params = [make_values(4, 4, 8), Parameter(torch.ones(3)), make_values(4, 4, 4)]
    opt = CompactAdamW([{"params": [p], "lr": 10.0**-i} for i, p in enumerate(params)])
    for p in params:
        p.grad = torch.ones_like(p)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["smet::adamw_step_"] == 1
    assert calls["Optimizer.step#CompactAdamW.step"] == 1


def test_step_inside_a_compiled_function():
    """S10: torch.compile around a training step gives what eager gives."""
    runs = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="eager")):
        p = Parameter(torch.linspace(-1, 1, 5))
        opt = CompactAdamW([p])

        def train(x, p=p, opt=opt):
            opt.zero_grad()
            (p * x).square().sum().backward()
            opt.step()

        train = wrap(train)
        for t in range(3):
            train(torch.full((5,), 1.0 + t))
        runs.append(snapshot(opt))
    assert same(*runs)
