# SPDX-License-Identifier: BSD-3-Clause
"""`smet info`."""

from __future__ import annotations

import platform
from typing import Any

from smet.cli.parser import Parser

HELP = "versions, instruction set, threads"


def make_parser() -> Parser:
    """No options."""
    return Parser(description="Print what this installation is made of.")


def run(arguments: Any) -> int:
    """One fact a line."""
    import torch

    import smet

    for name, value in {
        "smet": smet.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "instruction set": smet._C.active_isa(),
        "threads": torch.get_num_threads(),
        "torch's CUDA": torch.version.cuda or "none",
        "smet's CUDA kernels": "no",
    }.items():
        print(f"{name:<20} {value}")
    return 0
