# SPDX-License-Identifier: BSD-3-Clause
"""examples/cpp/train_llama against `smet pretrain`: the same run, and each continues the other's."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import smet
from smet.checkpoint import manifest
from smet.train.config import PretrainConfig
from smet.train.data import load_data
from smet.train.generate import _draw
from smet.train.log import read_log
from smet.train.loop import sparsify
from smet.train.methods import resolve
from smet.train.models import build_model, load_model_config
from smet.train.plots import draw_runs
from smet.train.run import pretrain
from smet.train.tokenizer import load_tokenizer

PROGRAMS = Path(__file__).parents[2] / "build" / "examples" / "cpp" / "train_llama"
SHAPE = {
    "model_type": "llama",
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}
TIMINGS = ("seconds", "tokens_per_second", "rss_bytes", "seconds_left")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "tiny.json").write_text(json.dumps(SHAPE))
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, rng.integers(2, 8)).tolist()).decode() for _ in range(60)]
    (folder / "text.txt").write_text("".join(" ".join(rng.choice(words, 9)) + "\n" for _ in range(300)))
    return PretrainConfig(
        **{"model": str(folder / "tiny.json"), "data": str(folder / "text.txt"), "picture": False},
        **{"steps": 60, "seq": 16, "batch": 4, "accumulate": 2, "lr": 1e-2, "lr_warmup": 0.2, "threads": 1},
        **{"interval": 10, "stop": 1.0, "eval_every": 20, "eval_bytes": 500, "sample_tokens": 8},
        **{"save_every": 30, "seed": 3},
    )


@pytest.fixture(scope="module")
def data(options, tmp_path_factory):
    return load_data(options, tmp_path_factory.mktemp("data"), SHAPE["vocab_size"])


def prepared(options, data, folder, **changes):
    pretrain(replace(options, out=str(folder), prepare=True, **changes), data)
    return folder


def in_python(options, data, folder, **changes):
    assert pretrain(replace(options, out=str(folder), **changes), data).exit_code == 0
    return folder


def in_cpp(folder, code=0, program="train_llama", arguments=(), **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [PROGRAMS / program, folder, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return folder if code == 0 and program == "train_llama" else done.stdout + done.stderr


def events(folder, *kinds):
    """What the log says but for times."""
    found = [event for event in read_log(folder / "log.jsonl") if event["event"] in kinds]
    return [{key: value for key, value in event.items() if key not in TIMINGS} for event in found]


def saved(folder, step):
    """What a checkpoint holds, but for generators that C++ does not have."""
    body = manifest.read(folder / "checkpoints" / f"step-{step:08d}")
    del body["files"]["run.safetensors"], body["run"]["extra"]["config"]
    for group in body["optimizer"]["groups"]:
        for key in ("initial_lr", "on_nonfinite", "fused_backward"):
            group["options"].pop(key, None)
    return body


def assert_equal_runs(one, other, step):
    for kind in ("step", "eval", "topology"):
        assert events(one, kind) == events(other, kind)
    assert saved(one, step) == saved(other, step)


@pytest.fixture(scope="module")
def from_python(options, data, tmp_path_factory):
    return in_python(options, data, tmp_path_factory.mktemp("python") / "run")


@pytest.fixture(scope="module")
def from_cpp(options, data, tmp_path_factory):
    return in_cpp(prepared(options, data, tmp_path_factory.mktemp("cpp") / "run"))


def test_the_same_run_from_either(from_python, from_cpp):
    """Losses, norms, rates, evaluations, topology hashes, weights, moments: equal bit for bit."""
    assert len(events(from_cpp, "step")) == 60 and len(events(from_cpp, "topology")) == 5
    assert_equal_runs(from_python, from_cpp, 60)
    assert len((from_cpp / "sample.txt").read_bytes()) > 32
    memory = [events(folder, "state_bytes")[0] for folder in (from_python, from_cpp)]
    for kind in ("weights", "gradients", "moments", "cohorts", "index", "dense_weights", "dense_moments"):
        assert memory[0][kind] == memory[1][kind] > 0, kind


def halfway(run, folder):
    """A copy of the run as it was after 30 steps."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000060")
    return folder


def test_python_continues_what_cpp_saved(options, data, from_python, from_cpp, tmp_path):
    run = halfway(from_cpp, tmp_path / "run")
    assert_equal_runs(in_python(options, data, run, resume="auto"), from_python, 60)


def test_cpp_continues_what_python_saved(options, data, from_python, from_cpp, tmp_path):
    run = halfway(from_python, tmp_path / "run")
    for name in ("run.json", "train.bin", "held_out.bin"):
        shutil.copy(from_cpp / name, run)
    assert_equal_runs(in_cpp(run), from_cpp, 60)


