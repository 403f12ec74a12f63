# SPDX-License-Identifier: BSD-3-Clause
"""What of scripts/gpu_day.sh can be seen without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_device_benchmark_runs_on_the_cpu():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/device.py", "--device", "cpu", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in ("expand   0.01", "gather   0.5", "AdamW, 5000 weights"):
        assert line in done.stdout


def test_without_nvcc_the_script_says_what_to_install(tmp_path):
    for tool in ("bash", "dirname", "mkdir"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
    (tmp_path / "python").symlink_to(sys.executable)
    done = subprocess.run(
        ["bash", "scripts/gpu_day.sh"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no nvcc in PATH" in done.stderr
