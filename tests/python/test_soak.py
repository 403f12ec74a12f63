# SPDX-License-Identifier: BSD-3-Clause
"""A long run: flat memory, invariants at every update, and a second run that ends in the same hash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import soak


def run(steps, interval):
    done = subprocess.run(
        [sys.executable, soak.__file__, str(steps), str(interval)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(soak.__file__).parent,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mean(numbers):
    return sum(numbers) / len(numbers)


@pytest.mark.long
def test_soak_20_000_steps_and_200_updates():
    """The last tenth's resident memory is within 1 % of the second tenth's."""
    first, second = run(20_000, 100), run(20_000, 100)
    assert first["updates"] == 200
    assert first["hash"] == second["hash"]
    for found in (first, second):
        rss = found["rss"]
        assert len(rss) == 200
        assert abs(mean(rss[-20:]) / mean(rss[20:40]) - 1) < 0.01, rss
