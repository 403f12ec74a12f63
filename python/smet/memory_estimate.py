# SPDX-License-Identifier: BSD-3-Clause
"""Memory of a training run from a model's shape alone: nothing is built or allocated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from smet._memory import (
    DENSE_KINDS,
    KINDS,
    SPARSE_KINDS,
    dense_bytes,
    formula_bytes,
    index_bytes,
    sparse_bytes,
)
from smet._memory_peak import Decoder, Largest, Peak, Run, peak
from smet._names import Pattern
from smet._plan import SKIP, Density, Plan, make_plan
from smet._text import format_bytes, format_count, text_table
from smet.llama_sizes import LLAMA_SIZES, LlamaSize

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Estimate:
    """Bytes that persist from step to step. Print it for a table; every figure is exact."""

    model: str
    dtype: str  # of the weights
    moments: str
    master_weights: bool
    density: float  # n / positions
    layers: int  # sparse layers
    positions: int  # out * in, summed over the sparse layers
    n: int  # weights that exist in them
    dense_parameters: int  # all other parameters
    by_kind: dict[str, int] = field(repr=False)
    dense_by_kind: dict[str, int] = field(repr=False)  # all layers dense under AdamW, by the same kinds
    formula: float = field(repr=False)  # of the sparse layers: ((2w + 2m + 1) d + 0.129) * positions
    largest: Largest = field(repr=False)
    decoder: Decoder | None = field(repr=False)  # None: activations of this model are not known
    weight_bytes: int = field(repr=False)  # of one weight, the widest

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.by_kind.values())

    @property
    def dense_adamw_bytes(self) -> int:
        """All bytes when every layer is dense and trained by AdamW in the same dtypes."""
        return sum(self.dense_by_kind.values())

    @property
    def ratio(self) -> float:
        """total / dense_adamw_bytes."""
        return self.total / self.dense_adamw_bytes

    @property
    def sparse_total(self) -> int:
        """Bytes of the sparse layers alone."""
        return sum(self.by_kind[kind] for kind in SPARSE_KINDS)

    @property
    def sparse_ratio(self) -> float:
        """Bytes of the sparse layers against the same layers dense under AdamW."""
        return self.sparse_total / sum(self.dense_by_kind[kind] for kind in SPARSE_KINDS)

    def peak(self, run: Run) -> Peak | None:
        """The largest memory of a run trained so; None where the model's activations are not known."""
        if self.decoder is None:
            return None
        gradients = self.by_kind["gradients"] + self.by_kind["dense_gradients"]
        persistent = self.total - (gradients if run.fused_backward else 0)
        return peak(persistent, self.decoder, run, self.weight_bytes, self.largest)

    def __str__(self) -> str:
        """The table."""
        rows = [self._row(kind) for kind in SPARSE_KINDS]
        dense_total = sum(self.dense_by_kind[kind] for kind in SPARSE_KINDS)
        rows.append(_row("sparse layers", self.sparse_total, dense_total))
        rows += [self._row(kind) for kind in DENSE_KINDS]
        rows.append(_row("total", self.total, self.dense_adamw_bytes))
        return "\n".join(
            [
                f"{self.model}: {format_count(self.positions + self.dense_parameters)} positions, "
                f"{format_count(self.n + self.dense_parameters)} weights exist; {self.layers} layers at "
                f"density {self.density:.4g}; weights and gradients {self.dtype}, "
                f"moments {self.moments}{', master weights' if self.master_weights else ''}",
                *text_table(("", "smet", "dense AdamW", "ratio"), rows),
                f"dense {format_bytes(self.dense_adamw_bytes)} -> {format_bytes(self.total)} (weights, "
                "gradients, optimizer state, index; activations come on top)",
            ]
        )

    def _row(self, kind: str) -> list[str]:
        return _row(kind.replace("_", " "), self.by_kind[kind], self.dense_by_kind[kind])


