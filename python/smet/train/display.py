# SPDX-License-Identifier: BSD-3-Clause
"""What a run prints: a progress bar on a terminal, plain lines without control codes elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from smet._text import format_bytes
from smet.train.record import StepRecord


class Display:
    """Plain lines: one per step (every `print_every`), one per evaluation and topology update."""

    def __init__(self, steps: int, print_every: int, file: TextIO | None = None) -> None:
        self.steps, self.print_every = steps, print_every
        self._file = file or sys.stdout

    def line(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._file, flush=True)

    def step(self, record: StepRecord) -> None:
        """Show a step."""
        if record.step % self.print_every == 0 or record.step in (1, self.steps):
            self.line(f"step {record.step}/{self.steps}  {step_text(record)}")

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class RichDisplay(Display):
    """A progress bar that carries the current step's figures; other lines scroll above it."""

    def __init__(self, steps: int, print_every: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        super().__init__(steps, print_every)
        console = Console(highlight=False)
        columns: list[Any] = [
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        ]
        self._progress = Progress(*columns, console=console)
        self._print: Callable[..., None] = console.print
        self._task = self._progress.add_task("", total=steps, figures="")

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        self._print(text, markup=False, soft_wrap=True)

    def step(self, record: StepRecord) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=record.step, figures=step_text(record))

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def make_display(steps: int, print_every: int, silent: bool = False) -> Display:
    """A bar where stdout is a terminal that can draw one, else plain lines; silent: nothing at all."""
    if silent:
        return Display(steps, print_every, open(os.devnull, "w"))
    if sys.stdout.isatty():
        return RichDisplay(steps, print_every)
    return Display(steps, print_every)


def step_text(record: StepRecord) -> str:
    """'loss 5.214  lr 1.2e-03  norm 0.81  9,402 tok/s  612 MB  2:31 left'."""
    memory, left = format_bytes(record.rss_bytes), clock(record.seconds_left)
    norm = "" if record.grad_norm is None else f"norm {record.grad_norm:.2f}  "
    return (
        f"loss {record.loss:.3f}  lr {record.lr:.2e}  {norm}"
        f"{record.tokens_per_second:,.0f} tok/s  {memory}  {left} left"
    )


def clock(seconds: float) -> str:
    """75 -> '1:15', 3675 -> '1:01:15'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
