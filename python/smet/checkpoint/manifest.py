# SPDX-License-Identifier: BSD-3-Clause
"""manifest.json: {"sha256": "...", "manifest": {...}}, where the digest is that of the second value's bytes.

So every byte is covered: tensor files by the digests in the manifest, the manifest by its own.
The text is canonical (sorted keys, ASCII, Python's shortest floats), equal from Python and C++.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from smet.checkpoint.errors import CheckpointError

NAME = "manifest.json"
FORMAT = "smet checkpoint"
VERSION = 1
_LARGEST = 1 << 28  # bytes; a manifest of a million tensors has about 100 MB
_HEAD, _MIDDLE, _TAIL = b'{"sha256": "', b'", "manifest": ', b"}\n"
_START = len(_HEAD) + 64 + len(_MIDDLE)


def dump(manifest: dict[str, Any]) -> bytes:
    """The bytes of manifest.json."""
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the manifest cannot be written as JSON: {error}") from error
    body = text.encode("ascii")
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL


def read(folder: Path) -> dict[str, Any]:
    """The checked manifest of a step folder; CheckpointError names what is wrong with it."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: {path.name}: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise CheckpointError(f"{path} has more than {_LARGEST} bytes; it is not a manifest")
    manifest = _parse(path, content)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {manifest.get('format')!r}; expected {FORMAT!r}")
    if not isinstance(version := manifest.get("version"), int) or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}; this smet reads 1 to {VERSION}. A newer one wrote it"
        )
    _check_shape(path, manifest)
    return manifest


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    body = content[_START : -len(_TAIL)]
    framed = (
        content.startswith(_HEAD)
        and content[len(_HEAD) + 64 : _START] == _MIDDLE
        and content.endswith(_TAIL)
        and len(content) >= _START + len(_TAIL)
    )
    if not framed or content[len(_HEAD) :][:64] != hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its SHA-256 does not fit its content")
    try:
        manifest = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path} is damaged: it holds no object")
    return manifest


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _check_shape(path: Path, manifest: dict[str, Any]) -> None:
    """The entries that every reader relies on have the types they should have."""
    expected: dict[str, Any] = {"files": dict, "layers": dict, "run": dict, "step": int, "aliases": dict}
    for key, kind in expected.items():
        if not isinstance(manifest.get(key), kind) or isinstance(manifest[key], bool):
            raise CheckpointError(f"{path}: '{key}' is {manifest.get(key)!r}; expected {kind.__name__}")
    for key in ("optimizer", "topology"):
        if not isinstance(manifest.get(key, 0), dict | None):
            raise CheckpointError(f"{path}: '{key}' is {manifest.get(key)!r}; expected an object or null")
    if not all(isinstance(name, str) for name in manifest["aliases"].values()):
        raise CheckpointError(f"{path}: 'aliases' are not names of tensors")
    if manifest["step"] < 0:
        raise CheckpointError(f"{path}: 'step' is {manifest['step']}; expected a count")
    for name, entry in manifest["files"].items():
        if "/" in name or "\\" in name or name in ("", ".", "..", NAME) or not name.isprintable():
            raise CheckpointError(f"{path}: file name {name!r}; expected a plain name inside the folder")
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256", "tensors"}:
            raise CheckpointError(f"{path}: the entry of file '{name}' is not bytes, sha256 and tensors")
        if not isinstance(entry["tensors"], dict):
            raise CheckpointError(f"{path}: 'tensors' of file '{name}' is not an object")