def estimate(
    model: str | LlamaSize | Mapping[str, Any] | nn.Module | Any,
    density: Density = 0.25,
    *,
    dtype: str | torch.dtype | None = None,
    distribution: str = "uniform",
    include: Pattern | Iterable[Pattern] | None = None,
    skip: Pattern | Iterable[Pattern] = SKIP,
    vocab: int | None = None,
    moments: str = "fp32",
    master_weights: bool = False,
) -> Estimate:
    """Bytes that training `model` sparsely keeps from step to step, against dense AdamW in the same dtypes.

    Args:
        model: a size of the paper ("9m" ... "7b"), a LlamaSize, a transformers configuration (the object, or
            a mapping of its fields with model_type), or a module (on the meta device it costs nothing).
        density, distribution, include, skip: as in `sparsify_`.
        dtype: of weights and gradients; None = the module's own, float32 for a size.
        vocab: vocabulary of a named size; None = 32,000.
        moments: as in CompactAdamW, "fp32", "bf16" or "8bit" (float64 weights have float64 ones).
        master_weights: as in CompactAdamW; 2 more bytes for each bfloat16 weight, counted with the moments.

    Raises what `sparsify_` raises, ValueError for an unknown size, dtype or format of moments, and TypeError
    for anything else that is no model. Only configurations import transformers.
    """
    weight_dtype = None if dtype is None else _dtype(dtype)
    if moments not in ("fp32", "bf16", "8bit"):
        raise ValueError(f'unknown moments {moments!r}; expected "fp32", "bf16" or "8bit"')
    label, module = _on_meta(model, vocab)
    plan = make_plan(module, density, distribution=distribution, include=include, skip=skip)
    return _estimate(label, module, plan, weight_dtype, moments, master_weights)


def _estimate(
    label: str,
    module: nn.Module,
    plan: Plan,
    dtype: torch.dtype | None,
    moments: str,
    master_weights: bool,
) -> Estimate:
    by_kind, dense_by_kind = Counter(dict.fromkeys(KINDS, 0)), Counter(dict.fromkeys(KINDS, 0))
    formula, dtypes = 0.0, set()
    sparse = set()
    for layer in plan.layers:
        weight = layer.module.weight
        assert isinstance(weight, torch.Tensor)
        sparse.add(id(weight))
        weight_dtype = dtype or weight.dtype
        dtypes.add(str(weight_dtype).removeprefix("torch."))
        positions = layer.out_features * layer.in_features
        trained = weight.requires_grad
        shape = (layer.out_features, layer.in_features)
        by_kind.update(sparse_bytes(*shape, layer.n, weight_dtype, trained, moments, master_weights))
        full = dense_bytes(shape, weight_dtype, trained, moments, master_weights)
        dense_by_kind.update({kind.removeprefix("dense_"): count for kind, count in full.items()})
        formula += formula_bytes(positions, layer.n, weight_dtype, trained, moments, master_weights)
    dense_parameters, largest_dense = 0, 0
    for parameter in module.parameters():
        if id(parameter) in sparse:
            continue
        largest_dense = max(largest_dense, parameter.numel())
        dense_parameters += parameter.numel()
        other = parameter.dtype if dtype is None or not parameter.is_floating_point() else dtype
        counts = dense_bytes(parameter.shape, other, parameter.requires_grad, moments, master_weights)
        by_kind.update(counts)
        dense_by_kind.update(counts)
    n, positions = sum(layer.n for layer in plan.layers), plan.positions
    decoder = _decoder(module)
    itemsize = max(_itemsize(parameter, dtype) for parameter in module.parameters())
    widest = max(layer.n for layer in plan.layers)
    return Estimate(
        model=label,
        dtype=", ".join(sorted(dtypes)),
        moments=moments,
        master_weights=master_weights,
        density=n / positions,
        layers=len(plan.layers),
        positions=positions,
        n=n,
        dense_parameters=dense_parameters,
        by_kind=dict(by_kind),
        dense_by_kind=dict(dense_by_kind),
        formula=formula,
        largest=Largest(
            weights=widest,
            gradient=max(widest, largest_dense) * itemsize,
            head_gradient=decoder.vocab * decoder.hidden * itemsize if decoder else 0,
            masks=sum(index_bytes(layer.out_features, layer.in_features) for layer in plan.layers),
        ),
        decoder=decoder,
        weight_bytes=itemsize,
    )


