# SPDX-License-Identifier: BSD-3-Clause
"""A training run that is stopped, killed and resumed ends as one that was not, bit for bit."""

import errno
import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from smet.checkpoint import checkpoint_steps, durable
from smet.cli import main
from smet.train import run as run_module
from smet.train.config import PretrainConfig
from smet.train.data import load_data
from smet.train.errors import CheckpointRunError, ConfigError, DataError
from smet.train.log import read_log
from smet.train.run import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {
    "model_type": "llama",
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    "attention_dropout": 0.1,
}
TIMINGS = ("seconds", "tokens_per_second", "rss_bytes", "seconds_left")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, rng.integers(2, 8)).tolist()).decode() for _ in range(60)]
    (folder / "text.txt").write_text("".join(" ".join(rng.choice(words, 9)) + "\n" for _ in range(600)))
    return PretrainConfig(
        model=str(folder / "tiny.json"),
        data=str(folder / "text.txt"),
        steps=22,
        seq=16,
        batch=2,
        accumulate=2,
        interval=5,
        stop=1.0,
        eval_every=4,
        eval_bytes=500,
        sample_tokens=5,
        lr=1e-2,
        lr_warmup=0.2,
        picture=False,
        save_every=7,
    )


@pytest.fixture(scope="module")
def data(options, tmp_path_factory):
    return load_data(options, tmp_path_factory.mktemp("data"), TINY["vocab_size"])


@pytest.fixture(scope="module")
def whole(options, data, tmp_path_factory):
    """The run that nothing stops."""
    return pretrain(replace(options, out=str(tmp_path_factory.mktemp("whole") / "run")), data).folder


def signals_at(monkeypatch, step, *numbers):
    """Send this process signals during the optimizer step `step` of each run that follows."""
    write = run_module.JsonlLog.write

    def log(self, event, **fields):
        write(self, event, **fields)
        if event == "step" and fields["step"] == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(run_module.JsonlLog, "write", log)


def events(folder):
    """What the log says but for times and for the fact of the resume."""
    found = []
    for event in read_log(folder / "log.jsonl"):
        if event["event"] not in ("resume", "start", "end", "state_bytes"):
            found.append({key: value for key, value in event.items() if key not in TIMINGS})
    return found


