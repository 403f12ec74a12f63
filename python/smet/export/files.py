# SPDX-License-Identifier: BSD-3-Clause
"""Safetensors files written from tensors that are made when their file's turn comes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from smet.checkpoint import durable
from smet.export.errors import ExportError


@dataclass(frozen=True)
class LaterTensor:
    """A tensor of known shape and dtype that `make` builds."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `out` at the end, flushed to disk, or is removed.

    ExportError when there is something at `out` already.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} is there already; choose a folder that is not, or remove it")
    unfinished = out.parent / f".{out.name}.exporting"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in unfinished.iterdir():
            durable.flush(path)
        unfinished.rename(out)  # over an empty folder too
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    durable.flush(out.parent)


def write_tensors(
    folder: Path, tensors: dict[str, LaterTensor], max_shard_size: int | str, metadata: dict[str, str]
) -> None:
    """model.safetensors, or shards of at most `max_shard_size` and their index, named as transformers does.

    A tensor that is larger has a file to itself. Only the tensors of one file exist at a time.
    """
    shapes = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in tensors.items()
    }
    try:
        split = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    except ValueError as error:
        raise ExportError(
            f"max_shard_size is {max_shard_size!r}; expected bytes, or a text like '5GB'"
        ) from error
    for file, names in split.filename_to_tensors.items():
        try:
            save_file({name: tensors[name].make() for name in names}, folder / file, metadata)
        except SafetensorError as error:
            raise ExportError(f"{folder / file} could not be written: {error}") from error
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
