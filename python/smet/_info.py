# SPDX-License-Identifier: BSD-3-Clause
"""What this installation is made of."""

from __future__ import annotations

import platform

import torch

import smet


def cuda_kernels() -> str:
    """Say whether the CUDA operators are there, and whether a device is."""
    if not smet._C.algorithm_names("cuda"):
        return "not built"
    if not torch.cuda.is_available():
        return "built; no GPU on this machine"
    return f"built; {torch.cuda.get_device_name()}"


def info() -> dict[str, str]:
    """Print one fact a line, and return them: versions, instruction set, threads, CUDA."""
    facts = {
        "smet": smet.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "instruction set": smet._C.active_isa(),
        "threads": str(torch.get_num_threads()),
        "torch's CUDA": torch.version.cuda or "none",
        "smet's CUDA kernels": cuda_kernels(),
    }
    for name, value in facts.items():
        print(f"{name:<20} {value}")
    return facts
