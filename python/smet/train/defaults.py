# SPDX-License-Identifier: BSD-3-Clause
"""What --model says of the options that nobody gave."""

from __future__ import annotations

from typing import Any

from smet.train.config import PretrainConfig

_SMALL: dict[str, Any] = {
    "init": "dense",
    "dtype": "float32",
    "stochastic_rounding": False,
    "lr": 2e-3,
    "sample_tokens": 100,
}
# Built without a dense copy, in two bytes a weight, of which updates below half an ulp are not lost.
_LARGE = _SMALL | {"init": "sparse", "dtype": "bfloat16", "stochastic_rounding": True}
# A token of a sample costs a pass over all weights: seconds on a CPU.
_BY_MODEL: dict[str, dict[str, Any]] = {
    "350m": _LARGE,
    "1b": _LARGE | {"lr": 1e-3, "sample_tokens": 0},
    "7b": _LARGE | {"lr": 5e-4, "sample_tokens": 0, "vocab": 32_000},
}
_EVAL_BYTES = 262144
_EVAL_BATCH = 16
_LR_WARMUP = 0.05
# Adam's first steps move all weights by the same size; those of a wide layer add up, and the loss would rise.
_FEWEST_WARMUP_STEPS = 30


def of_model(config: PretrainConfig, sparse: bool) -> dict[str, Any]:
    """The options that are None in `config` and follow from others; `sparse`: the projections are."""
    values = dict(_BY_MODEL.get(config.model, _SMALL))
    if not sparse:
        values["init"] = "dense"
    if config.master_weights or (config.dtype or values["dtype"]) != "bfloat16":
        values["stochastic_rounding"] = False
    if config.tokenizer is not None or str(config.data).endswith(".bin"):  # these say it
        values.pop("vocab", None)
    values["lr_warmup"] = _LR_WARMUP
    if config.model in _BY_MODEL and _LR_WARMUP * config.steps < _FEWEST_WARMUP_STEPS:
        values["lr_warmup"] = float(_FEWEST_WARMUP_STEPS)
    values["eval_batch"] = min(_EVAL_BATCH, config.batch) if config.model in _BY_MODEL else _EVAL_BATCH
    # Clipping by the norm of all gradients needs all of them before the first update: a second pass.
    values["clip"] = 0.0 if config.fused_backward else 1.0
    trained = config.steps * config.batch * config.accumulate * config.seq
    values["eval_bytes"] = min(_EVAL_BYTES, 4 * trained)
    return {field: value for field, value in values.items() if getattr(config, field) is None}


def note(given: PretrainConfig, resolved: PretrainConfig) -> str | None:
    """What a large model's run chose by itself, as flags; None for other runs, whose --help says it all."""
    if resolved.model not in _BY_MODEL and not resolved.fused_backward:
        return None
    fields = (
        *("dtype", "stochastic_rounding", "init", "lr", "lr_warmup", "clip", "vocab", "eval_batch"),
        "sample_tokens",
    )
    chosen = [
        f"{_flag(field)} {getattr(resolved, field)}"
        for field in fields
        if getattr(given, field) is None and getattr(resolved, field) is not None
    ]
    return f"chosen for {resolved.model}: {', '.join(chosen)}" if chosen else None


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")
