# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW under GradScaler where the device decides: the run that waits for every verdict, bit for bit.

On a GPU the optimizer asks for it by itself; here it is asked for by hand, on the CPU, where the operator
honours the same two scalars.
"""

import copy
import logging

import pytest
import torch

import smet
from adamw_helpers import same, snapshot

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 14


def build(device="cpu", grow="random", moments="fp32"):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        smet.SparseLinear(40, 32, density=0.3, name="0"), torch.nn.Tanh(), torch.nn.Linear(32, 4)
    ).to(device)
    opt = smet.CompactAdamW(model, lr=1e-2, warmup=3, moments=moments)
    topo = smet.TopologyScheduler(model, opt, interval=3, total_steps=30, stop=1.0, grow=grow)
    return model, opt, topo


def train(model, opt, topo, bad, *, on_device, watch=False, device="cpu", steps=range(STEPS)):
    """Steps under a scaler; those in `bad` meet an infinity. watch: counters are read after each."""
    opt._step_supports_amp_scaling = on_device
    scaler = torch.amp.GradScaler(device, init_scale=2.0**8, growth_interval=4)
    seen = []
    for number in steps:
        opt.zero_grad()
        x = torch.linspace(-1, 1, 3 * 40, device=device).reshape(3, 40).roll(number)
        scaler.scale(model(x).square().mean()).backward()
        if number in bad:
            model[0].values.grad[1] = float("inf")
        scaler.step(opt)
        scaler.update()
        topo.step()
        if watch:
            seen.append(
                (topo.steps, topo.updates, topo.ages("0"), opt.state_dict()["state"][0]["step"].item())
            )
    return snapshot_of(opt), topo.steps, topo.updates, topo.hash(), topo.ages("0"), opt.skipped_steps, seen


def snapshot_of(opt):
    opt.settle()
    return snapshot(opt)


BAD = [(), (4, 7), (2,), (0, 1), (2, 3, 5, 6), (8, 13), (12, 13), tuple(range(0, 14, 2)), tuple(range(14))]


@pytest.mark.parametrize("watch", [False, True], ids=["", "watched"])
@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_g4_equals_the_run_that_waits(bad, grow, watch):
    waits = train(*build(grow=grow), bad, on_device=False, watch=watch)
    decided = train(*build(grow=grow), bad, on_device=True, watch=watch)
    assert same(waits[0], decided[0])
    assert waits[1:5] == decided[1:5] and waits[6] == decided[6]
    assert decided[5] == len(bad) and waits[5] == 0  # GradScaler never calls a step that it skips itself


def test_g4_unscaled_first_and_bf16_moments():
    """After unscale_ the scaler hands over no scale."""
    runs = []
    for on_device in (False, True):
        model, opt, _ = build(moments="bf16")
        opt._step_supports_amp_scaling = on_device
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        for number in range(6):
            opt.zero_grad()
            scaler.scale(model(torch.full((3, 40), 0.1 * number)).square().mean()).backward()
            if number == 2:
                model[0].values.grad[1] = float("nan")
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(opt)
            scaler.update()
        runs.append(snapshot_of(opt))
    assert same(*runs)


def test_a_skipped_step_is_said_once_its_verdict_is_read(caplog):
    model, opt, topo = build()
    with caplog.at_level(logging.WARNING, logger="smet"):
        train(model, opt, topo, (), on_device=True, steps=range(2))
        model[0].values.grad.fill_(1)
        opt.found_inf, before = torch.ones(()), snapshot(opt)
        opt.step()
        del opt.found_inf
        assert not opt.settled and opt.skipped_steps == 0
        twin = copy.deepcopy(opt)  # asks
    assert opt.settled and twin.settled and twin.skipped_steps == opt.skipped_steps == 1
    assert same(before, snapshot(opt)) and same(before, snapshot(twin))
    assert [r.getMessage() for r in caplog.records] == [
        "step skipped: a GradScaler found NaN or infinity in a gradient (1 skipped so far)"
    ]


def test_loading_does_not_meet_the_verdict_of_another_run():
    model, opt, topo = build()
    train(model, opt, topo, (), on_device=True, steps=range(3))
    saved = copy.deepcopy(opt.state_dict())
    opt.found_inf = torch.ones(())
    opt.step()
    del opt.found_inf
    opt.load_state_dict(saved)
    opt.step()
    assert opt.state[model[0].values]["step"] == 4


def test_g4_stopped_after_a_skipped_step_and_resumed(tmp_path):
    straight = train(*build(), (4, 6), on_device=True)
    model, opt, topo = build()
    train(model, opt, topo, (4, 6), on_device=True, steps=range(7))
    smet.save_checkpoint(tmp_path, model, opt, topo, step=7)
    model, opt, topo = build()
    smet.load_checkpoint(tmp_path, model, opt, topo)
    resumed = train(model, opt, topo, (), on_device=True, steps=range(7, STEPS))
    assert same(straight[0], resumed[0]) and straight[1:5] == resumed[1:5]


@pytest.mark.parametrize(
    "flags,error,message",
    [
        ({"found_inf": torch.zeros((), dtype=torch.float64)}, TypeError, "found_inf has dtype Double"),
        (
            {"grad_scale": torch.ones(2)},
            ValueError,
            r"grad_scale has shape \[2\] on cpu; expected one element",
        ),
    ],
)
def test_what_is_no_scalar_is_refused(flags, error, message):
    model, opt, _ = build()
    model(torch.ones(3, 40)).sum().backward()
    before = snapshot(opt)
    opt.found_inf = flags.get("found_inf", torch.zeros(()))
    opt.grad_scale = flags.get("grad_scale")
    with pytest.raises(error, match=message):
        opt.step()
    assert same(before, snapshot(opt))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_g4_on_a_gpu_nothing_waits_for_its_own_step(bad):
    model, opt, topo = build("cuda")
    assert opt._step_supports_amp_scaling
    decided = train(model, opt, topo, bad, on_device=True, device="cuda")
    waits = train(*build("cuda"), bad, on_device=False, device="cuda")
    assert same(waits[0], decided[0]) and waits[1:5] == decided[1:5]
