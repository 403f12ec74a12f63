# SPDX-License-Identifier: BSD-3-Clause
"""`torchrun -m smet pretrain` as a user starts it: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smet.checkpoint import checkpoint_steps
from smet.train.log import read_log
from test_pretrain_resume import TINY, assert_equal_runs, events

pytestmark = pytest.mark.long
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "tiny.json").write_text(json.dumps({**TINY, "attention_dropout": 0.0}))
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, rng.integers(2, 8)).tolist()).decode() for _ in range(60)]
    (folder / "text.txt").write_text("".join(" ".join(rng.choice(words, 9)) + "\n" for _ in range(600)))
    return [
        *(f"--model={folder / 'tiny.json'}", f"--data={folder / 'text.txt'}", "--steps=40", "--seq=16"),
        *("--batch=2", "--interval=5", "--stop=1.0", "--eval-every=8", "--eval-bytes=500", "--lr=1e-2"),
        *("--sample-tokens=5", "--no-picture", "--save-every=7", "--resume=auto", "--threads=1"),
    ]


def pretrain(*flags, processes=1):
    head = [sys.executable, "-m", "smet", "pretrain"]
    if processes > 1:
        run = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        head = [*run, "--standalone", "-m", "smet", "pretrain"]
    return subprocess.Popen(
        [*head, *flags], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process):
    output = process.communicate(timeout=300)[0]
    return process.returncode, output


def signal_at(process, folder, step, number):
    """Send a signal as soon as the log has that step."""
    deadline = time.time() + 200
    while time.time() < deadline and process.poll() is None:
        log = folder / "log.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            process.send_signal(number)
            return
        time.sleep(0.002)
    raise AssertionError(ended(process))


def logged(folder, event, field):
    return [found[field] for found in events(folder) if found["event"] == event]


def test_d1_d8_two_processes_equal_one_with_twice_the_batch(flags, tmp_path):
    """fp32: to 1e-4 of the loss after 40 steps and 7 updates; topology hashes equal."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert ended(pretrain(*flags, f"--out={two}", processes=2))[0] == 0
    assert ended(pretrain(*flags, "--batch=4", f"--out={one}"))[0] == 0
    assert logged(one, "step", "loss") == pytest.approx(logged(two, "step", "loss"), rel=1e-4)
    assert logged(one, "step", "tokens") == logged(two, "step", "tokens")
    hashes = logged(one, "topology", "hash")
    assert len(hashes) == 7 and hashes == logged(two, "topology", "hash")
    # D8: the two processes' checkpoint, continued by one with the whole batch (--batch may change so).
    (two / "summary.json").unlink()
    code, output = ended(pretrain(*flags, "--batch=4", f"--out={two}"))
    assert code == 0 and "resuming after step 35" in output


def test_d1_two_processes_equal_one_with_twice_the_batch_to_1e_12_in_fp64(flags, tmp_path):
    """Losses and final weights: what is left is the order of the sums. Every mask bit is the same."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert ended(pretrain(*flags, "--dtype=float64", f"--out={two}", processes=2))[0] == 0
    assert ended(pretrain(*flags, "--dtype=float64", "--batch=4", f"--out={one}"))[0] == 0
    assert logged(one, "step", "loss") == pytest.approx(logged(two, "step", "loss"), rel=1e-12)
    assert logged(one, "topology", "hash") == logged(two, "topology", "hash")
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (one, two)]
    for name, tensor in weights[0].items():
        exact = not tensor.is_floating_point()
        assert exact or tensor.dtype == torch.float64, name
        torch.testing.assert_close(
            weights[1][name], tensor, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-13
        )


FLIP = """
import os
import sys

import smet
from smet.cli import main

step = smet.TopologyScheduler.step


def flipping(topo):
    if topo.steps == 7 and os.environ["RANK"] == "1":
        dict(smet.sparse_layers(topo.test_model))["model.layers.0.mlp.up_proj"].mask[0, 0] ^= 4
    return step(topo)


def remember(topo, model, *args, **options):
    topo.test_model = model
    init(topo, model, *args, **options)


init = smet.TopologyScheduler.__init__
smet.TopologyScheduler.__init__, smet.TopologyScheduler.step = remember, flipping
sys.exit(main())
"""


def test_d4_a_flipped_bit_of_a_mask_ends_torchrun_with_layer_and_rank(flags, tmp_path):
    """Flipped on rank 1 after the update at step 5; the update at step 10 tells, on both ranks."""
    program = tmp_path / "flipping.py"
    program.write_text(FLIP)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", program]
    done = subprocess.run(
        [*command, "pretrain", *flags, f"--out={tmp_path / 'run'}"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    said = "ValueError: smet: layer 'model.layers.0.mlp.up_proj': mask has "
    assert f"OtherRankError: rank 1 failed: {said}" in done.stderr
    assert f"\n[rank1]: {said}" in done.stderr
    assert logged(tmp_path / "run", "topology", "step") == [5]


def test_c2_c17_l4_l7_stopped_by_every_signal_and_killed(flags, tmp_path):
    """One run, four processes: SIGTERM (143), Ctrl-C (130), SIGKILL, and the end; equal to a run in one."""
    folder = tmp_path / "run"
    whole = pretrain(*flags, f"--out={tmp_path / 'whole'}")
    assert ended(whole)[0] == 0
    for step, number, code in ((3, signal.SIGTERM, 143), (12, signal.SIGINT, 130), (24, signal.SIGKILL, -9)):
        process = pretrain(*flags, f"--out={folder}")
        signal_at(process, folder, step, number)
        got, output = ended(process)
        assert got == code, output
        if number != signal.SIGKILL:
            assert "saving a checkpoint after this step" in output
            assert checkpoint_steps(folder / "checkpoints")[-1] >= step
        assert list(read_log(folder / "log.jsonl"))  # every whole line is JSON
        assert "\x1b" not in output  # L8
    assert ended(pretrain(*flags, f"--out={folder}"))[0] == 0
    assert_equal_runs(folder, tmp_path / "whole")


def test_c2_c17_bf16_moments_resume_bit_exact_in_a_new_process(flags, tmp_path):
    folder, compact = tmp_path / "run", [*flags, "--moments=bf16"]
    assert ended(pretrain(*compact, f"--out={tmp_path / 'whole'}"))[0] == 0
    process = pretrain(*compact, f"--out={folder}")
    signal_at(process, folder, 12, signal.SIGTERM)
    assert ended(process)[0] == 143
    step = checkpoint_steps(folder / "checkpoints")[-1]
    saved = load_file(folder / "checkpoints" / f"step-{step:08}" / "optimizer.safetensors")
    dtypes = {tensor.dtype for name, tensor in saved.items() if "exp_avg" in name}
    assert 12 <= step < 40 and dtypes == {torch.bfloat16}
    assert ended(pretrain(*compact, f"--out={folder}"))[0] == 0
    assert_equal_runs(folder, tmp_path / "whole")


def test_c2_d2_torchrun_resumes_bit_exact_after_sigterm(flags, tmp_path):
    folder = tmp_path / "run"
    assert ended(pretrain(*flags, f"--out={tmp_path / 'whole'}", processes=2))[0] == 0
    process = pretrain(*flags, f"--out={folder}", processes=2)
    signal_at(process, folder, 10, signal.SIGTERM)
    assert ended(process)[0] != 0
    assert checkpoint_steps(folder / "checkpoints")[-1] >= 10
    assert ended(pretrain(*flags, f"--out={folder}", processes=2))[0] == 0
    assert_equal_runs(folder, tmp_path / "whole")
    assert torch.load(folder / "weights.pt", weights_only=True).keys()
