# SPDX-License-Identifier: BSD-3-Clause
"""`smet estimate`."""

from __future__ import annotations

from typing import Any, Literal

from smet.cli.parser import Parser
from smet.train.errors import ConfigError

HELP = "memory of a training run, and time bounds on a GPU, without running it"


def make_parser() -> Parser:
    """Flags of the command."""
    parser = Parser(
        description="Bytes of weights, gradients, optimizer state and index, against dense AdamW; "
        "nothing is allocated."
    )
    parser.add_argument(
        "--model",
        type=str,
        default="7b",
        help="9m 20m 35m 60m 130m 350m 1b 7b, or a transformers config.json",
    )
    parser.add_argument("--density", type=float, default=0.25, help="fraction of the weights that exists")
    parser.add_argument(
        "--distribution", type=Literal["uniform", "erk"], default="uniform", help="over layers"
    )
    parser.add_argument(
        "--dtype",
        type=Literal["float32", "bfloat16", "float16", "float64"],
        default="bfloat16",
        help="of weights",
    )
    parser.add_argument(
        "--moments", type=Literal["fp32", "bf16"], default="fp32", help="format of Adam's moments"
    )
    parser.add_argument(
        "--device",
        type=Literal["a100", "h100", "h200", "rtx4090"] | None,
        default=None,
        help="a GPU: whether it fits, and lower bounds on the time of the added kernels",
    )
    parser.add_argument("--vocab", type=int | None, default=None, help="vocabulary of a named size (32,000)")
    return parser


def run(arguments: Any) -> int:
    """Print the table."""
    import smet
    from smet.llama_sizes import LLAMA_SIZES

    model = arguments.model
    if model not in LLAMA_SIZES:
        from smet.train.models import read_model_config

        model = read_model_config(model)
    try:
        table = smet.estimate(
            model,
            arguments.density,
            dtype=arguments.dtype,
            distribution=arguments.distribution,
            vocab=arguments.vocab,
            moments=arguments.moments,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    print(table)
    if arguments.device is not None:
        from smet.device_bounds import device_bounds

        print(f"\n{device_bounds(table, arguments.device)}")
    return 0
