# SPDX-License-Identifier: BSD-3-Clause
"""Stop anywhere and resume: bit-identical to not stopping (promise 2)."""

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import smet
from checkpoint_helpers import (
    INTERVAL,
    OPERATIONS,
    STEPS,
    Run,
    differences,
    generator_states,
    numbers_of,
    seed_all,
    tensors_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
PER_STEP = len(OPERATIONS)


def uninterrupted(**options):
    run = Run(**options)
    seed_all(7)
    run.advance(STEPS * PER_STEP)
    return tensors_of(run), numbers_of(run), generator_states()


def resumed(at, tmp_path, **options):
    run = Run(**options)
    seed_all(7)
    run.advance(at)
    run.save(tmp_path)
    other = Run(seed=1, **options)
    seed_all(8)
    other.advance(min(at, 3 * PER_STEP))  # nothing of what stood there before may shine through
    other.load(tmp_path)
    other.advance(STEPS * PER_STEP - at)
    return tensors_of(other), numbers_of(other), generator_states()


POINTS = {
    "before the first step": 0,
    "step 1": PER_STEP,
    "in the warm-up": 2 * PER_STEP,
    "mid accumulation": 2 * PER_STEP + 1,
    "mid accumulation of an update step": (INTERVAL - 1) * PER_STEP + 1,
    "before the optimizer of an update step": (INTERVAL - 1) * PER_STEP + 2,
    "just before a topology update": (INTERVAL - 1) * PER_STEP + 4,
    "at a topology update": (INTERVAL - 1) * PER_STEP + 5,
    "after a topology update": INTERVAL * PER_STEP,
    "one step later": (INTERVAL + 1) * PER_STEP,
    "just before the second": (2 * INTERVAL - 1) * PER_STEP,
    "last step": STEPS * PER_STEP,
}


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_c1_three_way_resume_at_every_kind_of_point(grow, tmp_path):
    """Uninterrupted == resumed != started cold."""
    whole = uninterrupted(grow=grow)
    for name, at in POINTS.items():
        tensors, numbers, generators = resumed(at, tmp_path / str(at), grow=grow)
        assert differences(tensors, whole[0]) == [], name
        assert numbers == whole[1], name
        assert generators == whole[2], name
    cold = Run(seed=1, grow=grow)
    seed_all(7)
    cold.advance(STEPS * PER_STEP)
    assert differences(tensors_of(cold), whole[0]) != []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_c4_moments_survive_reduced_parameters(dtype, tmp_path):
    options = {"dtype": dtype, "stochastic_rounding": dtype == torch.bfloat16}
    whole = uninterrupted(**options)
    tensors, numbers, _ = resumed(5 * PER_STEP, tmp_path, **options)
    assert differences(tensors, whole[0]) == []
    assert numbers == whole[1]
    moments = torch.float64 if dtype == torch.float64 else torch.float32
    assert tensors["state layers.0.values exp_avg"].dtype == moments
    assert tensors["state layers.0.values cohort"].dtype == torch.uint8


@pytest.mark.parametrize("opt_class", [torch.optim.AdamW, torch.optim.SGD])
def test_c1_with_an_optimizer_of_torch(opt_class, tmp_path):
    options = {"momentum": 0.9} if opt_class is torch.optim.SGD else {}
    whole = uninterrupted(opt_class=opt_class, **options)
    tensors, _, _ = resumed(6 * PER_STEP, tmp_path, opt_class=opt_class, **options)
    assert differences(tensors, whole[0]) == []


def test_c2_resume_in_a_new_process(tmp_path):
    whole = uninterrupted(grow="gradient")
    run = Run(grow="gradient")
    seed_all(7)
    run.advance(3 * PER_STEP + 1)
    run.save(tmp_path / "checkpoints")
    program = f"""
        import torch
        torch.set_num_threads(1)
        from checkpoint_helpers import Run, tensors_of
        run = Run(seed=5, grow="gradient")
        run.load({str(tmp_path / "checkpoints")!r})
        run.advance({STEPS * PER_STEP} - run.done)
        torch.save(tensors_of(run), {str(tmp_path / "end.pt")!r})
    """
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=here, check=True, timeout=120)
    assert differences(torch.load(tmp_path / "end.pt", weights_only=True), whole[0]) == []


def test_c12_saving_does_not_change_the_run(tmp_path):
    whole = uninterrupted()
    run = Run()
    seed_all(7)
    for at in range(0, STEPS * PER_STEP, 5):
        run.save(tmp_path, step=at)
        run.advance(5 if at + 5 <= STEPS * PER_STEP else STEPS * PER_STEP - at)
    assert run.done == STEPS * PER_STEP
    assert differences(tensors_of(run), whole[0]) == []
    assert (numbers_of(run), generator_states()) == whole[1:]


