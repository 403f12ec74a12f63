# SPDX-License-Identifier: BSD-3-Clause
"""A run through the CUDA operators and kernels, executed on the CPU, against the CPU backend (T9)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
OPERATORS = ROOT / "build" / "tests" / "gpusim" / "path" / "libsmet_gpusim_operators.so"


def run(script, *arguments):
    # One thread and one algorithm: both backends then call the same matrix products on the same matrices.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SMET_ALGORITHM": "expand_gemm"}
    command = [sys.executable, ROOT / "tests" / "python" / script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def train(out, *arguments):
    run("gpusim_training.py", out, *arguments)
    return torch.load(out)


@pytest.fixture(autouse=True)
def built():
    assert OPERATORS.exists(), f"{OPERATORS} is missing; build it with `make build/tests`"


@pytest.mark.parametrize(
    "dtype,grow,moments",
    [
        ("float32", "random", "fp32"),
        ("bfloat16", "random", "fp32"),
        ("float32", "gradient", "fp32"),
        ("float32", "random", "8bit"),
        ("float32", "gradient", "8bit"),
    ],
)
def test_t9_same_run_as_on_the_cpu(tmp_path, dtype, grow, moments):
    want = train(tmp_path / "cpu.pt", dtype, grow, moments)
    got = train(tmp_path / "cuda.pt", dtype, grow, moments, OPERATORS)
    assert got.pop("launches") > 500
    assert want["updates"] == 3 and want["steps"] == (58 if grow == "gradient" else 60)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        if dtype == "bfloat16" and name.endswith(("exp_avg", "exp_avg_sq")):
            # The products' sums run in another order: a gradient may round to the next bf16 number.
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=2**-8 * tensor.abs().max().item())
        elif dtype == "bfloat16" and tensor.dtype == torch.bfloat16:
            apart = (got[name].view(torch.int16).int() - tensor.view(torch.int16).int()).abs()
            assert apart.max() <= 1, name  # one bf16 number
        else:
            assert torch.equal(got[name], tensor), name


def test_cusparse_equals_expand_gemm_while_the_topology_changes():
    """The calls of cuSPARSE over a stand-in in plain loops (tests/gpusim/path/cusparse.cpp)."""
    run("gpusim_cusparse.py", OPERATORS)


def test_a_captured_step_replayed_is_as_many_steps():
    """The host reads nothing in forward, backward and step, and nothing that it hands over goes stale."""
    run("gpusim_capture.py", OPERATORS)
