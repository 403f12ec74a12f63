# SPDX-License-Identifier: BSD-3-Clause
"""P2: what a training step costs, in instructions, which a busy machine does not change."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "data" / "step_instructions.json"
PROGRAM = ROOT / "build" / "tests" / "cpp" / "kernels" / "step_instructions"


@pytest.mark.long
@pytest.mark.parametrize("part", ["forward", "backward", "adamw", "topology"])
def test_p2_instructions_of_a_step_within_5_percent_of_the_record(part, tmp_path):
    """AVX2 code, which valgrind knows. A part that became cheaper by more wants a new record too."""
    valgrind = shutil.which("valgrind")
    assert valgrind, "valgrind is missing; install it: apt-get install valgrind"
    done = subprocess.run(
        [
            *(valgrind, "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=measured"),
            *(f"--callgrind-out-file={tmp_path / 'out'}", PROGRAM, part),
        ],
        env={**os.environ, "SMET_ISA": "avx2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    counted = int(re.search(r"Collected : (\d+)", done.stderr).group(1))
    record = json.loads(RECORD.read_text())
    assert counted == pytest.approx(record[part], rel=0.05), (
        f"{part}: {counted} instructions; {RECORD.name} has {record[part]} (by {record['compiler']}). Where "
        "that is meant, write the new number there"
    )