def assert_equal_runs(folder, whole):
    ours, theirs = (torch.load(f / "weights.pt", weights_only=True) for f in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert events(folder) == events(whole)
    assert (folder / "sample.txt").read_text() == (whole / "sample.txt").read_text()
    summaries = [json.loads((f / "summary.json").read_text()) for f in (folder, whole)]
    for key in ("train_loss", "val_loss", "topology_hash", "topology_updates", "steps", "spike_mean"):
        assert summaries[0][key] == summaries[1][key], key


# In the warm-up, step 1, just before, at and after a topology update, at an evaluation and at a checkpoint,
# just before the end.
@pytest.mark.parametrize("step", [1, 2, 4, 5, 6, 7, 8, 21])
def test_c1_c17_sigterm_saves_exits_143_and_the_run_resumes(
    options, data, whole, tmp_path, monkeypatch, step
):
    config = replace(options, out=str(tmp_path / "run"), resume="auto")
    with monkeypatch.context() as patch:
        signals_at(patch, step, signal.SIGTERM)
        result = pretrain(config, data)
    assert result.exit_code == 143 and result.summary["interrupted"]
    assert checkpoint_steps(result.folder / "checkpoints")[-1] == step
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = pretrain(config, data)
    assert again.exit_code == 0
    assert_equal_runs(again.folder, whole)


def test_l4_ctrl_c_once_saves_twice_exits(options, whole, tmp_path, monkeypatch, capfd):
    flags = [
        f"--{key.replace('_', '-')}={value}" for key, value in options.to_dict().items() if value is not None
    ]
    flags = [flag for flag in flags if not flag.endswith(("=True", "=False"))] + ["--no-picture"]
    argv = ["pretrain", *flags, f"--out={tmp_path / 'run'}", "--resume=auto"]
    argv.remove("--resume=never")
    with monkeypatch.context() as patch:
        signals_at(patch, 3, signal.SIGINT)
        assert main(argv) == 130
    assert "Ctrl-C once more stops at once" in capfd.readouterr().err
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [3]
    with monkeypatch.context() as patch:
        signals_at(patch, 10, signal.SIGINT, signal.SIGINT)
        assert main(argv) == 130
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [3, 7]  # step 10 is lost
    with monkeypatch.context() as patch:
        signals_at(patch, 12, signal.SIGINT, signal.SIGTERM)
        assert main(argv) == 143
    assert main(argv) == 0
    assert_equal_runs(tmp_path / "run", whole)


def test_c1_last_step_and_a_finished_run_stays_as_it_is(options, data, whole, tmp_path, monkeypatch):
    config = replace(options, out=str(tmp_path / "run"), resume="auto", save_every=11)
    with monkeypatch.context() as patch:
        signals_at(patch, 22, signal.SIGTERM)  # too late to stop anything
        assert pretrain(config, data).exit_code == 0
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [11, 22]
    (tmp_path / "run" / "weights.pt").unlink()  # killed before it was written
    assert pretrain(config, data).exit_code == 0
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("method", ["dense", "static", "rigl", "bf16 moments", "8-bit moments", "masters"])
def test_c1_every_method_resumes(options, data, tmp_path, monkeypatch, method):
    fixed = {"interval": None, "stop": None}
    extra = {
        "dense": {"method": "dense", **fixed},
        "static": {"method": "static", **fixed},
        "rigl": {"method": "rigl"},
        "bf16 moments": {"moments": "bf16"},
        "8-bit moments": {"moments": "8bit", "dtype": "bfloat16", "stochastic_rounding": True},
        "masters": {"dtype": "bfloat16", "master_weights": True},
    }[method]
    base = replace(options, steps=12, **extra)
    whole = pretrain(replace(base, out=str(tmp_path / "whole")), data).folder
    config = replace(base, out=str(tmp_path / "run"), resume="auto")
    with monkeypatch.context() as patch:
        signals_at(patch, 9, signal.SIGTERM)
        pretrain(config, data)
    assert_equal_runs(pretrain(config, data).folder, whole)


def test_l7_a_log_that_was_cut_off_is_mended(options, data, whole, tmp_path, monkeypatch):
    """A kill leaves the log ahead of the last checkpoint, and perhaps half a line."""
    config = replace(options, out=str(tmp_path / "run"), resume="auto")
    with monkeypatch.context() as patch:
        signals_at(patch, 9, signal.SIGTERM)
        folder = pretrain(config, data).folder
    log = (folder / "log.jsonl").read_bytes()
    (folder / "log.jsonl").write_bytes(log + b'{"event": "step", "step": 10, "loss": 1.0}\n{"event": "st')
    pretrain(config, data)
    for line in (folder / "log.jsonl").read_text().splitlines():
        json.loads(line)
    assert_equal_runs(folder, whole)


def test_c16_two_runs_in_one_folder_are_refused(options, data, tmp_path):
    (tmp_path / "run").mkdir()
    with (
        durable.locked(tmp_path / "run"),
        pytest.raises(CheckpointRunError, match="in use by another writer"),
    ):
        pretrain(replace(options, out=str(tmp_path / "run")), data)
    assert sorted(os.listdir(tmp_path / "run")) == [".lock"]


CHANGES = {
    "lr": ({"lr": 2e-2}, "--lr is 0.02, but .* was saved with 0.01"),
    "steps": ({"steps": 30}, "--steps is 30, but .* was saved with 22"),
    "seed": ({"seed": 5}, "--seed is 5"),
    "batch": ({"batch": 8}, "is 16 sequences a step, but .* was saved with 4"),
    "density": ({"density": 0.5}, "--density is 0.5, but .* was saved with 0.25"),
}


def test_c6_a_run_resumes_only_as_itself(options, data, tmp_path, monkeypatch, capsys):
    config = replace(options, out=str(tmp_path / "run"), resume="auto", sample_tokens=0)
    with monkeypatch.context() as patch:
        signals_at(patch, 2, signal.SIGTERM)
        pretrain(config, data)
    for change, match in CHANGES.values():
        with pytest.raises(ConfigError, match=match):
            pretrain(replace(config, **change), data)
    other = replace(data, train=data.train[:-1])
    with pytest.raises(ConfigError, match="the training data is not that of"):
        pretrain(config, other)
    with pytest.raises(ConfigError, match="say --resume auto or --overwrite"):
        pretrain(replace(config, resume="never"), data)
    for path in (tmp_path / "run" / "checkpoints").glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointRunError, match=r"only damaged checkpoints: .*model.safetensors is damaged"):
        pretrain(config, data)
    free = replace(config, batch=4, accumulate=1, save_every=3, keep=1, resume="never", overwrite=True)
    assert pretrain(free, data).exit_code == 0
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [21]


