# SPDX-License-Identifier: BSD-3-Clause
"""The same steps from Python and from C++ (tests/cpp/compact_adamw_test.cpp): equal bytes."""

import os
import subprocess
from pathlib import Path

import torch

from adamw_helpers import snapshot
from smet import _C, CompactAdamW

TESTS = Path(__file__).parents[2] / "build" / "tests" / "cpp" / "smet_optim_tests"


def formula(n, step):
    return ((torch.arange(n) * 7919 + step * 104729) * 40503 % 65536 % 2048).float() / 1024 - 1


def run(dtype, moments, masters=False):
    values = torch.nn.Parameter(formula(150, 1).to(dtype))
    rank = (torch.arange(20, dtype=torch.int32) * 15 // 2).reshape(20, 1)  # 7 or 8 in a row
    _C.register_values(values, 20, 30, "fc", rank)
    weight = torch.nn.Parameter(formula(700, 2).reshape(7, 100).to(dtype))
    bias = torch.nn.Parameter(formula(7, 3))
    params = [values, weight, bias]
    opt = CompactAdamW(
        params,
        lr=1e-2,
        weight_decay=0.1,
        warmup=7,
        boost=2,
        boost_tau=5,
        stochastic_rounding=not masters,
        master_weights=masters,
        seed=11,
        moments=moments,
    )
    state = opt.state[values]
    for step in range(30):
        for when, first, cohort in ((4, 1, 1), (9, 5, 200)):
            if step == when:
                lows = [state["master_low"]] if masters else []
                for tensor in (values.data, state["exp_avg"], state["exp_avg_sq"], *lows):
                    tensor[first::9] = 0
                state["cohort"][first::9] = cohort
                state["births"][cohort] = state["step"]
        for salt, p in enumerate(params):
            p.grad = formula(p.numel(), 100 + 3 * step + salt).reshape(p.shape).to(p.dtype)
        opt.step()
    order = ("exp_avg", "exp_avg_sq", "step", "exp_avg_scale", "exp_avg_sq_scale", "master_low", "cohort")
    order += ("births",)
    assert len(snapshot(opt)) == 3 + 5 + 3 + 3 + (4 if moments == "8bit" else 0) + 2 * masters
    return [
        t for p in params for t in (p.detach(), *(opt.state[p][key] for key in order if key in opt.state[p]))
    ]


def test_python_and_cpp_steps_write_equal_bytes(tmp_path):
    file = tmp_path / "run"
    subprocess.run(
        [TESTS, "--gtest_filter=CompactAdamW.RunForPython"],
        env=os.environ | {"SMET_PARITY_FILE": str(file)},
        check=True,
        capture_output=True,
    )
    runs = [(dtype, "fp32") for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    runs += [(dtype, moments) for moments in ("bf16", "8bit") for dtype in (torch.float32, torch.bfloat16)]
    runs += [(torch.bfloat16, moments, True) for moments in ("fp32", "bf16", "8bit")]
    ours = b"".join(bytes(t.reshape(-1).view(torch.uint8).numpy()) for one in runs for t in run(*one))
    assert file.read_bytes() == ours
