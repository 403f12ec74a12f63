# SPDX-License-Identifier: BSD-3-Clause
"""What a figure depends on: the machine, its threads, and the libraries that the dense side uses."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

import smet
from smet import _C


@dataclass(frozen=True)
class Machine:
    """Where and with what a benchmark ran."""

    machine: str  # the processor's name
    cores: int
    threads: int
    isa: str  # of smet's kernels
    blas: str
    torch: str
    smet: str

    def __str__(self) -> str:
        """One line above every table."""
        return (
            f"{self.machine}, {self.cores} cores, {self.threads} threads; smet {self.smet} ({self.isa}), "
            f"torch {self.torch} ({self.blas})"
        )


def this_machine() -> Machine:
    """The machine, with the number of threads that torch uses now."""
    return Machine(
        machine=_processor(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        isa=_C.active_isa(),
        blas=_blas(),
        torch=torch.__version__.split("+")[0],
        smet=smet.__version__,
    )


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _blas() -> str:
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found[1].upper() if found else "unknown BLAS"
