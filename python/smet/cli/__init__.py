# SPDX-License-Identifier: BSD-3-Clause
"""The command `smet`. Parsing loads neither torch nor transformers: each command imports what it needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from smet.cli import bench, demo, estimate, export, generate, info, plot, pretrain
from smet.cli.parser import Parser
from smet.train.errors import TrainerError

COMMANDS = {
    "pretrain": pretrain,
    "demo": demo,
    "generate": generate,
    "export": export,
    "plot": plot,
    "estimate": estimate,
    "bench": bench,
    "info": info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (it failed), 2 (bad usage or data), 130 (Ctrl-C)."""
    parser = Parser(prog="smet", description="Train language models of which only some weights ever exist.")
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, command in COMMANDS.items():
        command_parser = command.make_parser()
        subcommands.add_subcommand(name, command_parser, help=command.HELP)
        command_parser.prog = f"smet {name}"
        if command is bench:  # jsonargparse wants a level's commands before those of the next
            bench.add_tables(command_parser)
    arguments = parser.parse_args(None if argv is None else list(argv))
    name = arguments.command
    try:
        return int(COMMANDS[name].run(arguments[name]))
    except TrainerError as error:
        print(f"smet {name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"smet {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
