# SPDX-License-Identifier: BSD-3-Clause
"""Text from a file, a folder, a Hugging Face data set or Python's own sources, with a part held out."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from smet.train.errors import DataError

Document = list[str]  # pieces of about _PIECE characters, cut at line ends; together the whole text
Named = list[tuple[str, Document]]

_PIECE = 8192
_HELD_OUT = 20  # one part in 20 is held out
_STDLIB_SKIPS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


@dataclass
class Corpus:
    """Documents to train on and documents held out. `notes` says what was left out and why."""

    train: list[Document]
    held_out: list[Document]
    notes: list[str] = field(default_factory=list)


def read_corpus(data: str | None, eval_data: str | None, text_column: str, max_bytes: int | None) -> Corpus:
    """The text of --data, and of --eval-data or a held-out part of --data. Raises DataError."""
    notes: list[str] = []
    given: Named = []
    if data is None:
        own = _python_sources()
    else:
        own, given = _read(data, text_column, notes)
    if eval_data is not None:
        other, other_given = _read(eval_data, text_column, notes)
        train, held_out = (
            [document for _, document in own],
            [document for _, document in other_given or other],
        )
    elif given:
        train, held_out = [document for _, document in own], [document for _, document in given]
    else:
        train, held_out = hold_out(own)
    return Corpus(_limit(train, max_bytes), held_out, notes)


def size(documents: Iterable[Document]) -> int:
    """UTF-8 bytes of `documents`."""
    return sum(len(piece.encode()) for document in documents for piece in document)


def pieces(text: str) -> Document:
    """Cut `text` before line ends into pieces of about 8,000 characters."""
    result: Document = []
    start = 0
    while start < len(text):
        cut = text.find("\n", start + _PIECE, start + 4 * _PIECE)
        end = cut if cut >= 0 else min(len(text), start + 4 * _PIECE)
        result.append(text[start:end])
        start = end
    return result


def hold_out(documents: Named) -> tuple[list[Document], list[Document]]:
    """Split into training and held-out documents: one in 20 by a hash of its name, so more files move none.

    A single document is cut near its end instead.
    """
    if len(documents) == 1:
        text = "".join(documents[0][1])
        cut = len(text) - len(text) // _HELD_OUT
        for end in ("\n\n", "\n", " "):
            found = text.find(end, cut)
            if found >= 0:
                cut = found
                break
        return [pieces(text[:cut])], [pieces(text[cut:])]
    hashes = {name: hashlib.blake2b(name.encode(), digest_size=8).digest() for name, _ in documents}
    chosen = {name for name, digest in hashes.items() if int.from_bytes(digest, "little") % _HELD_OUT == 0}
    if not chosen or len(chosen) == len(documents):
        chosen = {min(hashes, key=lambda name: (hashes[name], name))}
    return (
        [document for name, document in documents if name not in chosen],
        [document for name, document in documents if name in chosen],
    )


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`; DataError when it is missing, empty or binary."""
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    content = path.read_bytes()
    if not content.strip():
        raise DataError(f"{path} is empty; expected text")
    if b"\0" in content:
        offset = content.index(b"\0")
        raise DataError(
            f"{path} is binary (a zero byte at offset {offset}); expected text, or tokens named *.bin"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {content[error.start]:#04x} at offset {error.start}); "
            "expected text, or tokens named *.bin"
        ) from None


def _read(where: str, text_column: str, notes: list[str]) -> tuple[Named, Named]:
    """Documents of `where`, and those that it holds out itself (a data set's validation split)."""
    if where.startswith("hf:"):
        from smet.train.hugging_face import read_dataset

        return read_dataset(where[3:], text_column)
    path = Path(where)
    if not path.is_dir():
        return [(path.name, pieces(read_text(path)))], []
    documents: Named = []
    skipped: list[str] = []
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if not file.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        try:
            documents.append((relative.as_posix(), pieces(read_text(file))))
        except DataError as error:
            skipped.append(str(error))
    if not documents:
        raise DataError(skipped[0] if skipped else f"{path} holds no files; expected text files")
    if skipped:
        notes.append(f"{len(skipped)} files left out; the first: {skipped[0]}")
    return documents, []


def _python_sources() -> Named:
    """The standard library's own .py files on this machine, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    documents: Named = []
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if _STDLIB_SKIPS.isdisjoint(relative.parts):
            try:
                documents.append((relative.as_posix(), pieces(read_text(file))))
            except DataError:  # a few are empty or in Latin-1
                continue
    if size(document for _, document in documents) < 1_000_000:
        raise DataError(f"no sources of Python's standard library in {root}; give text with --data PATH")
    return documents


def _limit(documents: list[Document], max_bytes: int | None) -> list[Document]:
    """The first pieces of `documents`, up to `max_bytes` characters."""
    if max_bytes is None:
        return documents
    result: list[Document] = []
    left = max_bytes
    for document in documents:
        kept: Document = []
        for piece in document:
            if left <= 0:
                break
            kept.append(piece[:left])
            left -= len(kept[-1])
        if kept:
            result.append(kept)
    return result
