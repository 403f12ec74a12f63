# SPDX-License-Identifier: BSD-3-Clause
"""How a run is asked to stop: SIGTERM, or Ctrl-C once; Ctrl-C twice stops at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# What a shell reports for a command that ended by such a signal.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """Asked after every step; `exit_code` is that of the signal that came, or 0."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.exit_code != 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C raises KeyboardInterrupt."""
        if number == signal.SIGINT and self.exit_code == EXIT_CODES[signal.SIGINT]:
            raise KeyboardInterrupt
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        again = "; Ctrl-C once more stops at once" if number == signal.SIGINT else ""
        text = f"saving a checkpoint after this step, then stopping{again}\n"
        with suppress(OSError):  # stderr may be gone; and print() fails inside another print() to it
            os.write(2, text.encode())


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within, SIGTERM and Ctrl-C only ask. Outside the main thread, where no handler can be set, none do."""
    request = StopRequest()
    previous = {}
    try:
        for number in EXIT_CODES:
            previous[number] = signal.signal(number, request.on_signal)
    except ValueError:
        pass
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
