# SPDX-License-Identifier: BSD-3-Clause
"""Resident memory of this process, now and at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p .* (?=/)")  # a file's, private and read only
_ANY_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_MADV_DONTNEED = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def resident_bytes() -> int:
    """Resident set size."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return int(psutil.Process().memory_info().rss)


def release() -> None:
    """Give back what this process holds without using it: memory that Python and the C library keep for
    later, and pages of libraries that were read only while they were loaded (of torch's for CUDA: 0.2 GB).
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)  # of glibc alone
        for begin, end in _clean_code():
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def return_large_blocks() -> None:
    """From now on the C library gives blocks of 256 KB and more back to the system as soon as they are free.

    glibc raises that limit to 32 MB by itself, and blocks of all sizes then lie between each other in one
    heap, which only grows: 0.2 GB of a 1b model. A fresh block costs its page faults, little against a wide
    layer.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 18)
        libc.mallopt(_M_TRIM_THRESHOLD, 16 << 20)


def _clean_code() -> Iterator[tuple[int, int]]:
    """Mapped files of which no page can be or was written: the system reads them again when asked."""
    begin = end = 0
    for line in _SMAPS.read_text().splitlines():
        if found := _MAPPING.match(line):
            begin, end = (int(number, 16) for number in found.groups())
        elif begin and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield begin, end
        elif _ANY_MAPPING.match(line):
            begin = 0


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
