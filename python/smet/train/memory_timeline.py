# SPDX-License-Identifier: BSD-3-Clause
"""Resident memory of a run by phase: build, forward, backward, step, topology, evaluation, save."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from smet.train.log import JsonlLog
from smet.train.process_memory import resident_bytes

_PERIOD = 0.02  # seconds between two looks
_SHORTEST = 1e-3  # seconds: nothing happened, such as a topology step without an update
_ALWAYS = 10  # occurrences of a phase that are logged; later ones only with a new peak
_NEW_PEAK = 1.01


class MemoryTimeline:
    """Writes one line for a phase: its step, when it began and how long it took (seconds since this object
    was made), the largest resident set seen in it and the one at its end (bytes). A file of its own: unlike
    log.jsonl no two runs have the same.

    A thread looks every 20 ms; a peak shorter than that shows in the run's peak_rss_bytes alone, which the
    operating system counts.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path` None: nothing is watched or written."""
        self._log = None if path is None else JsonlLog(path)
        self._zero = time.perf_counter()
        self._seen: dict[str, int] = {}
        self._largest: dict[str, int] = {}
        self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if path is not None:
            self._thread = threading.Thread(target=self._watch, name="smet-memory", daemon=True)
            self._thread.start()
            with self.phase("start"):
                pass

    @contextmanager
    def phase(self, name: str, step: int = 0) -> Iterator[None]:
        """Around everything that belongs to the phase; phases do not overlap."""
        if self._log is None:
            yield
            return
        began = time.perf_counter()
        self._peak = resident_bytes()
        yield
        after = resident_bytes()
        peak = max(self._peak, after)
        seconds = time.perf_counter() - began
        if seconds < _SHORTEST and name != "start":
            return
        self._seen[name] = self._seen.get(name, 0) + 1
        if self._seen[name] <= _ALWAYS or peak > _NEW_PEAK * self._largest[name]:
            at = began - self._zero
            self._log.write("memory", phase=name, step=step, at=at, seconds=seconds, peak=peak, rss=after)
        self._largest[name] = max(peak, self._largest.get(name, 0))

    def __enter__(self) -> MemoryTimeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None and self._log is not None:
            self._thread.join()
            self._log.close()

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD):
            self._peak = max(self._peak, resident_bytes())
