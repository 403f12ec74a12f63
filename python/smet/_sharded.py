# SPDX-License-Identifier: BSD-3-Clause
"""Models whose dense parameters are sharded over processes (FSDP2), and whose sparse layers are not."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from smet import _processes
from smet.convert import sparse_layers


def check_not_sharded(model: nn.Module) -> None:
    """ValueError naming a sparse layer whose values are sharded: a shard knows nothing of its positions."""
    for name, layer in sparse_layers(model):
        if isinstance(layer.values, DTensor):
            raise ValueError(
                f"smet: the values of layer '{name}' are sharded over processes, which parts them from their "
                "positions; shard the dense parameters alone: "
                "fully_shard(module, ignored_params=smet.sparse_parameters(model)) for every module that is "
                "sharded, and smet.average_sparse_gradients(model) after backward()"
            )


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor itself."""
    if not isinstance(tensor, DTensor):
        return tensor
    part: Tensor = tensor._local_tensor.detach()
    return part


def local_parameter(param: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """This process's part of a parameter, its gradient and its state; an optimizer works on parts alone."""
    if not isinstance(param, DTensor):
        return param, state
    part = local(param)
    assert param.grad is not None
    part.grad = local(param.grad)
    return part, {key: local(value) for key, value in state.items()}


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float) -> Tensor:
    """As torch.nn.utils.clip_grad_norm_ with the 2-norm, also where some gradients are sharded and some not.

    Returns the norm before, of the whole gradient, equal on every process and in every layout.
    """
    gradients = [param.grad for param in model.parameters() if param.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(whole)) if whole else torch.zeros(())
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(factor)
    return total


@torch.no_grad()
def average_sparse_gradients(model: nn.Module, process_group: Any = "default") -> None:
    """Average the compact gradients of all sparse layers over the processes, in one all-reduce per dtype.

    For FSDP2 with `ignored_params=smet.sparse_parameters(model)`, which averages all other gradients: call it
    after the last backward pass of a step, before clipping. Not for DistributedDataParallel, which averages
    these gradients as it does all others.
    """
    group = _processes.group_of(process_group)
    if group is None:
        return
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for _, layer in sparse_layers(model):
        values = layer.values
        if values.requires_grad:  # a layer that saw no token takes part all the same
            if values.grad is None:
                values.grad = torch.zeros_like(values)
            by_kind.setdefault((values.device, values.dtype), []).append(values.grad)
    for gradients in by_kind.values():
        flat = torch.cat(gradients)
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part)
