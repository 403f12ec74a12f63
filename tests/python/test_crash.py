# SPDX-License-Identifier: BSD-3-Clause
"""C13, C14, L7: a real process killed at every call that writes a checkpoint (scripts/crash_test.sh)."""

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "crash_test.sh"


def crash_test(*arguments):
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.search(r"^(\d+) kills \((\d+): .*?, (\d+) full disks", done.stdout).groups()


def test_c13_c14_kill_9_and_full_disk_at_every_call_leave_a_loadable_checkpoint():
    """Every sixth call here; all of them, and 180 more kills, in the long test."""
    kills, at_calls, full = map(int, crash_test("--random", "2", "--stride", "6"))
    assert at_calls >= 4 and full == at_calls and kills >= at_calls + 2


@pytest.mark.long
def test_c13_two_hundred_kills():
    kills, at_calls, full = map(int, crash_test("--random", "180", "--seed", "1"))
    assert kills >= 200 and at_calls == full >= 25
