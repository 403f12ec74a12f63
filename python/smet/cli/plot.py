# SPDX-License-Identifier: BSD-3-Clause
"""`smet plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smet.cli.parser import Parser

HELP = "draw one or more runs in one picture"


def make_parser() -> Parser:
    """Flags of the command."""
    parser = Parser(description="Draw the logs of runs, finished or not, in one picture.")
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="folder of `smet pretrain`")
    parser.add_argument("--out", type=str, default="runs.png", metavar="FILE", help="picture to write")
    return parser


def run(arguments: Any) -> int:
    """Draw."""
    from smet.train.plots import draw_runs

    draw_runs([Path(folder) for folder in arguments.runs], Path(arguments.out))
    print(arguments.out)
    return 0
