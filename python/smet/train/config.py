# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: RUF009 (option() only makes a field)
"""The options of `smet pretrain`: one dataclass, one field per flag and per key of the YAML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["smet", "dense", "static", "set", "rigl"]


def option(group: str, help: str, default: Any = None, metavar: str | None = None) -> Any:
    """A field that is also a flag: `help` and `group` are what `smet pretrain --help` shows."""
    return dataclasses.field(default=default, metadata={"group": group, "help": help, "metavar": metavar})


@dataclass
class PretrainConfig:
    """Options of one training run. None means: what the method or the data says (see `resolve`)."""

    method: Method = option("method", "how the projections are trained", "smet")
    density: float | None = option("method", "fraction of the weights that exists (0.25; dense: 1)")
    distribution: Literal["uniform", "erk"] | None = option(
        "method", "how the budget is spread over layers (uniform)"
    )
    init_scale: Literal["fan_in"] | None = option(
        "method", "fan_in multiplies the initial sparse weights by 1 / sqrt(density)"
    )
    adam: Literal["local", "plain"] | None = option(
        "method", "bias correction by each weight's own age, or by the global step (smet: local, else plain)"
    )
    warmup: float | None = option(
        "method",
        "updates over which a regrown weight's learning rate rises; 0 = none (local: the interval, plain: 0)",
    )
    boost: float | None = option("method", "factor on the learning rate of newborn weights (1: none)")
    boost_tau: float | None = option("method", "updates over which the boost decays (50)")
    density_scaling: float | None = option(
        "method", "p of lr * density^-p in sparse layers (smet: 0.5, else 0)"
    )
    interval: int | None = option("method", "steps between topology updates (100)")
    fraction: float | None = option("method", "fraction of a layer's weights replaced at first (0.2)")
    final_fraction: float | None = option("method", "fraction replaced at the end of the schedule (0.005)")
    fraction_schedule: Literal["cosine", "constant", "linear", "wsd"] | None = option(
        "method", "how the fraction falls (cosine)"
    )
    stop: float | None = option("method", "part of the run after which the topology stands (0.75)")
    prune: Literal["magnitude", "magnitude_gradient", "random"] | None = option(
        "method", "criterion that prunes (magnitude)"
    )
    grow: Literal["random", "gradient"] | None = option("method", "criterion that grows (rigl: gradient)")

    model: str = option(
        "model", "9m 20m 35m 60m 130m 350m 1b 7b, or a transformers config.json or its folder", "9m"
    )
    vocab: int | None = option(
        "model", "vocabulary (4096, 7b: 32000, or what the tokenizer or the model's config says)"
    )
    init: Literal["dense", "sparse"] | None = option(
        "model",
        "weights at first: dense, those that a dense model keeps at active positions; sparse, drawn for each "
        "position alone, so that no dense projection is ever built (350m and larger: sparse)",
    )
    seq: int = option("model", "tokens per sequence", 256)
    dtype: Literal["float32", "bfloat16", "float64"] | None = option(
        "model", "dtype of weights and gradients (float32; 350m and larger: bfloat16)"
    )

    data: str | None = option(
        "data",
        "text file, folder of text files, token .bin, or hf:NAME; none: Python's own sources",
        None,
        "PATH",
    )
    eval_data: str | None = option("data", "held-out data, as --data; none: a part of --data", None, "PATH")
    tokenizer: str | None = option(
        "data", "a tokenizer.json; none: a byte-level BPE is trained on the data", None, "FILE"
    )
    token_dtype: Literal["uint16", "uint32"] = option(
        "data", "dtype of a token .bin without llm.c's header", "uint16"
    )
    text_column: str = option("data", "column of an hf: data set that holds the text", "text")
    max_bytes: int | None = option("data", "read at most so many bytes of training text")

    steps: int = option("training", "optimizer steps", 300)
    batch: int = option("training", "sequences per forward pass", 16)
    accumulate: int = option("training", "forward passes per step", 1)
    lr: float | None = option("training", "peak learning rate (2e-3; 1b: 1e-3, 7b: 5e-4)")
    lr_warmup: float | None = option(
        "training",
        "part of the run over which the learning rate rises, or from 1 on so many steps (0.05; 350m and "
        "larger: at least 30 steps)",
    )
    lr_final: float = option("training", "learning rate at the end, as a part of the peak", 0.1)
    weight_decay: float = option("training", "decoupled weight decay", 0.0)
    beta1: float = option("training", "decay rate of the first moment", 0.9)
    beta2: float = option("training", "decay rate of the second moment", 0.999)
    clip: float | None = option(
        "training", "largest norm of the gradient; 0 = no clipping (1; with --fused-backward 0)"
    )
    stochastic_rounding: bool | None = option(
        "training", "round bfloat16 weights at random (350m and larger: yes)"
    )
    master_weights: bool = option(
        "training",
        "keep float32 masters of bfloat16 weights, at two bytes each, and round none at random",
        False,
    )
    moments: Literal["fp32", "bf16", "8bit"] = option(
        "training", "format of Adam's moments; bf16 and 8-bit ones are rounded at random", "fp32"
    )
    fused_backward: bool = option(
        "training",
        "update each parameter during the backward pass and free its gradient; --clip then takes a second "
        "pass",
        False,
    )
    checkpoint_activations: bool = option(
        "training", "keep only the activations between blocks and compute the others again", False
    )
    on_nonfinite: Literal["raise", "skip"] = option(
        "training", "a loss or gradient that is NaN or infinite stops the run, or skips the step", "raise"
    )
    seed: int = option("training", "seed of weights, data order and topology", 0)
    device: str = option(
        "training", "cpu, cuda, cuda:N, or auto: a GPU where smet was built for one", "auto", "DEVICE"
    )
    threads: int | None = option("training", "threads of torch; none: torch's choice")

    eval_every: int = option("evaluation", "steps between evaluations; 0 = only at the end", 50)
    eval_bytes: int | None = option(
        "evaluation",
        "bytes of held-out text in an evaluation (of a .bin, a quarter as many tokens); 0 = all "
        "(262144, in short runs 4 for every token trained on)",
    )
    eval_batch: int | None = option(
        "evaluation", "sequences per forward pass of an evaluation (16; 350m and larger: --batch)"
    )
    sample_tokens: int | None = option(
        "evaluation", "tokens of the sample written at the end; 0 = none (100; 1b and 7b: 0)"
    )

    save_every: int = option(
        "checkpoints", "steps between checkpoints; 0 = only when the run is stopped by a signal", 1000
    )
    keep: int = option("checkpoints", "checkpoints kept", 2)
    resume: Literal["auto", "never"] = option(
        "checkpoints", "auto: continue the run that --out holds, bit for bit, if it holds one", "never"
    )

    out: str | None = option("output", "the run's folder; none: a new one in runs/", None, "FOLDER")
    overwrite: bool = option("output", "replace the run that --out holds", False)
    prepare: bool = option(
        "output",
        "write tokens, configuration and a checkpoint of step 0 into --out, and stop: for "
        "examples/cpp/train_llama",
        False,
    )
    print_every: int = option("output", "print one line every so many steps", 1)
    picture: bool = option("output", "draw run.png at the end", True)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in order, as saved and logged."""
        return dataclasses.asdict(self)
