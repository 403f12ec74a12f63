# SPDX-License-Identifier: BSD-3-Clause
"""The longer examples run at a small size and do what they say; test_readme.py runs the minimal ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


def run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_finetune_hf(tmp_path):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    program, sizes = [sys.executable, EXAMPLES / "finetune_hf.py"], ["--batch", 4, "--seq", 64]
    text = run(*program, "--out", out, "--steps", 150, "--interval", 25, *sizes)
    dense, pruned, tuned = map(float, re.findall(r"loss ([\d.]+)", text))
    assert tuned < pruned and dense < pruned
    assert float(re.search(r"logits differ by (\S+)", text)[1]) < 1e-4
    weight = AutoModelForCausalLM.from_pretrained(out).model.layers[0].mlp.up_proj.weight
    assert torch.count_nonzero(weight) <= 0.25 * weight.numel()
    again = run(*program, "--model", out, "--out", tmp_path / "again", "--steps", 10, "--interval", 5, *sizes)
    assert "saved dense" in again


def test_ddp():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    text = run(*launch, EXAMPLES / "ddp.py", "--steps", "60", "--width", "64")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", text)]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert len(set(re.findall(r"topology ([0-9a-f]{16})", text))) > 1
    assert "2 processes, 1 topology" in text
