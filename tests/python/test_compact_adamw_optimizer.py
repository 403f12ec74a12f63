# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW as a torch.optim.Optimizer (cases O): torch's own table, then what people rely on."""

import contextlib
import copy
import inspect
import itertools
import warnings

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import smet
from adamw_helpers import equal_bits, make_values, same, snapshot
from smet import _C, CompactAdamW

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch probes for CUDA tools
    from torch.testing._internal.common_optimizers import optim_db

ADAMW = next(info for info in optim_db if info.optim_cls is torch.optim.AdamW)
FOREIGN = {"amsgrad", "foreach", "fused", "capturable", "differentiable"}  # flags CompactAdamW does not have
TABLE = [entry for entry in ADAMW.optim_inputs_func("cpu") if not FOREIGN & set(entry.kwargs)]
ERRORS = ADAMW.optim_error_inputs_func("cpu", torch.float32)
by_description = {"argvalues": TABLE, "ids": [entry.desc for entry in TABLE]}


def regression(dtype=torch.float32, contiguous=True):
    """A weight, a bias and a closure that makes a scalar loss of them, as torch's own tests do."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    if contiguous:
        weight, bias = Parameter(rand(10, 5)), Parameter(rand(10))
    else:
        weight, bias = Parameter(rand(10, 5, 2)[..., 0]), Parameter(rand(10, 2)[..., 0])
        assert not weight.is_contiguous() and not bias.is_contiguous()
    data = rand(5)

    def loss():
        return (weight.mv(data) + bias).pow(2).sum()

    return weight, bias, loss


def closure_of(opt, loss):
    def closure():
        opt.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
@pytest.mark.parametrize("schedulers", [(), *ADAMW.scheduler_inputs], ids=lambda s: f"{len(s)} schedulers")
@pytest.mark.parametrize("entry", **by_description)
def test_o1_table_goes_in_the_right_direction(entry, schedulers, contiguous):
    """O1: torch's table of options and schedulers, contiguous and strided parameters."""
    weight, bias, loss = regression(contiguous=contiguous)
    opt = CompactAdamW([weight, bias], **copy.deepcopy(entry.kwargs))
    schedules = [make(opt) for make in schedulers]
    start = loss().item()
    for _ in range(20):
        value = opt.step(closure_of(opt, loss))
        for schedule in schedules:
            schedule.step(value.item()) if isinstance(
                schedule, lr_scheduler.ReduceLROnPlateau
            ) else schedule.step()
    assert loss().item() > start if entry.kwargs.get("maximize") else loss().item() < start


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("entry", **by_description)
def test_o1_table_equals_torch(entry, dtype, contiguous):
    """O1: the same trajectory as torch's AdamW for every entry of its table."""
    runs = []
    for optimizer in (CompactAdamW, torch.optim.AdamW):
        weight, bias, loss = regression(dtype, contiguous)
        opt = optimizer([weight, bias], **copy.deepcopy(entry.kwargs))
        for _ in range(20):
            opt.step(closure_of(opt, loss))
        runs.append((weight.detach(), bias.detach()))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-14}
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("entry", ERRORS, ids=[e.optimizer_error_input.desc for e in ERRORS])
def test_o1_table_of_errors(entry):
    """O1: torch's table of bad input. A duplicate (there a warning) is refused; foreign flags: TypeError."""
    params, kwargs = entry.optimizer_error_input.params, entry.optimizer_error_input.kwargs
    params = [Parameter(torch.randn(2, 3))] if params is None else params
    if FOREIGN & set(kwargs):
        with pytest.raises(TypeError, match=(FOREIGN & set(kwargs)).pop()):
            CompactAdamW(params, **kwargs)
    elif issubclass(entry.error_type, FutureWarning):
        with pytest.warns(entry.error_type, match=entry.error_regex):
            CompactAdamW(params, **kwargs)
    else:
        expected = ValueError if issubclass(entry.error_type, Warning) else entry.error_type
        with pytest.raises(expected, match=entry.error_regex):
            CompactAdamW(params, **kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1"),
        ({"eps": -1e-8}, "Invalid epsilon value"),
        ({"weight_decay": float("inf")}, "Invalid weight_decay value: inf"),
        ({"density_scaling": float("nan")}, "Invalid density_scaling value: nan"),
        ({"warmup": -1}, "Invalid warmup: -1"),
        ({"boost": -2.0}, "Invalid boost: -2"),
        ({"boost_tau": 0}, "Invalid boost_tau: 0"),
        ({"age_schedule": "cosine"}, "Invalid age_schedule: cosine; expected None"),
    ],
)
def test_bad_options_are_refused_in_defaults_and_groups(options, message):
    p = Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        CompactAdamW([p], **options)
    with pytest.raises(ValueError, match=message):
        CompactAdamW([{"params": [p], **options}])
    opt = CompactAdamW([p])
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": [Parameter(torch.ones(2))], **options})
    assert len(opt.param_groups) == 1
    with pytest.raises(ValueError, match='Invalid on_nonfinite: \'drop\'; expected "raise", "skip"'):
        CompactAdamW([p], on_nonfinite="drop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "x"}, "Invalid lr: 'x'; expected a number"),
        ({"eps": None}, "Invalid eps: None; expected a number"),
        ({"warmup": []}, r"Invalid warmup: \[\]; expected a number"),
        ({"seed": -1}, "Invalid seed: -1; expected an integer from 0"),
        ({"moments": 8}, "Invalid moments: 8; expected a string"),
    ],
)
def test_options_of_another_type_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        CompactAdamW([Parameter(torch.ones(2))], **options)


