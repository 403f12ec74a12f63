# SPDX-License-Identifier: BSD-3-Clause
"""fused_backward=True: the step of the ordinary optimizer, with one gradient alive at a time."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import smet
from adamw_helpers import same, snapshot
from small_models import Model, model

pytestmark = pytest.mark.usefixtures("one_thread")


def build(dtype=torch.float32, **options):
    net = model(0)
    smet.sparsify_(net, density=0.3)
    net.to(dtype)
    opt = smet.CompactAdamW(net, lr=3e-3, weight_decay=0.1, **options)
    return net, opt, smet.TopologyScheduler(net, opt, interval=3, total_steps=40)


def loss_of(net: Model, number: int) -> torch.Tensor:
    tokens = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(number))
    return nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {"moments": "bf16", "stochastic_rounding": True}),
        (torch.bfloat16, {"master_weights": True}),
    ],
)
def test_equals_the_ordinary_step_bit_for_bit(dtype, options):
    net, opt, topo = build(dtype, **options)
    fused_net, fused_opt, fused_topo = build(dtype, fused_backward=True, **options)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (opt, fused_opt)]
    for number in range(8):
        loss_of(net, number).backward()
        opt.step()
        topo.step()
        opt.zero_grad()
        loss_of(fused_net, number).backward()
        assert all(param.grad is None for param in fused_net.parameters())
        fused_opt.step()
        fused_topo.step()
        for schedule in schedules:
            schedule.step()
    assert same(snapshot(opt), snapshot(fused_opt)) and topo.hash() == fused_topo.hash()
    assert topo.updates == 2


def test_one_gradient_is_alive_at_a_time():
    net, _opt, _ = build(fused_backward=True)
    alive: list[int] = []
    for param in net.parameters():  # these hooks were registered last, so they run after the update
        param.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in net.parameters()))
        )
    loss_of(net, 0).backward()
    assert alive == [0] * len(list(net.parameters()))


@pytest.mark.parametrize("max_norm", [0.05, 1e3])
def test_clipped_backward_equals_clip_grad_norm(max_norm):
    """The norm, and with dropout the weights: both passes draw the same."""
    net, opt, _ = build()
    fused_net, fused_opt, _ = build(fused_backward=True)

    def backward(net, number):
        loss = nn.functional.dropout(net(torch.arange(9) + number), 0.5).square().mean()
        loss.backward()
        return loss.item()

    for number in range(3):
        torch.manual_seed(number)
        loss = backward(net, number)
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        opt.step()
        opt.zero_grad()
        after = torch.rand(())
        torch.manual_seed(number)
        fused_loss, fused_norm = fused_opt.clipped_backward(lambda n=number: backward(fused_net, n), max_norm)
        fused_opt.step()
        assert (fused_loss, fused_norm, torch.rand(())) == (loss, norm, after)
    assert same(snapshot(opt), snapshot(fused_opt))


def test_refuses_accumulation_scaler_and_skip():
    net, opt, _ = build(fused_backward=True)
    loss_of(net, 0).backward()
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match=r"second gradient of 'lm_head\.weight'.*accumulated"):
        loss_of(net, 1).backward()
    assert same(before, snapshot(opt))

    net, opt, _ = build(fused_backward=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(net, 0)).backward()
    with pytest.raises(RuntimeError, match=r"cannot be combined with torch\.amp\.GradScaler"):
        scaler.step(opt)

    net, opt, _ = build(fused_backward=True, on_nonfinite="skip")
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match="clipped_backward"):
        loss_of(net, 0).backward()
    assert same(before, snapshot(opt))
    with pytest.raises(RuntimeError, match="needs fused_backward=True"):
        build()[1].clipped_backward(lambda: None, 1.0)


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_g1_clipped_backward_sees_a_bad_gradient_before_any_write(on_nonfinite):
    net, opt, _ = build(fused_backward=True, on_nonfinite=on_nonfinite)
    before = snapshot(opt)

    def backward():
        (net.embed.weight[0, 0] * float("inf") + loss_of(net, 0)).backward()

    if on_nonfinite == "raise":
        with pytest.raises(RuntimeError, match=r"'embed\.weight' holds NaN or infinity; nothing was changed"):
            opt.clipped_backward(backward, 1.0)
    else:
        opt.clipped_backward(backward, 1.0)
        opt.step()
        assert opt.skipped_steps == 1
    assert same(before, snapshot(opt))


def test_g1_a_bad_gradient_raises_before_its_own_parameter_changes():
    net, opt, _ = build(fused_backward=True)
    with pytest.raises(RuntimeError, match=r"'embed\.weight' holds NaN.*not changed, but 11 nearer"):
        (net.embed.weight[0, 0] * float("inf") + loss_of(net, 0)).backward()
    assert opt.state[net.embed.weight]["step"] == 0 and opt.state[net.lm_head.weight]["step"] == 1


def test_copies_stay_fused_and_a_deleted_optimizer_lets_go():
    net, opt, _ = build(fused_backward=True)
    copied_net, copied = copy.deepcopy((net, opt))
    loss_of(copied_net, 0).backward()
    loss_of(net, 0).backward()
    assert same(snapshot(opt), snapshot(copied)) and int(opt.state[net.embed.weight]["step"]) == 1

    gone = weakref.ref(opt)
    del opt, _
    gc.collect()
    assert gone() is None
    loss_of(net, 1).backward()
    assert net.embed.weight.grad is not None


def test_parameters_that_thaw_or_come_later():
    """Those without a hook are updated by step(); a new group is watched."""
    net, opt, _ = build(fused_backward=True)
    extra = nn.Parameter(torch.ones(3))
    opt.add_param_group({"params": [extra], "param_names": ["extra"]})
    (loss_of(net, 0) + extra.sum()).backward()
    assert extra.grad is None and extra[0] < 1
    opt.step()
    net.embed.weight.grad = torch.ones_like(net.embed.weight)
    before = net.embed.weight.detach().clone()
    opt.step()
    assert not torch.equal(before, net.embed.weight)


def test_clipped_backward_watches_a_parameter_that_thawed():
    """Without a hook it would gather the gradients of both passes, and have no part in the norm."""
    nets = []
    for fused in (False, True):
        net = model(0)
        smet.sparsify_(net, density=0.3)
        net.embed.weight.requires_grad_(False)
        opt = smet.CompactAdamW(net, lr=3e-3, fused_backward=fused)
        net.embed.weight.requires_grad_(True)
        if fused:
            _, norm = opt.clipped_backward(lambda net=net: loss_of(net, 0).backward(), 0.1)
        else:
            loss_of(net, 0).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        opt.step()
        nets.append((norm, net.state_dict()))
    assert nets[0][0] == nets[1][0]
    assert same(list(nets[0][1].values()), list(nets[1][1].values()))


def test_c1_loading_begins_a_new_step_after_a_backward_pass_that_failed(tmp_path):
    net, opt, topo = build(fused_backward=True)
    smet.save_checkpoint(tmp_path, net, opt, topo, step=0)
    net.layers[0].register_full_backward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss_of(net, 0).backward()
    net.layers[0]._backward_hooks.clear()
    smet.load_checkpoint(tmp_path, net, opt, topo)
    loss_of(net, 0).backward()
    opt.step()
    other_net, other, _ = build()
    loss_of(other_net, 0).backward()
    other.step()
    assert same(snapshot(opt), snapshot(other))


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_g1_a_norm_that_overflows_changes_nothing(on_nonfinite):
    net, opt, _ = build(fused_backward=True, on_nonfinite=on_nonfinite)
    before = snapshot(opt)

    def backward():
        (loss_of(net, 0) * 1e38).backward()

    if on_nonfinite == "raise":
        with pytest.raises(RuntimeError, match="the norm of all gradients overflows; nothing was changed"):
            opt.clipped_backward(backward, 1.0)
    else:
        opt.clipped_backward(backward, 1.0)
        opt.step()
        assert opt.skipped_steps == 1
    assert same(before, snapshot(opt))


def test_a_criterion_that_needs_gradients_is_refused():
    net, opt, _ = build(fused_backward=True)
    with pytest.raises(ValueError, match="fused_backward=True, which frees every gradient"):
        smet.TopologyScheduler(net, opt, total_steps=10, prune="magnitude_gradient")
