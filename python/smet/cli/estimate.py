# SPDX-License-Identifier: BSD-3-Clause
"""`smet estimate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ActionYesNo

from smet.cli.parser import Parser
from smet.train.errors import ConfigError

if TYPE_CHECKING:
    from smet._memory_peak import Run
    from smet.memory_estimate import Estimate

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
        "--moments", type=Literal["fp32", "bf16", "8bit"], default="fp32", help="format of Adam's moments"
    )
    parser.add_argument(
        "--master-weights",
        action=ActionYesNo(yes_prefix="", no_prefix="no-"),
        default=False,
        help="float32 masters of bfloat16 weights, two bytes more for each",
    )
    parser.add_argument(
        "--device",
        type=Literal["a100", "h100", "h200", "rtx4090"] | None,
        default=None,
        help="a GPU: whether it fits, and lower bounds on the time of the added kernels",
    )
    parser.add_argument("--vocab", type=int | None, default=None, help="vocabulary of a named size (32,000)")
    group = parser.add_argument_group("peak of a run of smet pretrain with")
    group.add_argument("--batch", type=int, default=1, help="sequences per forward pass")
    group.add_argument("--seq", type=int, default=256, help="tokens per sequence")
    for flag in ("--checkpoint-activations", "--fused-backward"):
        group.add_argument(flag, action=ActionYesNo(yes_prefix="", no_prefix="no-"), default=False)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--compare",
        action=ActionYesNo(yes_prefix="", no_prefix="no-"),
        default=False,
        help="a named size at densities .5 .25 .1 .05 against dense AdamW, 8-bit Adam and GaLore",
    )
    group.add_argument("--picture", type=str | None, default=None, metavar="FILE", help="draw the comparison")
    return parser


_COMPARED = (0.5, 0.25, 0.1, 0.05)


def run(arguments: Any) -> int:
    """Print the tables."""
    from smet._memory_peak import Run
    from smet.llama_sizes import LLAMA_SIZES

    if min(arguments.batch, arguments.seq) < 1:
        raise ConfigError(f"--batch {arguments.batch} --seq {arguments.seq}: expected at least 1 of each")
    how = Run(
        batch=arguments.batch,
        seq=arguments.seq,
        checkpoint_activations=arguments.checkpoint_activations,
        fused_backward=arguments.fused_backward or arguments.compare,
        device="gpu" if arguments.device else "cpu",
    )
    if arguments.compare or arguments.picture:
        if arguments.model not in LLAMA_SIZES:
            raise ConfigError(f"--compare goes with a named size: {' '.join(LLAMA_SIZES)}")
        _compare(arguments, how)
        return 0
    table = _estimate(arguments, arguments.density)
    print(table)
    if peak := table.peak(how):
        print(f"\n{peak}")
    if arguments.device is not None:
        from smet.device_bounds import device_bounds

        print(f"\n{device_bounds(table, arguments.device, peak)}")
    return 0


def _estimate(arguments: Any, density: float) -> Estimate:
    import smet
    from smet.llama_sizes import LLAMA_SIZES

    model = arguments.model
    if model not in LLAMA_SIZES:
        from smet.train.models import read_model_config

        model = read_model_config(model)
    try:
        return smet.estimate(
            model,
            density,
            dtype=arguments.dtype,
            distribution=arguments.distribution,
            vocab=arguments.vocab,
            moments=arguments.moments,
            master_weights=arguments.master_weights,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _compare(arguments: Any, how: Run) -> None:
    from smet.llama_sizes import LLAMA_SIZES
    from smet.memory_comparison import comparison, comparison_table, draw_comparison

    size = LLAMA_SIZES[arguments.model]
    if arguments.vocab is not None:
        size = replace(size, vocab=arguments.vocab)
    estimates = [_estimate(arguments, density) for density in _COMPARED]
    rows = comparison(size, estimates)
    print(comparison_table(rows, estimates, how))
    if arguments.picture:
        title = f"LLaMA {arguments.model}, bfloat16 weights and gradients, vocabulary {size.vocab:,}"
        draw_comparison(rows, title, Path(arguments.picture))
        print(f"picture: {arguments.picture}")