def test_l3_resume_options(capsys):
    for flags, said in (
        (["--resume=auto"], "--resume auto needs --out"),
        (["--resume=auto", "--out=x", "--overwrite"], "leave one out"),
        (["--keep=0"], "--keep is 0"),
        (["--save-every=-1"], "--save-every is -1"),
        (["--resume=maybe"], "expected auto or never"),
    ):
        try:
            code = main(["pretrain", *flags])
        except SystemExit as error:
            code = error.code
        assert code == 2 and said in capsys.readouterr().err


def test_c6_resume_leaves_the_results_of_a_run_that_ended(options, data, tmp_path, capsys):
    """Also without a checkpoint: the same run has nothing left to do, another one is refused."""
    config = replace(options, out=str(tmp_path / "run"), resume="auto", save_every=0, sample_tokens=0)
    first = pretrain(config, data)
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == []
    written = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").iterdir())}
    again = pretrain(config, data)
    assert "has ended; nothing is left to do" in capsys.readouterr().out
    assert (again.exit_code, again.losses, again.updates) == (0, first.losses, first.updates)
    for change, match in CHANGES.values():
        with pytest.raises(ConfigError, match=match):
            pretrain(replace(config, **change), data)
    del written[tmp_path / "run" / ".lock"]
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    for text in ("{}", '{"interr', "3"):
        (tmp_path / "run" / "summary.json").write_text(text)
        with pytest.raises(CheckpointRunError, match=r"summary\.json is damaged; remove it"):
            pretrain(config, data)


@pytest.mark.parametrize("at", ["weights.partial", "manifest.json"])
def test_c14_a_full_disk_is_an_error_of_one_line(options, tmp_path, monkeypatch, capsys, at):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), at)
    opened, write_file = Path.open, durable.write_file

    class Full(io.BytesIO):
        def write(self, data):
            raise full

    def open_(path, *rest, **options):
        if path.name == at:
            return Full()
        return opened(path, *rest, **options)

    def write(path, content):
        if path.name == at:
            raise full
        write_file(path, content)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(durable, "write_file", write)
    flags = ["--steps=7", "--save-every=7", "--seq=16", "--batch=2", "--eval-bytes=100", "--no-picture"]
    files = [f"--model={options.model}", f"--data={options.data}", f"--out={tmp_path / 'run'}"]
    assert main(["pretrain", *flags, *files]) == 1
    assert f"smet pretrain: [Errno {errno.ENOSPC}] No space left" in capsys.readouterr().err


def test_l7_a_log_that_is_gone_or_damaged(options, data, tmp_path, monkeypatch):
    config = replace(options, out=str(tmp_path / "run"), resume="auto", sample_tokens=0)
    with monkeypatch.context() as patch:
        signals_at(patch, 9, signal.SIGTERM)
        folder = pretrain(config, data).folder
    log = folder / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"step": 4,', b'"step": \x004,', 1))
    with pytest.raises(DataError, match=r"log.jsonl is damaged: line \d+ is not an event"):
        pretrain(config, data)
    log.unlink()
    result = pretrain(config, data)
    assert result.exit_code == 0 and not result.summary["interrupted"]


def test_c14_a_linked_checkpoint_folder_is_emptied_and_stays_linked(options, data, tmp_path):
    (tmp_path / "disk" / "step-00000007").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    config = replace(options, steps=8, overwrite=True, sample_tokens=0, out=str(tmp_path / "run"))
    assert pretrain(config, data).exit_code == 0
    assert (tmp_path / "run" / "checkpoints").is_symlink()
    assert checkpoint_steps(tmp_path / "disk") == [7]
