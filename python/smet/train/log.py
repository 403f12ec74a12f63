# SPDX-License-Identifier: BSD-3-Clause
"""A run's files: log.jsonl, one event a line, and JSON files written whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from smet.train.errors import DataError


class JsonlLog:
    """Appends events to a file. Each line is written in one piece and at once, so that a killed run leaves
    only whole lines, except perhaps the last.

    A resumed run continues its log: `kept` are the events that stand, all others are those of steps that are
    done again.
    """

    def __init__(self, path: Path | None, kept: Iterable[dict[str, Any]] = ()) -> None:
        """`path` None: nothing is kept (a process other than the first)."""
        if path is None:
            self._file = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            return
        partial = path.with_suffix(".jsonl.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in kept)
            file.flush()
            os.fsync(file.fileno())  # before it takes the place of a log that is on disk
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, **fields: Any) -> None:
        """One line: {"event": ..., fields}. NaN and infinities become strings: JSON has none."""
        self._file.write(json.dumps({"event": event, **_plain(fields)}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Flush to the disk itself: a checkpoint must not know of steps that the log has lost."""
        if self._file.name != os.devnull:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is written after it."""
        self._file.close()

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; a last line that was cut off is left out. DataError for a line that is damaged."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict) or "event" not in event:
                raise DataError(f"{path} is damaged: line {number} is not an event in JSON; remove the line")
            yield event


def events_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The log's events up to `step` steps, as a run that is resumed there keeps them; [] without a log."""
    if not path.is_file():
        return []
    events = read_log(path)
    return [event for event in events if event["event"] != "end" and event.get("step", 0) <= step]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that the file is either the old one or the new one, whole."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(_plain(content), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
