# SPDX-License-Identifier: BSD-3-Clause
"""The largest memory of a training run: what persists, and beside it the costliest moment of a step.

For LLaMA-like decoders of transformers (RMSNorm, attention by scaled_dot_product_attention, gated MLP) and
`smet.train`. T = batch * seq tokens, H hidden, I intermediate, L blocks, a heads, V classes, w bytes per
weight. A block keeps for its backward pass, per token

    two norms      2 * (4 H + 2 w H) for w < 4: a float32 copy, the normalised and the scaled; 6 w H for w = 4
    attention      4 w H: q, k, v and the output (the projections' input is the norm's); 4 a
    MLP            4 w I: gate, its activation, up, their product

and with activation checkpointing only one block does, the others keep their input, w H. Sparse layers save
their input alone: the packed copy is made again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smet._text import format_bytes

# Python, torch and transformers, a tokenizer and its text; measured with torch 2.15 (built for CUDA, used on
# a CPU), after process_memory.release. On a GPU, not measured: its context and the libraries' workspaces.
START_BYTES = {"cpu": 0.60e9, "gpu": 0.6e9}
KEPT_SCRATCH = 256 << 20  # of tile_spmm (kernels/cpu/scratch.h)
SLICE_BYTES = 32 << 20  # of linear_cross_entropy
PLAN_BYTES = 64 << 20  # of a topology update (src/topology/engine.cpp)
_TILE_TOKENS = 256  # packed at a time in a backward pass


@dataclass(frozen=True)
class Decoder:
    """Shape of a LLaMA-like model."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    vocab: int


@dataclass(frozen=True)
class Run:
    """How it is trained."""

    batch: int = 1
    seq: int = 256
    checkpoint_activations: bool = False
    fused_backward: bool = False
    device: str = "cpu"  # or "gpu"


@dataclass(frozen=True)
class Peak:
    """Bytes of the costliest moment, by what they are for."""

    moment: str
    parts: dict[str, float] = field(repr=False)

    @property
    def total(self) -> int:
        """All of them."""
        return round(sum(self.parts.values()))

    def __str__(self) -> str:
        """'peak 11.2 GB, at the loss: process 600 MB, state ...'."""
        parts = ", ".join(f"{name} {format_bytes(count)}" for name, count in self.parts.items() if count)
        return f"peak {format_bytes(self.total)}, at {self.moment}: {parts}"


@dataclass(frozen=True)
class Largest:
    """Of the sparse layers, or of the whole model."""

    weights: int  # n of the largest sparse layer
    gradient: int  # bytes of the largest gradient of one parameter
    head_gradient: int
    masks: int  # bytes of all masks together


def peak(persistent: int, model: Decoder, run: Run, item: int, largest: Largest) -> Peak:
    """The costliest moment of a run that keeps `persistent` bytes from step to step; `item`: w."""
    tokens = run.batch * run.seq
    kept, block = activations(model, run, item)
    hidden = tokens * model.hidden
    one_gradient = largest.gradient if run.fused_backward else 0
    head_gradient = largest.head_gradient if run.fused_backward else 0
    moments = {
        "the loss": {
            "activations": kept + hidden * (8 + 3 * item),
            "logits": SLICE_BYTES,
            "one gradient": head_gradient,
        },
        "a block's backward pass": {
            "activations": kept + block + tokens * item * 3 * (model.intermediate + model.hidden),
            "one gradient": largest.weights * item if run.fused_backward else 0,
        },
        "the first layer's gradient": {"activations": 2 * hidden * item, "one gradient": one_gradient},
        "a topology update": {
            "new masks": min(PLAN_BYTES, largest.masks),
            "re-laying out": 4 * largest.weights,
        },
    }
    name, parts = max(moments.items(), key=lambda moment: sum(moment[1].values()))
    return Peak(
        name,
        {
            "process": START_BYTES[run.device],
            "state": persistent,
            **parts,
            "scratch": scratch(model, run, item, largest.weights),
        },
    )


def activations(model: Decoder, run: Run, item: int) -> tuple[int, int]:
    """(kept until the last block's backward pass begins, of one block while it runs), in bytes."""
    wide = 8 * model.hidden if item < 4 else 2 * item * model.hidden  # float32 copies of the two norms
    token = wide + 8 * item * model.hidden + 4 * model.heads + 4 * item * model.intermediate
    tokens = run.batch * run.seq
    if run.checkpoint_activations:
        return model.layers * tokens * model.hidden * item, tokens * token
    return model.layers * tokens * token, 0


def scratch(model: Decoder, run: Run, item: int, weights: int) -> int:
    """Of the sparse layers. CPU: decoded weights of both orders, their gradient in float32, packed tokens,
    for layers of two sizes. GPU: W and dW of the largest layer, expanded."""
    if run.device == "gpu":
        return 2 * model.hidden * model.intermediate * item
    decoded = weights * (4 + 2 + 2 + (4 if item < 4 else 0))
    packed = 4 * min(run.batch * run.seq, _TILE_TOKENS) * (model.hidden + model.intermediate)
    return min(KEPT_SCRATCH, 2 * (decoded + packed))
