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


def train(out, dtype, *operators):
    # One thread and one algorithm: both backends then call the same matrix products on the same matrices.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SMET_ALGORITHM": "expand_gemm"}
    script = ROOT / "tests" / "python" / "gpusim_training.py"
    done = subprocess.run(
        [sys.executable, script, out, dtype, *operators], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_run_as_on_the_cpu(tmp_path, dtype):
    assert OPERATORS.exists(), f"{OPERATORS} is missing; build it with `make build/tests`"
    want = train(tmp_path / "cpu.pt", dtype)
    got = train(tmp_path / "cuda.pt", dtype, OPERATORS)
    assert got.pop("launches") > 500
    assert want["updates"] == 3
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
