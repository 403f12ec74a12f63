# SPDX-License-Identifier: BSD-3-Clause
"""What of a model and an optimizer a checkpoint holds, under which names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from smet._names import canonical_name
from smet.checkpoint.errors import CheckpointError
from smet.convert import sparse_layers

MODEL_FILE, OPTIMIZER_FILE, RUN_FILE = "model.safetensors", "optimizer.safetensors", "run.safetensors"


def model_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Live parameters and persistent buffers by canonical name, each once, and other names of shared ones.

    The second dict maps such a name to the first name of the same tensor.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[int, str] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        name = canonical_name(key)
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"'{name}' of the model's state is a {type(tensor).__name__}; a checkpoint holds tensors only"
            )
        if tensor.is_meta:
            raise CheckpointError(
                f"'{name}' is on the meta device and has no values; give the model memory first: "
                'model.to_empty(device="cpu")'
            )
        if isinstance(tensor, DTensor):
            raise CheckpointError(
                f"'{name}' is sharded over processes; save and load such a model with "
                "torch.distributed.checkpoint (torch.distributed.checkpoint.state_dict.get_state_dict)"
            )
        if name in tensors or name in aliases:
            raise CheckpointError(f"two entries of the model's state have the canonical name '{name}'")
        if id(tensor) in names:
            aliases[name] = names[id(tensor)]
        else:
            names[id(tensor)] = name
            tensors[name] = tensor
    return tensors, aliases


def parameter_names(model: nn.Module) -> dict[int, str]:
    """id of each parameter -> its canonical name."""
    return {id(param): canonical_name(name) for name, param in model.named_parameters()}


def layer_entries(model: nn.Module) -> dict[str, Any]:
    """Size and topology hash of each sparse layer."""
    return {
        name: {
            "shape": [layer.out_features, layer.in_features],
            "n": layer.nnz,
            "hash": mask_hash(layer.mask, layer.in_features),
        }
        for name, layer in sparse_layers(model)
    }


def mask_hash(mask: Tensor, cols: int) -> str:
    """The 64-bit hash of a layer's positions, in hexadecimal."""
    return f"{int(torch.ops.smet.mask_hash(mask, cols)) % 2**64:016x}"


def group_names(
    opt: torch.optim.Optimizer, names: dict[int, str]
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """(group, names of its parameters); CheckpointError for a parameter that the model does not have."""
    for number, group in enumerate(opt.param_groups):
        for index, param in enumerate(group["params"]):
            if id(param) not in names:
                raise CheckpointError(
                    f"parameter {index} of group {number} of the optimizer is not one of the model's, so it "
                    "has no name to be saved under"
                )
        yield group, [names[id(param)] for param in group["params"]]
