# SPDX-License-Identifier: BSD-3-Clause
"""Resident memory of this process, now and at its peak."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Resident set size."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Start the peak anew, where the system can (Linux); a second run in one process then has its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Largest resident set size since `reset_peak`, or of the process where that did nothing."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