@pytest.mark.parametrize("entry", **by_description)
def test_o2_noop_when_grad_none(entry):
    """O2: nothing moves without a gradient, not even the step."""
    p = Parameter(torch.randn(5))
    opt = CompactAdamW([p], **entry.kwargs)
    before = snapshot(opt)
    opt.step()
    assert same(before, snapshot(opt))


@pytest.mark.parametrize("entry", **by_description)
def test_o3_noop_for_zero_grads_without_decay(entry):
    """O3: a zero gradient moves nothing without decay, and shrinks the weights with it."""
    p = Parameter(torch.randn(5))
    start = p.detach().clone()
    decay = entry.kwargs.get("weight_decay", 0)
    opt = CompactAdamW([p], **entry.kwargs | {"weight_decay": decay})
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        opt.step()
    assert equal_bits(p.detach(), start) == (decay == 0)
    assert bool((p.detach().abs() < start.abs()).all()) == (decay != 0)


def test_o4_param_groups_distinct_lr_and_decay():
    """O4: each group has its options: as torch's AdamW with the same groups."""
    runs = []
    for optimizer in (CompactAdamW, torch.optim.AdamW):
        weight, bias, loss = regression(torch.float64)
        groups = [
            {"params": [weight], "lr": 1e-2, "weight_decay": 0.5},
            {"params": bias, "betas": (0.5, 0.9)},
        ]
        opt = optimizer(groups, lr=1e-3, weight_decay=0)
        for _ in range(20):
            opt.step(closure_of(opt, loss))
        runs.append((weight.detach(), bias.detach()))
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_o5_add_param_group_after_steps():
    """O5: a group added late has state at once and its own step; one listed already is refused."""
    weight, bias, loss = regression()
    opt = CompactAdamW([weight])
    for _ in range(3):
        opt.step(closure_of(opt, loss))
    opt.add_param_group({"params": [bias], "lr": 0.1})
    assert set(opt.state[bias]) == {"step", "exp_avg", "exp_avg_sq"}
    opt.step(closure_of(opt, loss))
    assert (opt.state[weight]["step"].item(), opt.state[bias]["step"].item()) == (4, 1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        opt.add_param_group({"params": [bias]})
    with pytest.raises(TypeError, match="param_group must be a dict"):
        opt.add_param_group([bias])


def test_o6_closure_supported():
    """O6: the closure runs once, with gradients enabled, and its result comes back."""
    weight, bias, loss = regression()
    opt = CompactAdamW([weight, bias])
    calls = []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(closure_of(opt, loss)())
        return calls[-1]

    with torch.no_grad():
        result = opt.step(closure)
    assert len(calls) == 1 and result is calls[0]
    assert opt.step() is None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_o7_tensor_lr(shape):
    """O7: a tensor lr, also one that is changed in place, equals a number."""
    runs = []
    for as_tensor in (True, False):
        weight, bias, loss = regression()
        opt = CompactAdamW(
            [weight, bias], lr=torch.full(shape, 0.25, dtype=torch.float64) if as_tensor else 0.25
        )
        for step in range(4):
            if step == 2:
                if as_tensor:
                    opt.param_groups[0]["lr"].fill_(0.125)
                else:
                    opt.param_groups[0]["lr"] = 0.125
            opt.step(closure_of(opt, loss))
        runs.append(snapshot(opt))
    assert same(*runs)


def test_o8_maximize():
    """O8: maximize is minimising the negative, bit for bit."""
    runs = []
    for sign in (1, -1):
        weight, bias, loss = regression()
        opt = CompactAdamW([weight, bias], maximize=sign < 0)
        for _ in range(5):
            opt.step(closure_of(opt, lambda loss=loss, sign=sign: sign * loss()))
        runs.append([weight.detach(), bias.detach()])
    assert all(map(equal_bits, *runs))


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lr_scheduler.ConstantLR,
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=12),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 5)], [4]
    ),
}