def test_c3_state_dicts_carry_everything_through_weights_only(tmp_path):
    """torch.save of the three state dicts and load_state_dict, without smet's own files."""
    whole = uninterrupted()
    run = Run()
    seed_all(7)
    run.advance(5 * PER_STEP)
    parts = {"model": run.model, "opt": run.opt, "lr": run.lr, "topo": run.topo}
    saved = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**saved, "torch": torch.get_rng_state()}, tmp_path / "run.pt")
    python, numpy = random.getstate(), np.random.get_state()
    loaded = torch.load(tmp_path / "run.pt", weights_only=True)
    other = Run(seed=1)
    other.model.load_state_dict(loaded["model"])
    other.opt.load_state_dict(loaded["opt"])
    other.lr.load_state_dict(loaded["lr"])
    other.topo.load_state_dict(loaded["topo"])
    torch.set_rng_state(loaded["torch"])
    random.setstate(python)
    np.random.set_state(numpy)
    other.done = run.done
    other.advance(STEPS * PER_STEP - other.done)
    assert differences(tensors_of(other), whole[0]) == []
    assert numbers_of(other) == whole[1]


def test_c10_learning_rate_of_a_scheduler_built_around_loading(tmp_path):
    """pytorch#119168: a scheduler that is built after the optimizer was loaded must not reset its rate."""
    run = Run()
    run.advance(2 * PER_STEP)
    run.save(tmp_path)
    before = [group["lr"] for group in run.opt.param_groups]
    other = Run(seed=1)
    other.load(tmp_path)
    assert [group["lr"] for group in other.opt.param_groups] == before == other.lr.get_last_lr()
    later = Run(seed=1)
    smet.load_checkpoint(tmp_path, later.model, later.opt, later.topo)
    rebuilt = torch.optim.lr_scheduler.LambdaLR(
        later.opt, lambda done: min(1.0, (done + 1) / 3), last_epoch=run.lr.last_epoch - 1
    )
    assert rebuilt.get_last_lr() == before


@pytest.mark.parametrize(
    "name", ["OneCycleLR", "MultiStepLR", "SequentialLR", "ReduceLROnPlateau", "CyclicLR"]
)
def test_schedulers_of_torch_survive_the_json(name, tmp_path):
    """Counters, infinities, nested schedulers: what their state dicts hold comes back equal."""
    lrs = torch.optim.lr_scheduler
    make = {
        "OneCycleLR": lambda opt: lrs.OneCycleLR(opt, 0.1, total_steps=20),
        "MultiStepLR": lambda opt: lrs.MultiStepLR(opt, [2, 2, 5]),
        "SequentialLR": lambda opt: lrs.SequentialLR(
            opt, [lrs.ConstantLR(opt, 0.5, 3), lrs.ExponentialLR(opt, 0.9)], [3]
        ),
        "ReduceLROnPlateau": lambda opt: lrs.ReduceLROnPlateau(opt),
        "CyclicLR": lambda opt: lrs.CyclicLR(opt, 0.001, 0.1, cycle_momentum=False),
    }[name]
    steps = [((1.0,) if name == "ReduceLROnPlateau" else ())] * 9

    def build():
        model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        opt = smet.CompactAdamW(model)
        return model, opt, make(opt)

    model, opt, schedule = build()
    for arguments in steps[:4]:
        opt.step()
        schedule.step(*arguments)
    smet.save_checkpoint(tmp_path, model, opt, step=4, lr_scheduler=schedule)
    other_model, other_opt, other = build()
    smet.load_checkpoint(tmp_path, other_model, other_opt, lr_scheduler=other)
    for arguments in steps[4:]:
        for one, its in ((opt, schedule), (other_opt, other)):
            one.step()
            its.step(*arguments)
        assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in other_opt.param_groups]


def test_g4_gradscaler_state_is_saved(tmp_path):
    run = Run()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    scaler.scale(torch.ones(()))
    run.save(
        tmp_path, scaler=scaler, extra={"position": (3, {1: 2}), "loss": float("nan"), "t": torch.ones(2)}
    )
    other = torch.amp.GradScaler("cpu")
    found = Run(seed=1).load(tmp_path, scaler=other)
    assert other.state_dict() == scaler.state_dict()
    assert found.extra["position"] == (3, {1: 2}) and found.extra["loss"] != found.extra["loss"]
    assert torch.equal(found.extra["t"], torch.ones(2))


def test_o10_a_wrapped_model_resumes_from_an_unwrapped_one(tmp_path):
    """Names are canonical: what torch.compile adds to them is left out."""
    run = Run()
    run.advance(PER_STEP)
    run.save(tmp_path)
    other = Run(seed=1)
    wrapped = torch.compile(other.model, backend="eager")
    smet.load_checkpoint(tmp_path, wrapped, other.opt, other.topo)
    other.done = run.done
    assert differences(tensors_of(other), tensors_of(run)) == []
