# SPDX-License-Identifier: BSD-3-Clause
"""Token .bin files: llm.c's (256 int32 of header) and nanoGPT's (raw uint16), as read-only memory maps.

llm.c's header: [0] magic (20240520: GPT-2, uint16; 20240801: Llama 3, uint32), [1] version (1; 7), [2] number
of tokens; the rest is unused. Source: dev/data/data_common.py of karpathy/llm.c.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smet.train.errors import DataError

_HEADER_BYTES = 256 * 4


class _Format(NamedTuple):
    version: int
    dtype: Any
    vocab: int


_FORMATS = {20240520: _Format(1, np.uint16, 50257), 20240801: _Format(7, np.uint32, 128256)}


class TokenFile(NamedTuple):
    """Tokens of a file, not read yet, and the vocabulary that its header implies (None without a header)."""

    tokens: NDArray[Any]
    vocab: int | None


def open_token_file(path: Path, raw_dtype: str = "uint16") -> TokenFile:
    """Map the tokens of `path`; raises DataError when the file is empty or contradicts itself."""
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty; expected tokens")
    head = np.fromfile(path, dtype="<i4", count=min(256, size // 4))
    magic = int(head[0]) if len(head) else 0
    if magic in _FORMATS:
        return _open_llmc(path, head, _FORMATS[magic])
    if 20230000 <= magic <= 20300000 and len(head) == 256 and not head[3:].any():
        raise DataError(f"{path}: unknown magic {magic}; expected {' or '.join(map(str, _FORMATS))} (llm.c)")
    width = np.dtype(raw_dtype).itemsize
    if size % width:
        raise DataError(
            f"{path} has {size} bytes, which is no multiple of {width}; expected {raw_dtype} tokens "
            "(--token-dtype)"
        )
    return TokenFile(np.memmap(path, dtype=np.dtype(raw_dtype).newbyteorder("<"), mode="r"), None)


def check_tokens(tokens: NDArray[Any], vocab: int, source: str) -> None:
    """Raise DataError when a token is outside [0, vocab); reads the whole file once, in pieces."""
    piece = 1 << 24
    for start in range(0, len(tokens), piece):
        part = tokens[start : start + piece]
        largest = int(part.max())
        if largest >= vocab:
            where = start + int(part.argmax())
            raise DataError(
                f"{source}: token {largest} at position {where} is not in the vocabulary of {vocab}; "
                "another tokenizer, another --token-dtype, or not a token file"
            )


def _open_llmc(path: Path, head: NDArray[Any], form: _Format) -> TokenFile:
    size = path.stat().st_size
    if size < _HEADER_BYTES:
        raise DataError(f"{path} ends inside its header: {size} bytes, expected at least {_HEADER_BYTES}")
    if int(head[1]) != form.version:
        raise DataError(f"{path}: version {int(head[1])} with magic {int(head[0])}; expected {form.version}")
    count = int(head[2])
    expected = _HEADER_BYTES + count * np.dtype(form.dtype).itemsize
    if count <= 0 or size != expected:
        raise DataError(
            f"{path}: its header says {count} tokens, which makes {expected} bytes, but it has {size}; "
            "truncated or damaged"
        )
    tokens = np.memmap(path, dtype=np.dtype(form.dtype).newbyteorder("<"), mode="r", offset=_HEADER_BYTES)
    return TokenFile(tokens, form.vocab)