def test_o9_no_scheduler_of_torch_is_missing():
    public = {
        name
        for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert public - {"LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_o9_lr_scheduler_all_torch_schedulers(name):
    """O9: every scheduler of torch drives it as it drives torch's AdamW (CyclicLR moves beta1 too)."""
    runs = []
    for optimizer in (CompactAdamW, torch.optim.AdamW):
        weight, bias, loss = regression(torch.float64)
        opt = optimizer([weight, bias], lr=1e-2)
        schedule = SCHEDULERS[name](opt)
        rates = []
        for _ in range(10):
            value = opt.step(closure_of(opt, loss))
            schedule.step(value.item()) if name == "ReduceLROnPlateau" else schedule.step()
            rates.append((opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]))
        runs.append((rates, weight.detach(), bias.detach()))
    assert runs[0][0] == runs[1][0]
    for ours, theirs in zip(runs[0][1:], runs[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_o11_step_pre_post_hooks_fire_once():
    """O11: local and global hooks, in torch's order, once a step; pre-hooks may replace the arguments."""
    weight, bias, loss = regression()
    opt = CompactAdamW([weight, bias])
    seen = []
    note = lambda tag: lambda *args: seen.append(tag)  # noqa: E731
    with contextlib.ExitStack() as stack:
        for register, tag in [
            (register_optimizer_step_pre_hook, "global pre"),
            (register_optimizer_step_post_hook, "global post"),
            (opt.register_step_pre_hook, "pre"),
            (opt.register_step_post_hook, "post"),
        ]:
            stack.callback(register(note(tag)).remove)
        closure = closure_of(opt, lambda: seen.append("closure") or loss())
        opt.step(closure)
    assert seen == ["global pre", "pre", "closure", "post", "global post"]
    opt.step(closure_of(opt, loss))
    assert len(seen) == 5
    handle = opt.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: seen.append("replaced")), {}))
    opt.step()
    handle.remove()
    assert seen[5:] == ["replaced"]


def test_o12_duplicate_param_rejected():
    """O12: within a group, across groups, and as two views of one memory."""
    p = Parameter(torch.ones(4))
    with pytest.raises(ValueError, match="duplicate parameters"):
        CompactAdamW([p, p])
    with pytest.raises(ValueError, match="more than one parameter group"):
        CompactAdamW([{"params": [p]}, {"params": [p]}])
    views = [Parameter(p.data[:3]), Parameter(p.data[2:])]
    opt = CompactAdamW(views)
    for view in views:
        view.grad = torch.ones_like(view)
    before = snapshot(opt)
    with pytest.raises(ValueError, match="share memory"):
        opt.step()
    assert same(before, snapshot(opt))


def test_o13_empty_param_list_error_and_empty_layer():
    """O13: no parameters at all is an error; layers without weights are not."""
    for empty in ([], iter(()), torch.nn.Identity()):
        with pytest.raises(ValueError, match="empty parameter list"):
            CompactAdamW(empty)
    nothing, full = make_values(0, 7, 0), Parameter(torch.ones(3))
    hollow = make_values(3, 4, 0)
    opt = CompactAdamW([nothing, hollow, full])
    for p in (nothing, hollow, full):
        p.grad = torch.ones_like(p)
    opt.step()
    assert bool((full < 1).all())
    assert [opt.state[p]["step"].item() for p in (nothing, hollow, full)] == [1, 1, 1]


