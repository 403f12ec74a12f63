# SPDX-License-Identifier: BSD-3-Clause
"""State of CompactAdamW: saved, loaded, copied, pickled; what does not fit is refused and changes nothing."""

import copy
import pickle
import warnings

import pytest
import torch
from torch.nn import Parameter

from adamw_helpers import equal_bits, make_values, same, snapshot, through_file
from smet import _C, CompactAdamW


def build(seed=0, dtype=torch.bfloat16, **options):
    """An optimizer over values with three cohorts, a dense matrix and a bias, a few steps in."""
    generator = torch.Generator().manual_seed(seed)
    values = make_values(20, 30, 150, dtype=dtype, name="fc", generator=generator)
    weight = Parameter(torch.randn(7, 5, generator=generator).to(dtype))
    bias = Parameter(torch.randn(7, generator=generator))
    named = [("fc.values", values), ("out.weight", weight)]
    groups = [{"params": named, "lr": 1e-2}, {"params": [("out.bias", bias)], "weight_decay": 0.0}]
    opt = CompactAdamW(groups, **options)
    for cohort in (1, 200):
        train(opt, 4)
        state = opt.state[values]
        state["cohort"][cohort % 7 :: 9] = cohort
        state["births"][cohort] = state["step"]
        state["exp_avg"][cohort % 7 :: 9] = state["exp_avg_sq"][cohort % 7 :: 9] = 0
    return opt


def train(opt, steps):
    for _ in range(steps):
        for group in opt.param_groups:
            for p in group["params"]:
                t = opt.state[p]["step"].item()
                p.grad = (
                    torch.sin(torch.arange(p.numel(), dtype=torch.float64) + t).reshape(p.shape).to(p.dtype)
                )
        opt.step()


def params_of(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def reload(opt):
    """torch.save, torch.load(weights_only=True), load_state_dict into a new optimizer of equal parameters."""
    fresh = build(seed=1)
    with torch.no_grad():
        for new, old in zip(params_of(fresh), params_of(opt), strict=True):
            new.copy_(old)
    fresh.load_state_dict(through_file(opt.state_dict()))
    return fresh


@pytest.mark.parametrize(
    "copy_of",
    [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt)), reload],
    ids=["deepcopy", "pickle", "state dict"],
)
def test_o10_copies_continue_bit_equal(copy_of):
    """O10: the copy goes on exactly as the original, densities included, and shares no memory with it."""
    opt = build()
    other = copy_of(opt)
    assert same(snapshot(opt), snapshot(other))
    assert repr(opt) == repr(other)
    frozen = snapshot(other)
    train(opt, 3)
    assert same(frozen, snapshot(other))
    train(other, 3)
    assert same(snapshot(opt), snapshot(other))


def test_o10_copies_keep_attributes_and_hooks_work():
    opt = build(on_nonfinite="ignore")
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.on_nonfinite == "ignore"
        assert vars(other).keys() >= {"state", "param_groups", "defaults"}
        seen = []
        other.register_step_post_hook(lambda *args, seen=seen: seen.append(1))
        train(other, 2)
        assert seen == [1, 1]


def test_state_exists_from_construction():
    """No dummy step is needed: distributed checkpointing finds every tensor before the first gradient."""
    values, weight = (
        make_values(3, 5, 7, dtype=torch.float64),
        Parameter(torch.ones(2, 3, dtype=torch.float16)),
    )
    opt = CompactAdamW([values, weight])
    described = {k: (v.dtype, tuple(v.shape)) for k, v in opt.state[values].items()}
    assert described == {
        "step": (torch.int64, ()),
        "exp_avg": (torch.float64, (7,)),
        "exp_avg_sq": (torch.float64, (7,)),
        "cohort": (torch.uint8, (7,)),
        "births": (torch.int64, (256,)),
    }
    assert opt.state[values]["births"].tolist() == [0] + [-1] * 255
    assert {k: v.dtype for k, v in opt.state[weight].items()} == {
        "step": torch.int64,
        "exp_avg": torch.float32,
        "exp_avg_sq": torch.float32,
    }
    assert not any(v.requires_grad for state in opt.state.values() for v in state.values())


def test_loading_keeps_fp32_moments_and_integer_cohorts_of_bf16_parameters():
    """torch's own load_state_dict would round the moments to bf16 and turn cohorts into bf16 numbers."""
    opt = build(dtype=torch.bfloat16)
    values = params_of(opt)[0]
    exp_avg = opt.state[values]["exp_avg"]
    assert not torch.equal(exp_avg.bfloat16().float(), exp_avg)  # the test would notice rounding
    loaded = reload(opt).state_dict()["state"][0]
    assert {k: v.dtype for k, v in loaded.items()} == {
        "step": torch.int64,
        "exp_avg": torch.float32,
        "exp_avg_sq": torch.float32,
        "cohort": torch.uint8,
        "births": torch.int64,
    }
    assert equal_bits(loaded["exp_avg"], exp_avg)


