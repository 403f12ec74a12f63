# SPDX-License-Identifier: BSD-3-Clause
"""`smet info`."""

from __future__ import annotations

from typing import Any

from smet.cli.parser import Parser

HELP = "versions, instruction set, threads"


def make_parser() -> Parser:
    """No options."""
    return Parser(description="Print what this installation is made of.")


def run(arguments: Any) -> int:
    """One fact a line."""
    import smet

    smet.info()
    return 0
