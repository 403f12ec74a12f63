# SPDX-License-Identifier: BSD-3-Clause
"""The tensors of a trained model, mapped from the file of a run or of a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smet import _packing
from smet.checkpoint import folder, manifest, tensor_file
from smet.checkpoint.contents import MODEL_FILE
from smet.export.errors import ExportError

Shape = tuple[int, int]  # (out_features, in_features)


@dataclass(frozen=True)
class Trained:
    """A trained model by name. A tensor costs memory only while it is held."""

    path: Path  # the file, for messages
    names: dict[str, torch.dtype]  # tensors in the model's order, each once
    aliases: dict[str, str]  # other names of shared tensors -> the name in `names`
    layers: dict[str, Shape | None]  # sparse layers; a weights.pt does not hold their shapes
    read: Callable[[str], Tensor]
    config: Path | None  # transformers' configuration and the tokenizer, where the run has them
    tokenizer: Path | None

    def dense_names(self) -> list[str]:
        """Names of the tensors that belong to no sparse layer's weight."""
        parts = {part_name(layer, part) for layer in self.layers for part in ("values", "mask")}
        return [name for name in self.names if name not in parts]

    def packed(self, layer: str, shape: Shape) -> tuple[Tensor, Tensor]:
        """Checked (values, mask) of a sparse layer."""
        values, mask = self.read(part_name(layer, "values")), self.read(part_name(layer, "mask"))
        if problem := _packing.mask_problem(mask, *shape, values.numel()):
            raise ExportError(f"{self.path}: the mask of layer '{layer}' {problem}")
        return values, mask


def part_name(layer: str, part: str) -> str:
    """'fc.values', or 'values' where the model itself is the layer."""
    return f"{layer}.{part}" if layer else part


def open_trained(source: str | os.PathLike[str]) -> Trained:
    """A run's folder (its last state), a checkpoint folder (its newest whole step), or a step folder.

    Raises ExportError or CheckpointError. Only the file of the model is read.
    """
    path = Path(source)
    if not path.is_dir():
        raise ExportError(f"{path} is no folder; expected one of `smet pretrain`, or a checkpoint")
    if (path / manifest.NAME).exists():
        return _open_step(path)
    weights, root = path / "weights.pt", path / "checkpoints"
    newest = folder.newest_checkpoint(root if root.is_dir() else path, {MODEL_FILE})
    if weights.is_file() and (newest is None or manifest.read(newest)["step"] <= _steps_of(path)):
        return _open_weights(weights)
    if newest is None:
        raise ExportError(
            f"{path} holds neither weights.pt nor a checkpoint; expected a folder of `smet pretrain`, or of "
            "smet.save_checkpoint"
        )
    return _open_step(newest)


def _open_step(path: Path) -> Trained:
    body = manifest.read(path)
    entry = body["files"].get(MODEL_FILE)
    if entry is None:
        raise ExportError(f"{path} has no {MODEL_FILE}")
    tensor_file.verify(path / MODEL_FILE, entry)
    file = tensor_file.TensorFile(path / MODEL_FILE, entry)
    layers: dict[str, Shape | None] = {name: tuple(layer["shape"]) for name, layer in body["layers"].items()}
    names = {name: tensor_file.dtype_of(said["dtype"]) for name, said in entry["tensors"].items()}
    return Trained(path / MODEL_FILE, names, body["aliases"], layers, file.__getitem__, *_beside(path))


def _open_weights(path: Path) -> Trained:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and torch each raise their own
        raise ExportError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    names: dict[str, torch.dtype] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key], names[name] = name, tensor.dtype
    layers: dict[str, Shape | None] = {
        name.removesuffix("mask").removesuffix("."): None
        for name in names
        if name.rpartition(".")[2] == "mask" and name.removesuffix("mask") + "values" in names
    }
    return Trained(path, names, aliases, layers, state.__getitem__, *_beside(path.parent))


def _steps_of(run: Path) -> int:
    """Optimizer steps that weights.pt of a run has had."""
    try:
        return int(json.loads((run / "summary.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # not written yet, or cut short: the run was killed while it ended


def _beside(path: Path) -> tuple[Path | None, Path | None]:
    """model/config.json and tokenizer.json of the run that `path` is, or is a checkpoint of."""
    for run in (path, path.parent, path.parent.parent):
        if (config := run / "model" / "config.json").is_file():
            tokenizer = run / "tokenizer.json"
            return config, tokenizer if tokenizer.is_file() else None
    return None, None
