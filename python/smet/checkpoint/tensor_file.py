# SPDX-License-Identifier: BSD-3-Clause
"""Safetensors files of a checkpoint: written and flushed, verified, and read tensor by tensor from a map."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smet.checkpoint import durable
from smet.checkpoint.errors import CheckpointError

_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def describe(tensor: Tensor) -> dict[str, Any]:
    """{"dtype": "F32", "shape": [2, 3]}, as in the file's header."""
    return {"dtype": dtype_code(tensor.dtype), "shape": list(tensor.shape)}


def dtype_code(dtype: torch.dtype) -> str:
    """Safetensors' name of a dtype; CheckpointError for one that a checkpoint does not hold."""
    if dtype not in _CODES:
        raise CheckpointError(f"a tensor has dtype {dtype}; a checkpoint holds {', '.join(_CODES.values())}")
    return _CODES[dtype]


def dtype_of(code: str) -> torch.dtype:
    """Inverse of `dtype_code`."""
    for dtype, known in _CODES.items():
        if known == code:
            return dtype
    raise CheckpointError(f"unknown dtype {code!r}; expected one of {', '.join(_CODES.values())}")


def write(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write and flush `tensors`; the file's entry in the manifest."""
    try:
        save_file({name: _storable(tensor) for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} could not be written: {error}") from error
    durable.flush(path)
    entries = {name: describe(tensor) for name, tensor in tensors.items()}
    return {"bytes": path.stat().st_size, "sha256": file_digest(path), "tensors": entries}


def _storable(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, in a storage of its own size: save_file makes no copy of such a tensor."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone()


def file_digest(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def verify(path: Path, entry: dict[str, Any]) -> None:
    """CheckpointError unless the file is a plain one with the size and the digest that the manifest says."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a plain file")
        if status.st_size != entry["bytes"]:
            raise CheckpointError(
                f"{path} is damaged: it has {status.st_size} bytes; the manifest says {entry['bytes']}"
            )
        digest = file_digest(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if digest != entry["sha256"]:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {digest}; the manifest says {entry['sha256']}"
        )


class TensorFile:
    """A verified file, mapped: a tensor costs memory only where it is copied to."""

    def __init__(self, path: Path, entry: dict[str, Any]) -> None:
        self.path, self.entries = path, entry["tensors"]
        try:
            self._file = safe_open(os.fspath(path), framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        here, said = set(self._file.keys()), set(self.entries)  # type: ignore[no-untyped-call]
        if here != said:
            name = min(here ^ said)
            raise CheckpointError(
                f"{path}: tensor '{name}' is {'not in the manifest' if name in here else 'missing'}"
            )

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.entries:
            raise CheckpointError(f"{self.path} has no tensor '{name}'")
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        if describe(tensor) != self.entries[name]:
            raise CheckpointError(
                f"{self.path}: tensor '{name}' is {describe(tensor)}; the manifest says {self.entries[name]}"
            )
        return tensor


def open_all(folder: Path, files: dict[str, Any]) -> dict[str, TensorFile]:
    """Verify, then map, files of a step folder, given with their entries in its manifest."""
    for name, entry in files.items():
        verify(folder / name, entry)
    return {name: TensorFile(folder / name, entry) for name, entry in files.items()}
