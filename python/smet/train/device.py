# SPDX-License-Identifier: BSD-3-Clause
"""Where a run trains."""

from __future__ import annotations

import os

import torch
from torch import nn

from smet._info import cuda_kernels
from smet.train.errors import ConfigError


def choose_device(asked: str) -> torch.device:
    """The device that --device `asked` for. Of several processes on a machine each gets a GPU of its own.

    auto: a GPU where there is one and smet has kernels for it, else the CPU. Raises ConfigError where the
    device is not there.
    """
    kernels = cuda_kernels()
    if asked == "auto":
        asked = "cuda" if kernels != "not built" and torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError(f"--device is {asked!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"--device is {asked!r}; expected auto, cpu, cuda or cuda:N")
    if kernels == "not built":
        raise ConfigError(f"--device {asked}: this smet was built without CUDA kernels; see README, CUDA")
    if device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.index >= torch.cuda.device_count():
        raise ConfigError(f"--device {device}: torch sees {torch.cuda.device_count()} GPUs on this machine")
    torch.cuda.set_device(device)
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(model.parameters()).device
