# SPDX-License-Identifier: BSD-3-Clause
"""Nothing is skipped silently: a bad gradient raises before any write, or skips the step and says so."""

import json
import logging
from dataclasses import replace

import pytest
import torch

import smet
from adamw_helpers import same, snapshot
from smet import _C

pytestmark = pytest.mark.usefixtures("one_thread")


def build(on_nonfinite, interval=3):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        smet.SparseLinear(9, 8, density=0.5, name="0"), torch.nn.Tanh(), torch.nn.Linear(8, 4)
    )
    opt = smet.CompactAdamW(model, lr=1e-2, on_nonfinite=on_nonfinite)
    topo = smet.TopologyScheduler(model, opt, interval=interval, total_steps=30, stop=1.0)
    return model, opt, topo


def step(model, opt, topo, number, poison=None):
    opt.zero_grad()
    model(torch.full((3, 9), 0.1 * number)).square().mean().backward()
    if poison is not None:
        next(iter(model.parameters())).grad[3] = poison
    opt.step()
    return topo.step()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_g2_skip_mode_counts_logs_and_moves_nothing(bad, caplog):
    """G2: a run with two poisoned steps equals one in which these steps never happened, topology included."""
    model, opt, topo = build("skip")
    with caplog.at_level(logging.WARNING, logger="smet"):
        for number in range(10):
            before, hash_before = snapshot(opt), topo.hash()
            poisoned = number in (2, 5)
            step(model, opt, topo, number, bad if poisoned else None)
            if poisoned:
                assert same(before, snapshot(opt)) and topo.hash() == hash_before
    assert opt.skipped_steps == 2
    assert [record.getMessage() for record in caplog.records] == [
        "step skipped: the gradient of '0.values' holds NaN or infinity (1 skipped so far)",
        "step skipped: the gradient of '0.values' holds NaN or infinity (2 skipped so far)",
    ]
    other, other_opt, other_topo = build("raise")
    for number in (0, 1, 3, 4, 6, 7, 8, 9):
        step(other, other_opt, other_topo, number)
    assert same(snapshot(opt), snapshot(other_opt))
    assert (topo.steps, topo.updates, topo.hash()) == (8, 2, other_topo.hash())


def test_g4_g5_gradscaler_skips_ages_and_topology_clock_and_equals_manual():
    """G4, G5: with powers of two as scales, a scaled run equals the unscaled one without its bad steps."""
    runs = []
    for scaled in (True, False):
        model, opt, topo = build("raise")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        for number in range(12):
            if number in (4, 7) and not scaled:
                continue
            opt.zero_grad()
            scaler.scale(model(torch.full((3, 9), 0.1 * number)).square().mean()).backward()
            if number in (4, 7):
                model[0].values.grad[1] = float("inf")
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(opt)
            scaler.update()
            topo.step()
        runs.append((snapshot(opt), topo.hash(), topo.steps, topo.ages("0")))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_g6_nan_weights_are_pruned_first_reported_and_gone():
    model, opt, topo = build("ignore", interval=1)
    with torch.no_grad():
        model[0].values[5:8] = float("nan")
    update = step(model, opt, topo, 1, None)
    assert update.nan_count >= 3
    assert f"{update.nan_count} NaN" in str(update)


def test_g10_a_gradient_of_another_dtype_is_an_error():
    model, opt, _ = build("raise")
    model[0].values.grad = None
    with pytest.raises(RuntimeError, match="dtype"):
        model[0].values.grad = torch.ones_like(model[0].values, dtype=torch.float64)
    model[0].values.grad = torch.ones_like(model[0].values)
    before = snapshot(opt)
    opt.state[model[0].values]["exp_avg"] = torch.zeros(36, dtype=torch.float16)
    with pytest.raises(TypeError, match=r"exp_avg of '0.values' has dtype"):
        opt.step()
    assert torch.equal(before[0], model[0].values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_first_nonfinite_in_every_layout(dtype):
    base = torch.ones(6, 8, dtype=dtype)
    for view in (base, base.t(), base[::2], base[:, ::3], base[2, 3]):
        base.fill_(1)
        assert _C.first_nonfinite([torch.ones(3), view]) == -1
        view[(-1,) * view.dim()] = -float("inf")
        assert _C.first_nonfinite([torch.ones(3), view]) == 1
    base.fill_(1)
    base[1] = float("nan")
    assert _C.first_nonfinite([base[::2]]) == -1  # what is between the elements does not count
    assert _C.first_nonfinite([]) == -1


def test_invalid_option():
    with pytest.raises(ValueError, match="Invalid on_nonfinite: 'skp'; expected"):
        build("skp")


def test_g2_the_trainer_skips_logs_and_counts(tmp_path, monkeypatch):
    from smet.train import loop
    from smet.train.config import PretrainConfig
    from smet.train.log import read_log
    from smet.train.run import pretrain

    (tmp_path / "text.txt").write_text("".join(f"word{i % 7} and {i % 11}\n" for i in range(2000)))
    (tmp_path / "tiny.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "vocab_size": 280,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "max_position_embeddings": 64,
            }
        )
    )
    config = PretrainConfig(
        model=str(tmp_path / "tiny.json"),
        data=str(tmp_path / "text.txt"),
        steps=8,
        seq=16,
        batch=2,
        interval=2,
        stop=1.0,
        sample_tokens=0,
        picture=False,
        on_nonfinite="skip",
        out=str(tmp_path / "run"),
    )
    loss, calls = loop.next_token_loss, []

    def poisoned(model, batch, **options):
        calls.append(1)
        value = loss(model, batch, **options)
        return value * float("nan") if len(calls) == 3 else value

    monkeypatch.setattr(loop, "next_token_loss", poisoned)
    result = pretrain(config)
    log = list(read_log(result.folder / "log.jsonl"))
    assert [event["step"] for event in log if event["event"] == "skipped"] == [3]
    assert result.summary["skipped_steps"] == 1 and result.exit_code == 0
    # The third step did not count: the topology's clock stood still.
    assert [event["step"] for event in log if event["event"] == "topology"] == [2, 5, 7]
    weights = torch.load(result.folder / "weights.pt", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    with pytest.raises(loop.NonFiniteLossError, match="the loss is nan at step 3"):
        calls.clear()
        pretrain(replace(config, on_nonfinite="raise", out=str(tmp_path / "raise")))
