# SPDX-License-Identifier: BSD-3-Clause
"""What each method means, and which options go together. Nothing here reads data or needs torch."""

from __future__ import annotations

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Any

from smet.llama_sizes import LLAMA_SIZES
from smet.train import defaults
from smet.train.config import PretrainConfig
from smet.train.errors import ConfigError

_SPARSE: dict[str, Any] = {
    "density": 0.25,
    "distribution": "uniform",
    "density_scaling": 0.0,
    "adam": "plain",
}
_DYNAMIC: dict[str, Any] = _SPARSE | {
    "boost": 1.0,
    "interval": 100,
    "fraction": 0.2,
    "final_fraction": 0.005,
    "fraction_schedule": "cosine",
    "stop": 0.75,
    "prune": "magnitude",
    "grow": "random",
}

# The lines of the paper's Fig. 1. "Without warm-up" and "without density scaling" are smet with --warmup 0
# and --density-scaling 0.
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"density": 1.0, "adam": "plain"},
    "static": _SPARSE,
    "set": _DYNAMIC,
    "rigl": _DYNAMIC | {"grow": "gradient"},
    "smet": _DYNAMIC | {"adam": "local", "density_scaling": 0.5},
}

_SPARSE_ONLY = ("distribution", "init_scale", "density_scaling")
_DYNAMIC_ONLY = (
    *("warmup", "boost", "boost_tau", "interval", "fraction", "final_fraction", "fraction_schedule"),
    *("stop", "prune", "grow"),
)


def resolve(config: PretrainConfig) -> PretrainConfig:
    """`config` with the method's values where none were given; raises ConfigError before any data is read.

    The result resolves to itself, so that a run's config.yaml makes the same run again.
    """
    _check_together(config)
    preset = METHODS[config.method]
    chosen = {key: value for key, value in preset.items() if getattr(config, key) is None}
    result = dataclasses.replace(config, **chosen)
    if is_dynamic(result):
        if result.warmup is None:
            result.warmup = result.interval if result.adam == "local" else 0
        if result.boost != 1 and result.boost_tau is None:
            result.boost_tau = 50.0
        if config.final_fraction is None and result.fraction is not None:
            result.final_fraction = min(preset["final_fraction"], result.fraction)
    result = dataclasses.replace(result, **defaults.of_model(result, is_sparse(result)))
    _check_ranges(result)
    _check_model(result)
    return result


def is_sparse(config: PretrainConfig) -> bool:
    """Whether the projections are sparse layers."""
    return config.method != "dense"


def is_dynamic(config: PretrainConfig) -> bool:
    """Whether the topology changes during the run."""
    return config.method not in ("dense", "static")


def flag(field: str) -> str:
    """'eval_data' -> '--eval-data'."""
    return "--" + field.replace("_", "-")


