# SPDX-License-Identifier: BSD-3-Clause
"""`smet generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smet.cli.parser import Parser
from smet.train.errors import ConfigError

HELP = "continue a prompt with a trained model"


def make_parser() -> Parser:
    """Flags of the command."""
    parser = Parser(description="Continue a prompt with the model of a finished run.")
    parser.add_argument("--run", type=str, required=True, metavar="FOLDER", help="folder of `smet pretrain`")
    parser.add_argument("--prompt", type=str, default="", help="text to continue")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = the likeliest token each time")
    parser.add_argument("--top-k", type=int, default=50, help="draw among so many likeliest tokens")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    return parser


def run(arguments: Any) -> int:
    """Print prompt and continuation."""
    if arguments.temperature < 0 or arguments.top_k < 1 or arguments.tokens < 1:
        raise ConfigError("expected --temperature >= 0, --top-k >= 1 and --tokens >= 1")
    from smet.train.generate import generate, load_run

    model, tokenizer = load_run(Path(arguments.run))
    options = {"temperature": arguments.temperature, "top_k": arguments.top_k, "seed": arguments.seed}
    print(generate(model, tokenizer, arguments.prompt, arguments.tokens, **options))
    return 0
