# SPDX-License-Identifier: BSD-3-Clause
"""`smet export`."""

from __future__ import annotations

from typing import Any, Literal

from smet.cli.parser import Parser
from smet.train.errors import ConfigError

HELP = "write a trained model for other programs"


def make_parser() -> Parser:
    """Flags of the command."""
    parser = Parser(
        description="Write a trained model as a dense transformers checkpoint (hf), or its sparse layers as "
        "CSR matrices in safetensors (csr: NAME.values, NAME.crow_indices, NAME.col_indices)."
    )
    parser.add_argument(
        "--run", type=str, required=True, metavar="FOLDER", help="folder of `smet pretrain`, or a checkpoint"
    )
    parser.add_argument(
        "--to", type=Literal["hf", "csr"], default="hf", metavar="{hf,csr}", help="the format"
    )
    parser.add_argument("--out", type=str, required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--config", type=str, metavar="FILE", help="the model's config.json, where RUN/model has none"
    )
    parser.add_argument("--max-shard-size", type=str, default="5GB", metavar="SIZE", help="of one file")
    return parser


def run(arguments: Any) -> int:
    """Export, and say where to."""
    from smet.checkpoint import CheckpointError
    from smet.export import ExportError, export_csr, export_hf

    export = export_hf if arguments.to == "hf" else export_csr
    options = {"config": arguments.config, "max_shard_size": arguments.max_shard_size}
    try:
        folder = export(arguments.run, arguments.out, **options)
    except (ExportError, CheckpointError) as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"--out {arguments.out}: {error}") from error
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0
