# SPDX-License-Identifier: BSD-3-Clause
"""`smet bench`: layer, optimizer, topology and step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from smet.bench.goals import DENSITIES, SHAPES
from smet.cli.parser import Parser
from smet.llama_sizes import LLAMA_SIZES
from smet.train.errors import ConfigError

if TYPE_CHECKING:
    from smet.bench.rows import Row

HELP = "time of sparse over dense, measured in turn"
_SHAPES = [f"{out_features}x{in_features}" for out_features, in_features in SHAPES]


def make_parser() -> Parser:
    """Without its tables: see add_tables."""
    return Parser(
        description="Sparse and dense run in turn in one process. Milliseconds are minima of all rounds, a "
        "ratio is the median of the rounds' own. A goal stands beside every figure that has one."
    )


def add_tables(parser: Parser) -> None:
    """One command for each table, once `parser` is a command itself."""
    commands = parser.add_subcommands(required=True, dest="table")
    for name, (make, _) in _TABLES.items():
        command = make()
        commands.add_subcommand(name, command, help=command.description)
        command.prog = f"smet bench {name}"


def run(arguments: Any) -> int:
    """Measure, print the table and write what was asked for."""
    options = arguments[arguments.table]
    _check(options)
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    from smet.bench.machine import this_machine
    from smet.bench.rows import write_rows

    torch.manual_seed(0)
    print(this_machine(), flush=True)
    _, measure = _TABLES[arguments.table]
    rows = measure(options)
    rounds = min((row.rounds for row in rows), default=0)
    print(f"at least {rounds} rounds; ratio: the median of theirs, sparse over dense")
    if options.json:
        write_rows(rows, this_machine(), Path(options.json))
    return 0


def _layer_parser() -> Parser:
    parser = Parser(description="SparseLinear against nn.Linear")
    _add(parser, "--shapes", list[str], _SHAPES, "out x in, such as 2048x768", "SHAPE")
    _add(parser, "--densities", list[float], list(DENSITIES), "fractions of the weights that exist", "X")
    _add(parser, "--tokens", list[int], [512], "rows of the input", "N")
    ops = list[Literal["layer", "forward", "backward_input", "backward_values"]]
    _add(parser, "--ops", ops, ["layer"], "layer (forward + backward), or its parts", "OP")
    _add(parser, "--algorithms", list[str], ["auto"], "rows of the algorithm table, or auto", "NAME")
    _add(parser, "--picture", str | None, None, "draw the table into this file", "FILE")
    return _common(parser, rounds=40, peers="sparseprop and torch CSR too, where installed")


def _layer(options: Any) -> list[Row]:
    from smet._text import text_table
    from smet.bench.layer import measure_layers, medians
    from smet.bench.machine import this_machine
    from smet.bench.peers import missing_peers
    from smet.bench.rows import table

    _check_algorithms(options.algorithms)
    if options.peers:
        for name in missing_peers():
            print(f"note: {name} is not installed, so it is not measured; pip install {name}")
    shapes = [_shape(text) for text in options.shapes]
    rows = measure_layers(
        shapes,
        options.densities,
        options.tokens,
        options.ops,
        options.algorithms,
        options.rounds,
        options.peers,
    )
    print(table(rows))
    print("\nmedian over shapes")
    print(
        "\n".join(text_table(("op", "tokens", "density", "algorithm", "ratio", "goal", ""), medians(rows), 4))
    )
    if options.picture:
        from smet.bench.picture import draw_layers

        draw_layers(rows, this_machine(), Path(options.picture))
        print(f"picture: {options.picture}")
    return rows


def _optimizer_parser() -> Parser:
    parser = Parser(description="CompactAdamW per active weight against torch's fused AdamW per weight")
    _add(parser, "--weights", list[int], [1_000_000, 10_000_000], "active weights", "N")
    _add(parser, "--layers", int, 24, "layers they are spread over", "N")
    _add(parser, "--dtypes", list[Literal["float32", "bfloat16"]], ["float32"], "of weights", "DTYPE")
    return _common(
        parser, rounds=20, peers="torch's foreach AdamW too, and bitsandbytes' 8-bit one where installed"
    )


def _optimizer(options: Any) -> list[Row]:
    import torch

    from smet.bench.optimizer import measure_optimizer
    from smet.bench.rows import table

    if min(options.weights) < options.layers:
        raise ConfigError(f"--weights {min(options.weights)} are fewer than the {options.layers} --layers")
    rows: list[Row] = []
    for dtype in options.dtypes:
        for weights in options.weights:
            print(f"\n{weights:,} weights in {options.layers} layers, {dtype}; dense is torch's fused AdamW")
            found = measure_optimizer(
                weights, options.layers, getattr(torch, dtype), options.rounds, options.peers
            )
            print(table(found), flush=True)
            rows += found
    return rows


def _topology_parser() -> Parser:
    parser = Parser(description="one topology update against that of a masked dense layer")
    _add(parser, "--shape", str, "5000x8000", "out x in of the layer", "SHAPE")
    _add(parser, "--density", float, 0.25, "fraction of the weights that exists", "X")
    return _common(parser, rounds=7)


def _topology(options: Any) -> list[Row]:
    from smet.bench.rows import table
    from smet.bench.topology import measure_topology

    rows = measure_topology(*_shape(options.shape), options.density, options.rounds)
    print(table(rows))
    return rows


def _step_parser() -> Parser:
    parser = Parser(description="a whole training step, split into its parts")
    _add(parser, "--model", str, "60m", f"{' '.join(LLAMA_SIZES)}, or a transformers config.json", "NAME")
    _add(parser, "--density", list[float], [0.25, 0.1], "fractions of the weights that exist", "X")
    _add(parser, "--algorithm", str, "auto", "row of the algorithm table, or auto", "NAME")
    _add(parser, "--batch", int, 8, "sequences", "N")
    _add(parser, "--seq", int, 256, "tokens of a sequence", "N")
    _add(parser, "--vocab", int, 4096, "vocabulary of a named size", "N")
    return _common(parser, rounds=7)


def _step(options: Any) -> list[Row]:
    from smet.bench.rows import table
    from smet.bench.step import measure_step
    from smet.train.config import PretrainConfig
    from smet.train.models import build_model, describe, load_model_config

    _check_algorithms([options.algorithm])
    config = PretrainConfig(model=options.model, seq=options.seq)
    model = build_model(config, options.vocab, load_model_config(config))
    print(
        f"{describe(model)}, {options.batch} x {options.seq} tokens; dense is trained by torch's fused AdamW"
    )
    rows = measure_step(model, options.density, options.algorithm, options.batch, options.seq, options.rounds)
    print(table(rows))
    return rows


_TABLES: dict[str, tuple[Any, Any]] = {
    "layer": (_layer_parser, _layer),
    "optimizer": (_optimizer_parser, _optimizer),
    "topology": (_topology_parser, _topology),
    "step": (_step_parser, _step),
}


def _add(parser: Parser, flag: str, kind: Any, default: Any, text: str, metavar: str) -> None:
    """A flag; one of list[...] takes several values: --tokens 256 512."""
    options = {"nargs": "+", "type": get_args(kind)[0]} if isinstance(default, list) else {"type": kind}
    parser.add_argument(flag, default=default, help=text, metavar=metavar, **options)


def _common(parser: Parser, rounds: int, peers: str | None = None) -> Parser:
    _add(parser, "--rounds", int, rounds, "at least so many rounds", "N")
    _add(parser, "--threads", int | None, None, "threads of torch; none: torch's choice", "N")
    _add(parser, "--json", str | None, None, "write the rows as a JSON list", "FILE")
    if peers:
        parser.add_argument("--peers", action="store_true", help=peers)
    return parser


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ConfigError(f"'{text}' is no shape; expected out x in, such as 2048x768")
    return int(found[1]), int(found[2])


def _check(options: Any) -> None:
    """Everything that needs no torch."""
    for field in ("rounds", "threads", "tokens", "weights", "layers", "batch", "seq"):
        value = options.get(field)
        smallest = min(value, default=0) if isinstance(value, list) else value
        if smallest is not None and smallest < (2 if field == "seq" else 1):
            raise ConfigError(f"--{field} is {value}; expected at least {2 if field == 'seq' else 1}")
    for field in ("densities", "density"):
        value = options.get(field)
        for density in value if isinstance(value, list) else [] if value is None else [value]:
            if not 0 < density <= 1:
                raise ConfigError(f"--{field} is {density}; expected 0 < density <= 1")
    for text in [*(options.get("shapes") or []), *filter(None, [options.get("shape")])]:
        _shape(text)
    for field in ("json", "picture"):
        path = options.get(field)
        if path is not None and not Path(path).parent.is_dir():
            raise ConfigError(f"--{field} {path}: there is no folder {Path(path).parent}")


def _check_algorithms(names: list[str]) -> None:
    from smet import _C

    known = ["auto", *_C.algorithm_names("cpu")]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no algorithm '{name}'; expected one of {', '.join(known)}")