def _itemsize(parameter: nn.Parameter, dtype: torch.dtype | None) -> int:
    return parameter.itemsize if dtype is None or not parameter.is_floating_point() else dtype.itemsize


def _decoder(module: nn.Module) -> Decoder | None:
    """The shape that activations follow from, of a named size or of a LLaMA of transformers."""
    size = getattr(module, "size", None)
    if isinstance(size, LlamaSize):
        return Decoder(size.hidden, size.intermediate, size.heads, size.layers, size.vocab)
    config = getattr(module, "config", None)
    if getattr(config, "model_type", None) != "llama":
        return None
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    return Decoder(*(int(getattr(config, name)) for name in names))


def _on_meta(model: Any, vocab: int | None) -> tuple[str, nn.Module]:
    """A label, and a module that holds the shapes."""
    if isinstance(model, str):
        if model not in LLAMA_SIZES:
            raise ValueError(f"unknown model size {model!r}; there are {', '.join(LLAMA_SIZES)}")
        label, model = f"LLaMA {model}", LLAMA_SIZES[model]
    else:
        label = type(model).__name__
    if isinstance(model, LlamaSize):
        return label, _skeleton(replace(model, vocab=vocab or model.vocab))
    if vocab is not None:
        raise ValueError("vocab= goes with a named size; a configuration or a module has its own")
    if isinstance(model, nn.Module):
        return label, model
    return label, _of_config(model)


def _skeleton(size: LlamaSize) -> nn.Module:
    """The layers that hold parameters, on the meta device, under the names that transformers uses."""
    with torch.device("meta"):
        model = nn.Module()
        model.__dict__["size"] = size  # for _decoder; not a module's tensor or child
        model.model = nn.Module()
        model.model.embed_tokens = nn.Embedding(size.vocab, size.hidden)
        model.model.layers = nn.ModuleList(_block(size) for _ in range(size.layers))
        model.model.norm = nn.RMSNorm(size.hidden)
        model.lm_head = nn.Linear(size.hidden, size.vocab, bias=False)
    return model


def _block(size: LlamaSize) -> nn.Module:
    def linear(in_features: int, out_features: int) -> nn.Linear:
        return nn.Linear(in_features, out_features, bias=False)

    block = nn.Module()
    block.self_attn = nn.ModuleDict({f"{x}_proj": linear(size.hidden, size.hidden) for x in "qkvo"})
    block.mlp = nn.ModuleDict(
        {
            "gate_proj": linear(size.hidden, size.intermediate),
            "up_proj": linear(size.hidden, size.intermediate),
            "down_proj": linear(size.intermediate, size.hidden),
        }
    )
    block.input_layernorm = nn.RMSNorm(size.hidden)
    block.post_attention_layernorm = nn.RMSNorm(size.hidden)
    return block


def _of_config(config: Any) -> nn.Module:
    if not isinstance(config, Mapping) and not hasattr(config, "model_type"):
        raise TypeError(
            f"expected a model size, a transformers configuration or a module; got {type(config).__name__}"
        )
    import transformers

    if isinstance(config, Mapping):
        fields = dict(config)
        if "model_type" not in fields:
            raise ValueError("a mapping of configuration fields needs 'model_type', such as 'llama'")
        config = transformers.AutoConfig.for_model(**fields)
    causal, other = transformers.AutoModelForCausalLM, transformers.AutoModel
    with torch.device("meta"):
        try:
            model: nn.Module = causal.from_config(config)  # type: ignore[no-untyped-call]
        except ValueError:  # not a causal language model
            model = other.from_config(config)  # type: ignore[no-untyped-call]
    return model


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; there are {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if dtype not in _DTYPES.values():
        raise ValueError(f"weights of dtype {dtype} are not trained; expected one of {', '.join(_DTYPES)}")
    return dtype


def _row(name: str, packed: int, dense: int) -> list[str]:
    ratio = f"{packed / dense:.3f}" if dense else ""
    return [name, format_bytes(packed), format_bytes(dense), ratio]
