# SPDX-License-Identifier: BSD-3-Clause
"""A dense transformers checkpoint of a trained sparse model."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smet._linear_layers import features, is_conv1d
from smet.export.errors import ExportError
from smet.export.files import LaterTensor, new_folder, write_tensors
from smet.export.trained import Shape, Trained, open_trained, part_name

_OPS = torch.ops.smet
_END_OF_TEXT = "<|endoftext|>"  # of the tokenizers that `smet pretrain` trains


def export_hf(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Write a folder that transformers' from_pretrained reads, and return it.

    The model computes what the sparse one computes, on dense matrices and without smet; weights that do not
    exist are zeros. Layers are made dense one by one, into shards.

    Args:
        source: the folder of a `smet pretrain` run (its last state), a checkpoint folder (the newest whole
            step) or a step folder. Only the model's file is read, no optimizer state.
        out: the folder to make.
        config: the model's transformers configuration, config.json or its folder; None where the run has it
            (RUN/model/config.json).
        max_shard_size: bytes of one file, or a text such as "5GB".

    Raises ExportError or CheckpointError naming the file, tensor or layer that is wrong, or OSError from the
    file system; nothing is left behind then.
    """
    trained = open_trained(source)
    model = dense_model(trained, None if config is None else Path(config))
    tensors = _dense_tensors(trained, model)
    folder = Path(out)
    with new_folder(folder) as unfinished:
        write_tensors(unfinished, tensors, max_shard_size, {"format": "pt"})
        _write_configuration(unfinished, model, tensors)
        if trained.tokenizer is not None:
            _write_tokenizer(unfinished, trained.tokenizer)
    return folder


def dense_model(trained: Trained, config: Path | None) -> nn.Module:
    """The model's dense twin on the meta device: names, shapes and types, no weights."""
    path = config or trained.config
    if path is None:
        raise ExportError(
            f"{trained.path} has no model/config.json in its run; give the model's transformers "
            "configuration with config= (smet export --config)"
        )
    if not path.exists():
        raise ExportError(f"config is {path}; no such file")
    import transformers

    try:
        found = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            build: Any = transformers.AutoModelForCausalLM.from_config
            model: nn.Module = build(found)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{path} is not the configuration of a transformers causal LM: {error}") from error
    return model


def linear_shapes(trained: Trained, model: nn.Module) -> dict[str, Shape]:
    """(out_features, in_features) of every sparse layer, from the dense model; ExportError if they differ."""
    modules = dict(model.named_modules())
    shapes = {}
    for name, saved in trained.layers.items():
        module = modules.get(name)
        if not (isinstance(module, nn.Linear) or (module is not None and is_conv1d(module))):
            raise ExportError(
                f"{trained.path}: the configuration's {type(model).__name__} has no layer '{name}'"
            )
        shapes[name] = features(module)
        if saved is not None and saved != shapes[name]:
            raise ExportError(
                f"{trained.path}: layer '{name}' has {saved[0]} x {saved[1]} weights; the configuration says "
                f"{shapes[name][0]} x {shapes[name][1]}"
            )
    return shapes


def _dense_tensors(trained: Trained, model: nn.Module) -> dict[str, LaterTensor]:
    """All of the file's tensors; the names and shapes are those of `model`, less aliases."""
    shapes, modules = linear_shapes(trained, model), dict(model.named_modules())
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors: dict[str, LaterTensor] = {}
    for layer, shape in shapes.items():
        transposed = is_conv1d(modules[layer])
        dtype = trained.names[part_name(layer, "values")]
        name = part_name(layer, "weight")
        tensors[name] = LaterTensor(expected[name], dtype, partial(_dense, trained, layer, shape, transposed))
    for name in trained.dense_names():
        tensor = trained.read(name)
        tensors[name] = LaterTensor(tuple(tensor.shape), tensor.dtype, partial(trained.read, name))
    _check(trained, tensors, expected, type(model).__name__)
    return {name: tensors[name] for name in expected if name in tensors}


def _check(
    trained: Trained, tensors: dict[str, LaterTensor], expected: dict[str, tuple[int, ...]], kind: str
) -> None:
    here = {*tensors, *trained.aliases}
    if missing := sorted(set(expected) - here):
        raise ExportError(
            f"{trained.path} has no tensor '{missing[0]}', which the configuration's {kind} needs"
        )
    if extra := sorted(here - set(expected)):
        raise ExportError(f"{trained.path}: tensor '{extra[0]}' has no place in the configuration's {kind}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise ExportError(
                f"{trained.path}: tensor '{name}' is {list(tensor.shape)}; the configuration's {kind} has "
                f"{list(expected[name])}"
            )


def _dense(trained: Trained, layer: str, shape: Shape, transposed: bool) -> Tensor:
    """One layer's W [out, in], or its transpose for a Conv1D."""
    values, mask = trained.packed(layer, shape)
    weight: Tensor = _OPS.expand(values, mask, _OPS.mask_rank(mask, shape[1]), shape[1])
    return weight.t().contiguous() if transposed else weight


def _write_configuration(folder: Path, model: Any, tensors: dict[str, LaterTensor]) -> None:
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] += torch.Size(tensor.shape).numel()
    model.config.dtype = sizes.most_common(1)[0][0]
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _write_tokenizer(folder: Path, path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    load: Any = PreTrainedTokenizerFast
    tokenizer = load(tokenizer_file=str(path))
    if tokenizer.convert_tokens_to_ids(_END_OF_TEXT) is not None:
        tokenizer.eos_token = _END_OF_TEXT
    tokenizer.save_pretrained(folder)