def test_loading_copies():
    """Two optimizers never share state, and the loader's own tensors keep their addresses."""
    opt, other = build(), build(seed=1)
    addresses = [v.data_ptr() for state in other.state.values() for v in state.values()]
    other.load_state_dict(opt.state_dict())
    assert addresses == [v.data_ptr() for state in other.state.values() for v in state.values()]
    before = snapshot(other)
    train(opt, 1)
    assert same(before, snapshot(other))


def test_state_dict_holds_tensors_numbers_and_strings_only():
    opt = build(age_schedule=lambda age: 1.0)
    plain = (int, float, str, bool, type(None))
    for group in opt.state_dict()["param_groups"]:
        for key, value in group.items():
            items = value if isinstance(value, list | tuple) else [value]
            assert all(isinstance(item, plain) for item in items), key
        assert group["age_schedule"] == "callable"
    through_file(opt.state_dict())
    assert callable(opt.param_groups[0]["age_schedule"])


def test_a_callable_age_schedule_is_given_again_at_loading():
    saved = build(age_schedule=lambda age: 0.5).state_dict()
    with pytest.raises(ValueError, match="group 0 was saved with a callable age_schedule"):
        build().load_state_dict(saved)
    half = lambda age: 0.5  # noqa: E731
    opt = build(age_schedule=half)
    opt.load_state_dict(saved)
    assert all(group["age_schedule"] is half for group in opt.param_groups)


def test_parameters_are_matched_by_name():
    """C5: the saved order does not matter where both sides have names; wrappers' prefixes do not either."""
    a, b = Parameter(torch.ones(3)), Parameter(torch.zeros(3))
    opt = CompactAdamW([("a", a), ("b", b)])
    train(opt, 1)
    b.grad = None
    a.grad = torch.ones(3)
    opt.step()
    saved = opt.state_dict()
    swapped = CompactAdamW([("module.b", b), ("module._orig_mod.a", a)])
    swapped.load_state_dict(saved)
    assert (swapped.state[a]["step"].item(), swapped.state[b]["step"].item()) == (2, 1)
    assert swapped.param_groups[0]["param_names"] == ["module.b", "module._orig_mod.a"]
    with pytest.raises(ValueError, match=r"no parameter 'c' \(1 missing\); it has instead: b"):
        CompactAdamW([("a", a), ("c", b)]).load_state_dict(saved)
    unnamed = CompactAdamW([a, b])  # by order then
    unnamed.load_state_dict(saved)
    assert (unnamed.state[a]["step"].item(), unnamed.state[b]["step"].item()) == (2, 1)
    assert "param_names" not in unnamed.param_groups[0]


@pytest.mark.parametrize("torch_class", [torch.optim.AdamW, torch.optim.Adam])
def test_a_dense_run_of_torch_can_be_continued(torch_class):
    """State dicts of torch's AdamW and Adam load: float32 steps, moments in any dtype, foreign flags."""
    p, q = Parameter(torch.linspace(-1, 1, 9).double()), Parameter(torch.linspace(-1, 1, 9).double())
    theirs, ours = torch_class([q], lr=1e-2, weight_decay=0.1), CompactAdamW([p])
    for t in range(6):
        q.grad = torch.cos(torch.arange(9) + t).double()
        if t == 3:
            with torch.no_grad():
                p.copy_(q)
            ours.load_state_dict(through_file(theirs.state_dict()))
        theirs.step()
        if t >= 3:
            p.grad = q.grad.clone()
            ours.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-13, atol=1e-15)
    group = ours.param_groups[0]
    assert group["coupled_weight_decay"] == (torch_class is torch.optim.Adam)
    assert "fused" not in group and group["density_scaling"] == 0.5


def test_unstepped_and_frozen_entries_load():
    frozen, live = Parameter(torch.ones(2), requires_grad=False), Parameter(torch.ones(2))
    opt = CompactAdamW([frozen, live])
    train_one = CompactAdamW([Parameter(torch.ones(2)), Parameter(torch.ones(2))])
    train(train_one, 2)
    opt.load_state_dict(train_one.state_dict())  # saved while both were live
    assert opt.state[frozen]["step"].item() == 2
    train_one.load_state_dict(CompactAdamW([frozen, Parameter(torch.ones(2))]).state_dict())
    assert [train_one.state[p]["step"].item() for p in params_of(train_one)] == [0, 0]
    assert all(bool((train_one.state[p]["exp_avg"] == 0).all()) for p in params_of(train_one))


def set_entry(key, value, parameter=0):
    def change(saved):
        saved["state"][parameter][key] = value(saved["state"][parameter][key])

    return change


def drop(key):
    return lambda saved: saved["state"][0].pop(key)