def test_o14_frozen_layer_requires_grad_false():
    """O14: frozen, it costs no state and does not move, stale gradient or not; thawed, it starts at 1."""
    frozen, live = Parameter(torch.ones(3), requires_grad=False), Parameter(torch.ones(3))
    opt = CompactAdamW([frozen, live])
    assert not opt.state[frozen]
    for _ in range(2):
        frozen.grad, live.grad = torch.ones(3), torch.ones(3)
        opt.step()
    assert bool((frozen == 1).all()) and opt.state[live]["step"].item() == 2
    frozen.requires_grad_(True)
    opt.step()
    assert opt.state[frozen]["step"].item() == 1 and bool((frozen < 1).all())
    live.requires_grad_(False)
    before = live.detach().clone()
    opt.step()
    assert equal_bits(live.detach(), before) and opt.state[live]["step"].item() == 3


def test_o15_param_replaced_after_construction_raises():
    """O15: updates of a parameter that the model no longer has would be lost (pytorch#14467)."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    opt = CompactAdamW(model)
    model(torch.ones(1, 3)).sum().backward()
    kept = model[1].weight
    model[1].weight = Parameter(torch.zeros(2, 4))
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match=r"parameter '1\.weight' was replaced in the model"):
        opt.step()
    assert same(before, snapshot(opt))
    model[1].weight = kept
    opt.step()
    torch.nn.utils.parametrizations.weight_norm(model[0])  # a new parameter, and the old one is gone
    with pytest.raises(RuntimeError, match=r"parameter '0\.weight' was replaced"):
        opt.step()


def test_o15_moved_or_shared_parameters_are_not_replaced_ones():
    """O15: the same object elsewhere in the model, tied twice, or a model that is gone, is fine."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight  # tied
    opt = CompactAdamW(model)
    assert len(opt.param_groups[0]["params"]) == 1
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    del model[0]  # still in what was model[1]
    opt.step()
    del model
    opt.step()
    assert next(iter(opt.state.values()))["step"].item() == 3


def test_o16_repr_prints_density():
    """O16: the densities of each group stand beside its options."""
    layers = [make_values(10, 10, 25), make_values(4, 5, 5), make_values(3, 7, 7)]
    opt = CompactAdamW(
        [{"params": [*layers, Parameter(torch.ones(3))]}, {"params": [Parameter(torch.ones(2))]}]
    )
    text = repr(opt)
    assert "densities: 0.25 x 2, 0.3333 x 1, 1 (dense) x 1" in text
    assert "densities: 1 (dense) x 1" in text
    assert text.startswith("CompactAdamW (\nParameter Group 0\n") and text.endswith("\n)")
    for option in ("lr: 0.001", "warmup: 100", "density_scaling: 0.5", "local_age: True"):
        assert option in text


def test_names_reach_errors_however_parameters_are_given():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    values = make_values(2, 2, 2, name="block.fc")
    cases = [
        (CompactAdamW(model), "'0.bias'"),
        (CompactAdamW(model.named_parameters()), "'0.bias'"),
        (CompactAdamW([values]), "'block.fc.values'"),
        (CompactAdamW([Parameter(torch.ones(1)), model[0].bias]), "'parameter 1'"),
    ]
    for opt, name in cases:
        for p in itertools.chain.from_iterable(group["params"] for group in opt.param_groups):
            p.grad = torch.ones_like(p)
        bad = values if "values" in name else model[0].bias
        bad.grad[-1] = float("nan")
        with pytest.raises(RuntimeError, match=f"the gradient of {name} holds NaN or infinity"):
            opt.step()


def test_a_layer_without_a_name_gets_one_from_its_model():
    model = torch.nn.Sequential(smet.SparseLinear(8, 8), smet.SparseLinear(8, 8, name="mine"))
    CompactAdamW(model)
    assert _C.values_info(model[0].values)[2] == "0"
    assert _C.values_info(model[1].values)[2] == "mine"


def test_g4_gradscaler_skips_the_step_and_the_ages():
    """G4, G5: unscale, clip and step through a GradScaler are the plain steps; an overflow moves nothing."""
    runs = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(smet.SparseLinear(8, 6, seed=1, name="a"), torch.nn.Linear(6, 2))
        opt = CompactAdamW(model, lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        for step in range(6):
            opt.zero_grad()
            scaler.scale(model(torch.full((3, 8), 0.1 + step)).square().mean()).backward()
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            scaler.step(opt)
            scaler.update()
        runs.append(snapshot(opt))
    assert same(*runs)
    model[0].values.grad[0] = float("inf")
    assert scaler.scale(torch.ones(())) > 0
    scaler.unscale_(opt)
    scaler.step(opt)
    scaler.update()
    assert same(runs[1], snapshot(opt))
    assert scaler.get_scale() == 2.0**9