def _check_together(config: PretrainConfig) -> None:
    if config.method == "dense" and config.density not in (None, 1.0):
        raise ConfigError(
            f"--method dense has density 1, but --density is {config.density}; choose --method smet or static"
        )
    for fields, fits, methods in (
        (_SPARSE_ONLY, is_sparse(config), "smet, static, set or rigl"),
        (_DYNAMIC_ONLY, is_dynamic(config), "smet, set or rigl"),
    ):
        given = [field for field in fields if getattr(config, field) is not None]
        if given and not fits:
            raise ConfigError(
                f"{flag(given[0])} has no meaning with --method {config.method}; "
                f"it goes with --method {methods}"
            )
    if config.boost_tau is not None and config.boost in (None, 1.0):
        raise ConfigError("--boost-tau needs a --boost other than 1")
    if config.eval_data is not None and config.data is None:
        raise ConfigError("--eval-data needs --data")
    if config.tokenizer is not None and config.vocab is not None:
        raise ConfigError("--vocab and --tokenizer both say the vocabulary; leave one out")
    if config.max_bytes is not None and str(config.data).endswith(".bin"):
        raise ConfigError("--max-bytes limits text; a token .bin is read as it is needed")
    if config.init == "sparse" and not is_sparse(config):
        raise ConfigError("--init sparse has no meaning with --method dense")
    if config.fused_backward and config.accumulate > 1:
        raise ConfigError(
            f"--fused-backward updates in every backward pass, but --accumulate is {config.accumulate}; "
            "use a larger --batch with --checkpoint-activations, or leave one out"
        )
    if config.fused_backward and config.prune == "magnitude_gradient":
        raise ConfigError(
            "--prune magnitude_gradient needs gradients, which --fused-backward frees before the topology is "
            "updated; leave one out"
        )
    if config.fused_backward and config.on_nonfinite == "skip" and config.clip == 0:
        raise ConfigError(
            "--on-nonfinite skip needs all gradients before the first update; with --fused-backward only "
            "clipping looks at them first: give a --clip above 0, or leave one out"
        )
    if config.overwrite and config.out is None:
        raise ConfigError("--overwrite needs --out")
    if config.prepare and (config.out is None or config.resume == "auto"):
        raise ConfigError("--prepare needs --out, the folder to write, and nothing to resume")
    if config.resume == "auto" and config.out is None:
        raise ConfigError("--resume auto needs --out, the folder of the run to continue")
    if config.resume == "auto" and config.overwrite:
        raise ConfigError("--overwrite replaces the run that --resume auto would continue; leave one out")


def _check_ranges(config: PretrainConfig) -> None:
    if config.stochastic_rounding and config.dtype != "bfloat16":
        raise ConfigError("--stochastic-rounding needs --dtype bfloat16")
    if config.master_weights and config.dtype != "bfloat16":
        raise ConfigError("--master-weights needs --dtype bfloat16")
    if config.master_weights and config.stochastic_rounding:
        raise ConfigError("--master-weights leaves nothing for --stochastic-rounding to round; leave one out")

    def need(field: str, holds: bool, expected: str) -> None:
        value = getattr(config, field)
        if value is not None and not (holds and math.isfinite(value)):
            raise ConfigError(f"{flag(field)} is {value}; expected {expected}")

    def within(field: str, low: float, high: float = math.inf, open_low: bool = False) -> None:
        value = getattr(config, field)
        fits = value is not None and (low < value if open_low else low <= value) and value <= high
        if high == math.inf:
            expected = f"a number {'above' if open_low else 'of at least'} {low:g}"
        else:
            expected = f"a number in {'(' if open_low else '['}{low:g}, {high:g}]"
        need(field, fits, expected)

    for field in ("density", "fraction"):
        within(field, 0, 1, open_low=True)
    within("stop", 0, 1)
    within("lr_final", 0, 1)
    within("lr_warmup", 0)
    for field in ("warmup", "density_scaling", "weight_decay", "clip", "eval_every", "eval_bytes", "seed"):
        within(field, 0)
    within("sample_tokens", 0)
    within("save_every", 0)
    within("boost", 0)
    for field in ("boost_tau", "lr"):
        within(field, 0, open_low=True)
    for field in (
        "interval",
        "steps",
        "batch",
        "accumulate",
        "eval_batch",
        "print_every",
        "threads",
        "max_bytes",
        "keep",
    ):
        within(field, 1)
    within("seq", 2)
    within("vocab", 257)  # 256 bytes and <|endoftext|>
    need("final_fraction", 0 <= (config.final_fraction or 0) <= (config.fraction or 1), "0 to --fraction")
    for field in ("beta1", "beta2"):
        need(field, 0 <= getattr(config, field) < 1, "a number in [0, 1)")


def _check_model(config: PretrainConfig) -> None:
    if config.model in LLAMA_SIZES or Path(config.model).exists():
        return
    near = difflib.get_close_matches(config.model, LLAMA_SIZES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"--model {config.model} is neither a size ({' '.join(LLAMA_SIZES)}) nor a file or folder{hint}"
    )
