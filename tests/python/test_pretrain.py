# SPDX-License-Identifier: BSD-3-Clause
"""Whole runs of a tiny model: every method, the files of a run, refusals, interruptions."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

import smet
from smet.cli import main
from smet.train import demo as demo_module
from smet.train.age_probe import AgeProbe
from smet.train.config import PretrainConfig
from smet.train.data import Batches, load_data
from smet.train.errors import ConfigError, NonFiniteLossError
from smet.train.evaluate import evaluate
from smet.train.generate import generate, load_run
from smet.train.log import read_log
from smet.train.loop import backward, clip, lr_factor, make_optimizer, make_topology, sparsify, train
from smet.train.loss import next_token_loss
from smet.train.memory_timeline import MemoryTimeline
from smet.train.methods import METHODS, resolve
from smet.train.models import build_model, read_model_config
from smet.train.run import pretrain

TINY = {
    "model_type": "llama",
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
}
SUMMARY_KEYS = {
    *("val_loss", "val_bits_per_byte", "val_perplexity", "train_loss", "spike_mean", "spike_max"),
    *("topology_updates", "topology_hash", "density", "seconds_per_step", "tokens", "peak_rss_bytes"),
    *("state_bytes", "state_bytes_dense_adamw", "config", "method", "steps", "interrupted", "versions"),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a model configuration and text."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, rng.integers(2, 8)).tolist()).decode() for _ in range(60)]
    (folder / "text.txt").write_text("".join(" ".join(rng.choice(words, 9)) + "\n" for _ in range(800)))
    return folder


@pytest.fixture(scope="module")
def options(files):
    return PretrainConfig(
        model=str(files / "tiny.json"),
        data=str(files / "text.txt"),
        steps=40,
        seq=16,
        batch=4,
        eval_every=20,
        eval_bytes=2000,
        sample_tokens=5,
        lr=1e-2,
        picture=False,
        print_every=10,
    )


@pytest.fixture(scope="module")
def data(options, tmp_path_factory):
    return load_data(options, tmp_path_factory.mktemp("data"), TINY["vocab_size"])


@pytest.fixture(scope="module")
def runs(options, data, tmp_path_factory):
    """One finished run of every method, 40 steps and updates after 10, 20 and (not the last) 30."""
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    results = {}
    for method in METHODS:
        extra = {} if method in ("dense", "static") else {"interval": 10, "stop": 1.0}
        results[method] = pretrain(
            replace(options, method=method, out=str(folder / method), picture=True, **extra), data
        )
    return results


def tiny_model(options, method="dense", **extra):
    config = resolve(replace(options, method=method, **extra))
    model = build_model(config, TINY["vocab_size"], read_model_config(config.model))
    if method != "dense":
        sparsify(model, config)
    return config, model


# Large models


def test_a_model_is_built_sparse_as_it_would_be_made_sparse(options):
    """--init sparse draws what sparsify_(dense model, init_std) draws; nothing dense is in between."""
    _, model = tiny_model(options, "smet", init="sparse", density=0.2)
    _, dense = tiny_model(options)
    smet.sparsify_(dense, 0.2, init_std=dense.config.initializer_range)
    state, other = model.state_dict(), dense.state_dict()
    assert state.keys() == other.keys()
    sparse = [key for key in state if key.endswith((".values", ".mask"))]
    assert len(sparse) == 14 and all(torch.equal(state[key], other[key]) for key in sparse)
    dense_weights = [state[key] for key in ("lm_head.weight", "model.embed_tokens.weight")]
    assert all(0.01 < weight.std() < 0.03 for weight in dense_weights)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, dense.model.rotary_emb.inv_freq)


def test_memory_options_do_not_change_the_run(options, data, tmp_path):
    """--fused-backward and --checkpoint-activations: the same losses, topology and norms, bit for bit."""
    results = []
    for name, extra in (
        ("plain", {}),
        ("lean", {"fused_backward": True, "checkpoint_activations": True, "clip": 1.0}),
    ):
        config = replace(options, out=str(tmp_path / name), init="sparse", interval=10, stop=1.0, **extra)
        results.append(pretrain(config, data))
    plain, lean = results
    assert plain.losses == lean.losses and plain.updates == lean.updates == [10, 20, 30]
    assert plain.summary["topology_hash"] == lean.summary["topology_hash"]
    logs = [list(read_log(result.folder / "log.jsonl")) for result in results]
    norms = [[event["grad_norm"] for event in log if event["event"] == "step"] for log in logs]
    assert norms[0] == norms[1] and len(norms[0]) == options.steps
    sizes = [[event for event in log if event["event"] == "update_size"] for log in logs]
    assert sizes[0] == sizes[1] and all(event["newborn"] > 0 for event in sizes[0]) and sizes[0]


def test_without_clipping_one_pass_updates(options, data, tmp_path):
    options = replace(options, steps=3, clip=0.0)
    plain = pretrain(replace(options, out=str(tmp_path / "plain")), data)
    fused = pretrain(replace(options, out=str(tmp_path / "fused"), fused_backward=True), data)
    assert plain.losses == fused.losses
    events = [event for event in read_log(fused.folder / "log.jsonl") if event["event"] == "step"]
    assert [event["grad_norm"] for event in events] == [None] * 3


# Methods


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_writes_its_files(runs, method):
    result = runs[method]
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert result.exit_code == 0
    assert (summary["steps"], summary["tokens"]) == (40, 40 * 4 * 16)
    assert summary["val_loss"] < math.log(TINY["vocab_size"]) - 0.5
    assert 0 < summary["val_bits_per_byte"] < 8
    assert summary["peak_rss_bytes"] > 1e8
    assert result.losses[-1] < result.losses[0]
    for name in ("config.yaml", "log.jsonl", "tokenizer.json", "weights.pt", "sample.txt", "run.png"):
        assert (result.folder / name).stat().st_size > 0


def test_summaries_differ_as_the_methods_do(runs):
    summaries = {method: result.summary for method, result in runs.items()}
    assert {m: s["topology_updates"] for m, s in summaries.items()} == {
        "smet": 3, "dense": 0, "static": 0, "set": 3, "rigl": 3
    }  # fmt: skip
    assert summaries["dense"]["density"] == 1.0
    for method in ("smet", "static", "set", "rigl"):
        assert summaries[method]["density"] == pytest.approx(0.25, abs=1e-3)
        assert summaries[method]["state_bytes"]["weights"] * 4 == pytest.approx(
            4 * (4 * 32 * 32 + 3 * 32 * 48), rel=1e-3
        )
        assert (
            summaries[method]["state_bytes_dense_adamw"]
            == summaries["dense"]["state_bytes_total"] - (summaries["dense"]["state_bytes"]["other"])
        )
    assert len({summaries[method]["topology_hash"] for method in ("smet", "set", "rigl")}) == 3
    assert len({summaries[method]["val_loss"] for method in METHODS}) == 5


def test_sparse_runs_start_from_the_dense_weights_on_the_same_batches(options, data):
    _, dense = tiny_model(options)
    for method in ("static", "smet"):
        _, sparse = tiny_model(options, method)
        weights = dict(dense.named_parameters())
        for name, layer in smet.sparse_layers(sparse):
            weight = layer.dense_weight()
            assert torch.equal(weight[weight != 0], weights[f"{name}.weight"][weight != 0])
        assert torch.equal(sparse.lm_head.weight, dense.lm_head.weight)


def test_a_run_from_its_saved_configuration_is_bit_identical(runs, tmp_path):
    first = runs["smet"].folder
    assert main(["pretrain", "--config", str(first / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    one, two = (torch.load(folder / "weights.pt") for folder in (first, tmp_path / "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert yaml.safe_load((first / "config.yaml").read_text())["interval"] == 10


def test_the_log_tells_the_whole_run(runs):
    events = list(read_log(runs["smet"].folder / "log.jsonl"))
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "end"
    assert [event["loss"] for event in events if event["event"] == "step"] == runs["smet"].losses
    assert [event["step"] for event in events if event["event"] == "eval"] == [20, 40]
    updates = [event for event in events if event["event"] == "topology"]
    assert [event["step"] for event in updates] == [10, 20, 30]
    assert updates[0]["last_cohort_pruned"] is None
    assert 0 < updates[1]["last_cohort_pruned"] < 1
    assert len({event["hash"] for event in updates}) == 3
    sizes = [event for event in events if event["event"] == "update_size"]
    assert [(event["update"], event["age"], event["step"]) for event in sizes] == [
        (1, 1, 11), (1, 10, 20), (2, 1, 21), (2, 10, 30), (3, 1, 31), (3, 10, 40)
    ]  # fmt: skip


def test_update_sizes_are_those_of_all_weights(options, data):
    config, model = tiny_model(options, "smet", interval=3, warmup=5)
    optimizer, batches = make_optimizer(model, config), Batches(data.train, 16, 4, 0)
    topology, probe = make_topology(model, optimizer, config), AgeProbe(model, optimizer)
    values = [layer.values for _, layer in smet.sparse_layers(model)]
    for step in range(1, 5):
        backward(model, batches[step], 1, step)
        before = [value.detach().clone() for value in values]
        with probe.watch(step):
            optimizer.step()
        assert (probe.result is not None) == (step == 4)  # age 1 of the weights grown after step 3
        if update := topology.step():
            probe.grew(step, update.update)
        optimizer.zero_grad()
    moved = torch.cat(
        [(value.detach().double() - old.double()).abs() for value, old in zip(values, before, strict=True)]
    )
    newborn = torch.cat([optimizer.state[value]["cohort"] == 1 for value in values])
    assert probe.result.newborn == pytest.approx(moved[newborn].mean().item(), rel=1e-12)
    assert probe.result.mature == pytest.approx(moved[~newborn].mean().item(), rel=1e-12)


# The pieces of the loop


def test_L5_evaluation_counts_every_token_once_for_any_batch_size(options, data):
    _, model = tiny_model(options)
    tokens = data.held_out[: 16 * 7 + 6]  # seven windows and a rest
    results = [evaluate(model, tokens, 16, batch) for batch in (1, 2, 5, 100)]
    assert {result.tokens for result in results} == {len(tokens) - 1}
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            window = torch.from_numpy(tokens[start : start + 17].astype(np.int64))[None]
            nats += next_token_loss(model.double(), window, "sum").item()
    for result in results:
        assert result.loss == pytest.approx(nats / (len(tokens) - 1), rel=1e-6)
    assert model.training


def test_bits_per_byte(options, data):
    _, model = tiny_model(options)
    result = evaluate(model, data.held_out, 16, 8, text_bytes=1000)
    assert result.bits_per_byte == pytest.approx(result.loss * result.tokens / math.log(2) / 1000)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_G9_accumulated_gradients_equal_those_of_the_large_batch(options, data):
    _, model = tiny_model(options, "static")
    model.double()
    large, halves = Batches(data.train, 16, 8, 0), Batches(data.train, 16, 4, 0)
    loss = backward(model, large[3], 1, 1)
    wanted = [param.grad.clone() for param in model.parameters()]
    model.zero_grad()
    assert backward(model, halves[6], 2, 1) + backward(model, halves[7], 2, 1) == pytest.approx(
        loss, rel=1e-12
    )
    for param, grad in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(param.grad, grad, rtol=1e-10, atol=1e-14)


def test_G7_a_loss_that_is_not_finite_stops_before_the_update(options, data, runs, capsys, tmp_path):
    config, model = tiny_model(options)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    record = _Silent()
    with pytest.raises(NonFiniteLossError, match="the loss is nan at step 1; stopped before the update"):
        train(config, model, data, record)
    for name, param in model.named_parameters():
        assert torch.equal(param.view(torch.int32), before[name].view(torch.int32))
    config_file = runs["dense"].folder / "config.yaml"
    code = main(["pretrain", "--config", str(config_file), "--out", str(tmp_path), "--lr", "1e30"])
    assert code == 1
    assert "stopped before the update" in capsys.readouterr().err
    assert [event["event"] for event in read_log(tmp_path / "log.jsonl")][:2] == ["start", "state_bytes"]


class _Silent:
    """A record that nothing but the start of a step may reach."""

    memory = MemoryTimeline()

    def start_step(self):
        pass


def test_clipping(options, data):
    _, model = tiny_model(options, "static")
    backward(model, Batches(data.train, 16, 4, 0)[0], 1, 1)
    grads = torch.cat([param.grad.flatten() for param in model.parameters()]).double()
    assert clip(model, 0.0, 1) == pytest.approx(grads.norm().item(), rel=1e-5)
    assert clip(model, 0.01, 1) == pytest.approx(grads.norm().item(), rel=1e-5)
    clipped = torch.cat([param.grad.flatten() for param in model.parameters()]).double()
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    name, layer = next(iter(smet.sparse_layers(model)))
    layer.values.grad[3] = math.inf
    with pytest.raises(NonFiniteLossError, match=rf"the gradient of {name}\.values is not finite at step 7"):
        clip(model, 1.0, 7)


def test_learning_rate():
    config = PretrainConfig(steps=100, lr_warmup=0.05, lr_final=0.1)
    factors = [lr_factor(config, done) for done in range(100)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[52] == pytest.approx(0.55, abs=0.01)
    assert factors[-1] == pytest.approx(0.1)
    assert lr_factor(PretrainConfig(steps=1), 0) == 1.0


def test_bfloat16(options, data, tmp_path):
    config = replace(options, dtype="bfloat16", stochastic_rounding=True, steps=3, out=str(tmp_path))
    summary = pretrain(config, data).summary
    assert summary["state_bytes"]["weights"] * 2 == summary["state_bytes"]["moments"] / 2
    assert torch.load(tmp_path / "weights.pt")["lm_head.weight"].dtype == torch.bfloat16


# Output


def test_L8_plain_output_has_no_control_codes(options, data, tmp_path, capsys):
    pretrain(replace(options, steps=11, interval=5, print_every=1, out=str(tmp_path)), data)
    out = capsys.readouterr().out
    assert not {"\x1b", "\r", "\b"} & set(out)
    lines = [line for line in out.splitlines() if line.startswith("step 7/11")]
    assert len(lines) == 1
    for word in ("loss ", "lr ", "norm ", "tok/s", "left"):
        assert word in lines[0]
    assert re.search(r"  [\d.]+ [MG]B  ", lines[0])  # resident memory of the whole process
    assert "step 5/11  topology update 1" in out
    assert "held-out loss" in out and "bits per byte" in out


def test_a_terminal_gets_a_bar(options, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    pretrain(replace(options, steps=3, out=str(tmp_path)), data)
    out = capsys.readouterr().out
    assert "\x1b[" in out and "3/3" in out and "held-out loss" in out


def test_a_folder_that_holds_a_run_is_kept(options, runs, capsys):
    folder = runs["static"].folder
    before = (folder / "summary.json").read_bytes()
    flags = ["--model", options.model, "--data", options.data, "--steps", "2", "--seq", "16", "--no-picture"]
    assert main(["pretrain", *flags, "--out", str(folder)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["pretrain", *flags, "--out", str(folder), "--data", "missing.txt", "--overwrite"]) == 2
    assert (folder / "summary.json").read_bytes() == before


def test_a_model_that_does_not_fit(options, files, capsys):
    (files / "bad.json").write_text("{}")
    for flags, said in (
        (["--model", str(files / "bad.json")], "is not a transformers configuration"),
        (["--model", options.model, "--seq", "65"], "--seq 65 is longer than the 64 positions"),
    ):
        assert main(["pretrain", "--data", options.data, *flags]) == 2
        assert said in capsys.readouterr().err


# After training


def test_generate_from_a_run(runs, capsys):
    folder = runs["smet"].folder
    command = ["generate", "--run", str(folder), "--prompt", "abc", "--tokens", "8"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("abc") for text in texts)
    assert main(["generate", "--run", str(folder / "none")]) == 2
    assert "has no config.yaml" in capsys.readouterr().err


def test_greedy_generation_takes_the_likeliest_token(runs):
    model, tokenizer = load_run(runs["rigl"].folder)
    ids = tokenizer.encode("abc").ids
    for _ in range(6):  # without a cache
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    text = generate(model, tokenizer, "abc", 6, temperature=0)
    assert text == "abc" + tokenizer.decode(ids[len(tokenizer.encode("abc").ids) :])


def test_plot(runs, tmp_path, capsys):
    folders = [str(result.folder) for result in runs.values()]
    assert main(["plot", *folders, "--out", str(tmp_path / "all.png")]) == 0
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(tmp_path)]) == 2
    assert "has no log.jsonl" in capsys.readouterr().err


def test_demo(options, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_module, "PRESET", replace(options, interval=40, steps=100))
    assert demo_module.demo(str(tmp_path / "demo"), options.data, None, seed=0) == 0
    table = (tmp_path / "demo" / "table.txt").read_text()
    assert table in capsys.readouterr().out
    for row in ("held-out bits per byte", "seconds per step", "of dense AdamW", "whole model", "loss jump"):
        assert row in table
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
    assert demo_module.demo(str(tmp_path / "demo"), options.data, 2, seed=0) == 0  # a second time


def test_run_errors_are_trainer_errors(options):
    with pytest.raises(ConfigError):
        pretrain(replace(options, density=2.0))
