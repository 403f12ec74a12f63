# SPDX-License-Identifier: BSD-3-Clause
"""Byte-level BPE: trained on the data at hand, or read from any tokenizer.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from smet.train.errors import DataError

END_OF_TEXT = "<|endoftext|>"
_SAMPLE_BYTES = 8_000_000  # of text that the BPE is trained on: more changes few merges and takes seconds
_PIECES_AT_ONCE = 256


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json; DataError when it is missing or not one."""
    if not path.is_file():
        raise DataError(f"--tokenizer {path}: no such file")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"--tokenizer {path} is not a tokenizer.json: {error}") from error


def train_tokenizer(pieces: Sequence[str], vocab: int) -> Tokenizer:
    """A byte-level BPE of `vocab` entries: <|endoftext|>, the 256 bytes, merges. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(pieces), trainer)
    return tokenizer


def cached_tokenizer(pieces: Sequence[str], vocab: int, folder: Path) -> Tokenizer:
    """`train_tokenizer`, kept in folder/tokenizer.json for the next run on the same text."""
    path, key_path = folder / "tokenizer.json", folder / "tokenizer.key"
    digest = hashlib.blake2b(f"{vocab} ".encode(), digest_size=16)
    for piece in _sample(pieces):
        digest.update(piece.encode())
    key = digest.hexdigest()
    if path.is_file() and key_path.is_file() and key_path.read_text() == key:
        return load_tokenizer(path)
    tokenizer = train_tokenizer(pieces, vocab)
    folder.mkdir(parents=True, exist_ok=True)
    key_path.unlink(missing_ok=True)
    tokenizer.save(str(path))
    key_path.write_text(key)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: Iterable[Sequence[str]]) -> NDArray[Any]:
    """Tokens of all documents (each a sequence of pieces), every document after one <|endoftext|>."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    start = end_of_text(tokenizer)
    parts: list[NDArray[Any]] = []
    for document in documents:
        if start is not None:
            parts.append(np.array([start], dtype=dtype))
        for first in range(0, len(document), _PIECES_AT_ONCE):
            batch = list(document[first : first + _PIECES_AT_ONCE])
            encoded = tokenizer.encode_batch(batch, add_special_tokens=False)
            parts.extend(np.array(piece.ids, dtype=dtype) for piece in encoded)
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """Id of the token that stands between documents, if the tokenizer has one of the usual names."""
    for name in (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]"):
        token = tokenizer.token_to_id(name)
        if token is not None:
            return int(token)
    return None


def _sample(pieces: Sequence[str]) -> Iterator[str]:
    """Every k-th piece, about _SAMPLE_BYTES in all."""
    total = sum(len(piece) for piece in pieces)
    return iter(pieces[:: max(1, -(-total // _SAMPLE_BYTES))])