BROKEN = {
    "no groups": (lambda s: s["param_groups"].pop(), "different number of parameter groups: 1 saved, 2 here"),
    "group size": (
        lambda s: s["param_groups"][0]["params"].pop(),
        "doesn't match the size .* 1 parameters saved",
    ),
    "amsgrad": (lambda s: s["param_groups"][1].update(amsgrad=True), "group 1 was saved with amsgrad=True"),
    "bad option": (lambda s: s["param_groups"][1].update(lr=-1.0), "Invalid learning rate: -1.0"),
    "unknown id": (
        lambda s: s["state"].update({9: s["state"][0]}),
        "state of parameter 9, which is in no group",
    ),
    "missing moment": (drop("exp_avg_sq"), "'fc.values': no 'exp_avg_sq'; nothing was changed"),
    "missing cohort": (drop("cohort"), "'fc.values': no 'cohort'"),
    "unknown entry": (lambda s: s["state"][0].update(max_exp_avg_sq=1), "unknown entry 'max_exp_avg_sq'"),
    "moment shape": (set_entry("exp_avg", lambda v: v[1:]), r"'exp_avg' is Float \[149\], expected"),
    "moment dtype": (set_entry("exp_avg", lambda v: v.int()), "'exp_avg' is Int"),
    "not a tensor": (set_entry("exp_avg", lambda v: 3), "'exp_avg' is int"),
    "step": (set_entry("step", lambda v: torch.tensor(-1)), "'fc.values': step is -1, expected a count"),
    "fraction of a step": (set_entry("step", lambda v: torch.tensor(0.5)), "step is 0.5"),
    "step NaN": (set_entry("step", lambda v: torch.tensor(float("nan"))), "step is nan"),
    "step infinite": (set_entry("step", lambda v: torch.tensor(float("inf"))), "step is inf"),
    "step of two": (set_entry("step", lambda v: torch.ones(2)), "step is tensor"),
    "births no tensor": (set_entry("births", lambda v: None), "'births' is NoneType, expected a tensor"),
    "cohort cast": (set_entry("cohort", lambda v: v.bfloat16()), "'fc.values': cohort is BFloat16"),
    "cohort shape": (
        set_entry("cohort", lambda v: v[:-1]),
        r"cohort is Byte \[149\], expected uint8 \[150\]",
    ),
    "cohort without birth": (
        set_entry("cohort", lambda v: v + 3),
        "cohort 3 was born at step -1, expected 0 to 8",
    ),
    "birth in the future": (
        set_entry("births", lambda v: v + 100),
        "cohort 0 was born at step 100, expected 0 to 8",
    ),
    "birth negative": (set_entry("births", lambda v: v - 7), "was born at step -7"),
    "births shape": (set_entry("births", lambda v: v[:9]), r"births are Long \[9\]"),
    "cohort of a dense parameter": (
        lambda s: s["state"][1].update(cohort=1),
        "'out.weight': unknown entry 'cohort'",
    ),
    "names": (lambda s: s["param_groups"][0].update(param_names=["x", "y"]), "no parameter 'fc.values'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_state_is_refused_and_nothing_changes(case):
    change, message = BROKEN[case]
    saved = copy.deepcopy(build(seed=3).state_dict())
    change(saved)
    opt = build()
    before, groups = snapshot(opt), copy.deepcopy(opt.state_dict()["param_groups"])
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(saved)
    assert same(before, snapshot(opt))
    assert opt.state_dict()["param_groups"] == groups


def test_state_dict_hooks_run():
    opt, seen = build(), []
    opt.register_state_dict_pre_hook(lambda o: seen.append("save"))
    opt.register_state_dict_post_hook(lambda o, s: {**s, "extra": 1})
    opt.register_load_state_dict_pre_hook(lambda o, s: {k: v for k, v in s.items() if k != "extra"})
    opt.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    saved = opt.state_dict()
    assert saved["extra"] == 1
    opt.load_state_dict(saved)
    assert seen == ["save", "loaded"]


def test_distributed_checkpoint_state_dicts_round_trip():
    """torch.distributed.checkpoint finds the state without a dummy step, by name, and loads it back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    opt = CompactAdamW(model)
    before = snapshot(opt)
    empty = get_optimizer_state_dict(model, opt)
    assert same(before, snapshot(opt)) and "0.weight" in empty["state"]
    train(opt, 3)
    saved = through_file(get_optimizer_state_dict(model, opt))
    other = CompactAdamW(model)
    set_optimizer_state_dict(model, other, saved)
    for p in model.parameters():
        assert all(equal_bits(v, other.state[p][k]) for k, v in opt.state[p].items())


def test_a_deepcopied_optimizer_knows_its_densities():
    opt = build()
    copied = params_of(copy.deepcopy(opt))[0]
    assert copied is not params_of(opt)[0] and _C.values_info(copied)[:3] == (20, 30, "fc")