VARIANTS = {
    "dense": {"method": "dense", "interval": None, "stop": None},
    "static, bf16": {"method": "static", "dtype": "bfloat16", "interval": None, "stop": None},
    "rigl, erk": {"method": "rigl", "distribution": "erk", "density": 0.4},
    "bf16 moments, rounding": {"dtype": "bfloat16", "moments": "bf16", "stochastic_rounding": True},
    "bf16 moments, masters": {"dtype": "bfloat16", "moments": "bf16", "master_weights": True},
    "8-bit moments": {"moments": "8bit"},
    "boost, fan-in, no clipping": {"boost": 3.0, "init_scale": "fan_in", "clip": 0.0, "weight_decay": 0.1},
    "float64": {"dtype": "float64"},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_options_mean_the_same(options, data, tmp_path, changes):
    changes = {"steps": 24, "eval_every": 0, "save_every": 24, "sample_tokens": 0, **changes}
    cpp = in_cpp(prepared(options, data, tmp_path / "cpp", **changes))
    assert_equal_runs(in_python(options, data, tmp_path / "python", **changes), cpp, 24)


def test_cpp_starts_without_a_checkpoint(options, data, tmp_path):
    """--init sparse draws every weight from the seed alone, so no Python is needed to begin."""
    changes = {"init": "sparse", "steps": 12, "save_every": 12}
    cpp = prepared(options, data, tmp_path / "cpp", **changes)
    shutil.rmtree(cpp / "checkpoints")
    assert_equal_runs(in_python(options, data, tmp_path / "python", **changes), in_cpp(cpp), 12)


def test_two_processes_equal_one_with_twice_the_batch(options, data, from_cpp, tmp_path):
    """fp32: losses to 1e-5 over 60 steps and 5 updates; topology hashes equal."""
    run = prepared(options, data, tmp_path / "run", batch=options.batch // 2)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    names = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [PROGRAMS / "train_llama", run],
            env={**os.environ, **names, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[1] == b""
    losses = [[event["loss"] for event in events(folder, "step")] for folder in (run, from_cpp)]
    assert len(losses[0]) == 60 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    hashes = [[event["hash"] for event in events(folder, "topology")] for folder in (run, from_cpp)]
    assert len(hashes[0]) == 5 and hashes[0] == hashes[1]


def test_a_signal_saves_and_the_run_continues(options, data, from_cpp, tmp_path):
    run = prepared(options, data, tmp_path / "run")
    process = subprocess.Popen([PROGRAMS / "train_llama", run], stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not (run / "log.jsonl").exists() or '"step":7,' not in (run / "log.jsonl").read_text():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert events(run, "end")[0]["interrupted"]
    step = events(run, "step")[-1]["step"]
    assert 7 <= step < 60 and smet.latest_checkpoint(run / "checkpoints").name == f"step-{step:08d}"
    assert_equal_runs(in_cpp(run), from_cpp, 60)


def in_python_from(run, options):
    """The model of the newest checkpoint, without an optimizer."""
    config = resolve(options)
    model = build_model(config, SHAPE["vocab_size"], load_model_config(config))
    sparsify(model, config)
    smet.load_checkpoint(run / "checkpoints", model)
    return model.eval()


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_inference_from_a_checkpoint(options, from_cpp, temperature):
    """Logits equal to Python's, bit for bit, and the same tokens; no optimizer is made."""
    model, generator = in_python_from(from_cpp, options), torch.Generator().manual_seed(0)
    ids = np.fromfile(from_cpp / "held_out.bin", "<u2", 32).tolist()
    with torch.no_grad():
        best, tokens = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(5)
        for _ in range(20):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(_draw(logits, temperature, 50, generator))
    head, made, text = in_cpp(from_cpp, 0, "generate_llama", [20, temperature]).split("\n", 2)
    pairs = head.split(": ")[1].split()
    assert [int(token) for token in pairs[::2]] == tokens.tolist()
    assert [np.float32(logit) for logit in pairs[1::2]] == best.tolist()
    assert [int(token) for token in made.removeprefix("tokens:").split()] == ids[32:]
    assert text == load_tokenizer(from_cpp / "tokenizer.json").decode(ids[32:]) + "\n"


def test_plot_draws_both(from_python, from_cpp, tmp_path):
    draw_runs([from_python, from_cpp], tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 10_000


def edited(folder, **changes):
    run = json.loads((folder / "run.json").read_text())
    run["config"].update(changes)
    (folder / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "run.json").unlink(), "run.json cannot be read"),
        (lambda run: (run / "train.bin").unlink(), "train.bin: No such file"),
        (
            lambda run: (run / "train.bin").write_bytes(b"\0" * 30),
            "has 30 bytes; expected at least 17 tokens",
        ),
        (
            lambda run: (run / "train.bin").write_bytes(b"\xff" * 60),
            "token 65535, which is not in the vocabulary",
        ),
        (lambda run: edited(run, fused_backward=True), "option fused_backward is true"),
        (lambda run: edited(run, on_nonfinite="skip"), 'option on_nonfinite is "skip"'),
        (lambda run: edited(run, lr=1.0), "option lr is 1.0, but the checkpoint was saved with 0.01"),
        (lambda run: edited(run, seq=65), "option seq is 65; the model has only 64 positions"),
        (lambda run: edited(run, interval=None), "run.json has no option interval"),
    ],
)
def test_errors_say_what_is_wrong(from_cpp, tmp_path, spoil, message):
    run = shutil.copytree(from_cpp, tmp_path / "run")
    spoil(run)
    assert message in in_cpp(run, code=1)
    assert events(run, "step") == events(from_cpp, "step")


def test_other_models_and_processes_are_refused(from_cpp, tmp_path):
    run = shutil.copytree(from_cpp, tmp_path / "run")
    shape = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**shape, "tie_word_embeddings": True}))
    assert "tie_word_embeddings true; expected false" in in_cpp(run, code=1)
    assert "WORLD_SIZE is set, but not RANK" in in_cpp(from_cpp, code=1, WORLD_SIZE="2")
    assert "usage: train_llama FOLDER" in in_cpp(from_cpp, code=2, arguments=["more"])


@pytest.mark.long
def test_builds_outside_the_tree(options, data, from_python, tmp_path):
    """As a project of its own, by find_package(smet); its run is that of the program in smet's build."""
    build = tmp_path / "build"
    configure = ["cmake", "-S", PROGRAMS.parents[3] / "examples" / "cpp" / "train_llama", "-B", build]
    configure += ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([*configure, f"-DCMAKE_PREFIX_PATH={smet.cmake_prefix_path}"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    run = prepared(options, data, tmp_path / "run")
    subprocess.run([build / "train_llama", run], check=True, stdout=subprocess.DEVNULL)
    assert_equal_runs(run, from_python, 60)
