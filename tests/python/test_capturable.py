# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW(capturable=True): the ordinary step's results, also from replays of one captured step."""

import copy
from functools import partial

import pytest
import torch

import smet
from adamw_helpers import same, snapshot
from captured import Capture, Run, differences, ordinary, replayed
from smet import CompactAdamW

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {
    "fp32": {},
    "bf16 rounded at random, bf16 moments": dict(
        dtype=torch.bfloat16, moments="bf16", stochastic_rounding=True, seed=3
    ),
    "bf16 with masters": dict(dtype=torch.bfloat16, master_weights=True),
    "fused": dict(fused_backward=True),
    "no warm-up, one clock": dict(warmup=0, local_age=False, coupled_weight_decay=True, maximize=True),
}


@pytest.mark.parametrize("how", [partial(ordinary, capturable=True), replayed], ids=["eager", "replayed"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_ordinary_run(options, how):
    want, got = ordinary(17, **options), how(17, **options)
    assert want.topo.updates == 3
    assert differences(want, got) == []


@pytest.mark.parametrize("bad", [(3,), (4,), (1, 4, 5), (9, 10, 11), tuple(range(1, 8))], ids=str)
def test_a_captured_grad_scaler_skips_steps_that_then_do_not_count(bad):
    want, got = ordinary(17, bad, scaler=True), replayed(17, bad, scaler=True)
    assert want.opt.state[want.net.up.values]["step"] == 17 - len(bad)
    assert differences(want, got) == []
    assert got.opt.settled


def test_what_the_host_works_out_is_what_a_replay_repeats():
    """The check checks: an ordinary step reads its learning rate and, captured, repeats its ages."""
    run, capture = Run(capturable=False), Capture()
    run.fill(0)
    with pytest.raises(RuntimeError, match="the host would wait"), Capture():
        run.step()
    run = Run(capturable=False)
    run.opt.param_groups[0]["lr"] = 4e-3
    with capture:
        run.step()
    capture.replay()
    want = Run(capturable=False)
    want.step()
    want.opt.zero_grad()
    want.step()
    assert "up.values" in differences(want, run)


def test_refused():
    weight = torch.nn.Parameter(torch.ones(3))
    for how in ("raise", "skip"):
        with pytest.raises(ValueError, match=f"capturable=True got on_nonfinite='{how}'"):
            CompactAdamW([weight], capturable=True, on_nonfinite=how)
    options = dict(capturable=True, on_nonfinite="ignore")
    weight.grad = torch.ones(3)
    opt = CompactAdamW([weight], age_schedule=lambda age: 1.0, **options)
    before = snapshot(opt)
    with pytest.raises(ValueError, match="age_schedule of 'parameter 0' is a function, which"):
        opt.step()
    opt = CompactAdamW([weight], lr=torch.tensor(1e-3), **options)
    opt.param_groups[0]["lr"].fill_(float("nan"))
    with pytest.raises(ValueError, match="learning rate of 'parameter 0' is nan; nothing was changed"):
        opt.step()
    opt.param_groups[0]["lr"] = torch.tensor(1)
    with pytest.raises(TypeError, match="learning rate of 'parameter 0' has dtype Long; expected float32 or"):
        opt.step()
    opt.param_groups[0]["lr"] = torch.tensor(1e-3, device="meta")
    with pytest.raises(ValueError, match="'parameter 0' is on cpu, its learning rate on meta"):
        opt.step()
    opt.param_groups[0]["lr"] = 1e-3
    opt.state[weight]["step"] = torch.zeros(())
    with pytest.raises(ValueError, match=r"step of 'parameter 0' is Float .* expected an int64 scalar"):
        opt.step()
    opt.state[weight]["step"] = torch.zeros((), dtype=torch.int64)
    assert same(before, snapshot(opt))
    opt.state[weight]["exp_avg"] = torch.zeros(3).half()  # found by the operator after this one
    with pytest.raises(TypeError, match="exp_avg of 'parameter 0' has dtype Half"):
        opt.step()
    assert opt.state[weight]["step"] == 0


def test_births_of_another_run_are_refused_before_any_change():
    run = ordinary(6, capturable=True)
    run.opt.state[run.net.up.values]["births"][1] = 9
    before = snapshot(run.opt)
    with pytest.raises(ValueError, match=r"cohort 1 of 'up.values' was born at step 9, not in 0 to 6"):
        run.opt.step()
    assert same(before, snapshot(run.opt))


def test_saved_loaded_and_copied_between_both_kinds(tmp_path):
    """A state dict does not say whether the optimizer was capturable; what a graph reads stays in place."""
    want = ordinary(14)
    half, other = replayed(7), Run(capturable=False)
    smet.save_checkpoint(tmp_path, half.net, half.opt, half.topo, lr_scheduler=half.schedule, step=7)
    for run in (other, Run(capturable=True)):
        places = [v.data_ptr() for p in run.net.parameters() for v in run.opt.state[p].values()]
        rate = run.opt.param_groups[0]["lr"]
        smet.load_checkpoint(tmp_path, run.net, run.opt, run.topo, lr_scheduler=run.schedule)
        assert places == [v.data_ptr() for p in run.net.parameters() for v in run.opt.state[p].values()]
        assert (run.opt.param_groups[0]["lr"] is rate) == run.opt.capturable
        assert run.opt.param_groups[0]["lr"] == half.lr
        for step in range(7, 14):
            run.opt.zero_grad()
            run.fill(step)
            run.step()
            run.after()
        run.lr = run.opt.param_groups[0]["lr"]
        assert differences(want, run) == []
    twin = copy.deepcopy(half.opt)
    assert twin.capturable and same(snapshot(twin), snapshot(half.opt))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("capturable", [True, False])
def test_a_cuda_graph_of_forward_backward_and_step(capturable):
    runs = []
    for captured in (False, True):
        torch.manual_seed(0)
        layer = smet.SparseLinear(64, 32, density=0.3, seed=5, name="layer").cuda()
        lr = torch.tensor(1e-2, device="cuda")
        opt = CompactAdamW(layer, lr=lr, warmup=3, capturable=capturable, on_nonfinite="ignore")
        topo = smet.TopologyScheduler(layer, opt, interval=4, total_steps=40, stop=1.0)
        x = torch.zeros(8, 64, device="cuda")

        def step(layer=layer, opt=opt, x=x):
            opt.zero_grad()
            layer(x).square().mean().backward()
            opt.step()

        graph = torch.cuda.CUDAGraph() if captured else None
        for number in range(13):
            x.copy_(torch.linspace(-1, 1, 8 * 64).reshape(8, 64).roll(number))
            if number == 3 and graph is not None:  # the first steps warm up
                if not capturable:
                    with pytest.raises(RuntimeError, match="capturable=True"), torch.cuda.graph(graph):
                        step()
                    return
                with torch.cuda.graph(graph):
                    step()
            graph.replay() if graph is not None and number >= 3 else step()
            lr.mul_(0.9)
            topo.step()
        runs.append(snapshot(opt))
    assert same(*runs)
