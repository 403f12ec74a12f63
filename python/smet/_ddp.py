# SPDX-License-Identifier: BSD-3-Clause
"""Positions and DistributedDataParallel: they agree by construction, so it need not send them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smet.sparse_linear import SparseLinear

_IGNORES = "_ddp_params_and_buffers_to_ignore"  # where DistributedDataParallel looks, at its construction


def keep_positions_local(model: nn.Module) -> None:
    """Keeps a DistributedDataParallel that will wrap `model` from sending positions before forward passes.

    Where `model` is one that was built without: ValueError. Sent from the first process, positions would hide
    that another one's differ, under weights that stay its own.
    """
    names = _positions(model)
    if not isinstance(model, DistributedDataParallel):
        found: Any = getattr(model, _IGNORES, None) or ()
        setattr(model, _IGNORES, sorted({*found, *names}))
        return
    names = {name.removeprefix("module.") for name in names}
    sent = sorted(names - set(model.parameters_to_ignore))
    if sent and model.broadcast_buffers:
        raise ValueError(
            f"smet: DistributedDataParallel sends the positions '{sent[0]}' before every forward pass, which "
            "would hide that processes disagree. Call smet.sparsify_(model) or build the TopologyScheduler "
            "with the model before DistributedDataParallel wraps it, or give that broadcast_buffers=False"
        )


def _positions(model: nn.Module) -> set[str]:
    return {
        f"{name}.{key}"
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, SparseLinear)
        for key in ("mask", "rank")
    }
