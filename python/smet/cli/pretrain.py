# SPDX-License-Identifier: BSD-3-Clause
"""`smet pretrain`."""

from __future__ import annotations

import dataclasses
from typing import Any

from smet.cli.parser import Parser, add_dataclass_flags
from smet.train.config import PretrainConfig
from smet.train.methods import resolve

HELP = "train a language model, sparse or dense"


def make_parser() -> Parser:
    """Flags of PretrainConfig, and --config FILE."""
    parser = Parser(
        usage="smet pretrain [--method {smet,dense,static,set,rigl}] [--model SIZE] [--data PATH] [options]",
        description="Train a causal language model on text, with dynamic sparse training or one of its "
        "baselines. Without --data it learns Python's own sources.",
    )
    parser.add_argument("--config", action="config", help="YAML file of options; flags after it win")
    add_dataclass_flags(parser, PretrainConfig)
    return parser


def run(arguments: Any) -> int:
    """Check the options, then train."""
    names = [field.name for field in dataclasses.fields(PretrainConfig)]
    config = PretrainConfig(**{name: arguments[name] for name in names})
    resolve(config)  # before torch and transformers are loaded: a mistake should not cost ten seconds
    from smet.train.run import pretrain

    return pretrain(config).exit_code
