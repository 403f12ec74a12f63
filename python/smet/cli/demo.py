# SPDX-License-Identifier: BSD-3-Clause
"""`smet demo`."""

from __future__ import annotations

from typing import Any

from smet.cli.parser import Parser
from smet.train.errors import ConfigError

HELP = "dense and sparse training side by side, in a few minutes"


def make_parser() -> Parser:
    """Flags of the command."""
    parser = Parser(
        description="Train a small LLaMA dense and at density .25 from the same weights on the same batches, "
        "then print one table and draw one picture."
    )
    parser.add_argument(
        "--out", type=str, default="runs/demo", metavar="FOLDER", help="replaced if it is there"
    )
    parser.add_argument("--data", type=str | None, default=None, metavar="PATH", help="as in pretrain")
    parser.add_argument("--steps", type=int, default=None, help="steps of each run, other than the preset's")
    parser.add_argument("--seed", type=int, default=0, help="seed of both runs")
    parser.add_argument("--device", type=str, default="auto", help="as in pretrain")
    return parser


def run(arguments: Any) -> int:
    """Both runs, the table, the picture."""
    if arguments.steps is not None and arguments.steps < 1:
        raise ConfigError(f"--steps is {arguments.steps}; expected at least 1")
    from smet.train.demo import demo

    return demo(arguments.out, arguments.data, arguments.steps, arguments.seed, arguments.device)
