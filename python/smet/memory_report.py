# SPDX-License-Identifier: BSD-3-Clause
"""Measured bytes of a training run against dense AdamW: what is allocated, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smet._memory import DENSE_KINDS, INDEX_BYTES, KINDS, SPARSE_KINDS, master_bytes, moment_bytes
from smet._names import without_numbers
from smet._text import format_bytes, text_table
from smet.compact_adamw import CompactAdamW
from smet.convert import sparse_layers
from smet.sparse_linear import SparseLinear

_MOMENTS = ("exp_avg", "exp_avg_sq", "exp_avg_scale", "exp_avg_sq_scale", "max_exp_avg_sq", "master_low")


@dataclass(frozen=True)
class LayerReport:
    """Measured bytes of one sparse layer, by kind."""

    name: str
    shape: tuple[int, int]  # (out_features, in_features)
    n: int
    by_kind: dict[str, int]
    dense_adamw_bytes: int
    formula: float

    @property
    def density(self) -> float:
        """n / (out_features * in_features)."""
        return self.n / (self.shape[0] * self.shape[1])

    @property
    def total(self) -> int:
        """All bytes of the layer's weights, gradients, moments, cohorts and index."""
        return sum(self.by_kind.values())


@dataclass(frozen=True)
class Report:
    """Bytes alive now, by kind and by layer. Print it for a table.

    by_kind: weights, gradients, moments (with master_weights the masters' lower halves too), cohorts, index
    (mask and rank) of the sparse layers;
    dense_weights, dense_gradients, dense_moments of all other parameters; other: step counters, birth tables.
    dense_adamw_bytes: the same model dense under AdamW, same dtypes, gradients counted where they are alive.
    """

    per_layer: dict[str, LayerReport]
    by_kind: dict[str, int]
    dense_adamw_bytes: int
    missing_gradients: int = 0  # sparse layers without a gradient right now

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.by_kind.values())

    @property
    def ratio(self) -> float:
        """total / dense_adamw_bytes."""
        return self.total / self.dense_adamw_bytes if self.dense_adamw_bytes else float("nan")

    @property
    def sparse_total(self) -> int:
        """Bytes of the sparse layers alone."""
        return sum(self.by_kind[kind] for kind in SPARSE_KINDS)

    @property
    def sparse_dense_adamw_bytes(self) -> int:
        """The sparse layers' part of dense_adamw_bytes."""
        return sum(layer.dense_adamw_bytes for layer in self.per_layer.values())

    @property
    def sparse_ratio(self) -> float:
        """sparse_total / sparse_dense_adamw_bytes."""
        return self.sparse_total / self.sparse_dense_adamw_bytes if self.per_layer else float("nan")

    @property
    def formula(self) -> float:
        """What the sparse layers should take: (2w + 2m + 1) n + 0.129 per position (see smet.estimate)."""
        return sum(layer.formula for layer in self.per_layer.values())

    @property
    def deviation(self) -> float:
        """sparse_total / formula - 1."""
        return self.sparse_total / self.formula - 1 if self.per_layer else 0.0

    def __str__(self) -> str:
        """A line per layer, then the totals."""
        rows = []
        for members in self._groups():
            name = members[0].name if len(members) == 1 else without_numbers(members[0].name)
            times = "" if len(members) == 1 else f" x {len(members)}"
            sums = [sum(layer.by_kind[kind] for layer in members) for kind in SPARSE_KINDS]
            dense = sum(layer.dense_adamw_bytes for layer in members)
            rows.append([name + times, f"{members[0].density:.4g}", *_columns(sums, dense)])
        sparse = [self.by_kind[kind] for kind in SPARSE_KINDS]
        rows.append(["sparse layers", "", *_columns(sparse, self.sparse_dense_adamw_bytes)])
        weights, gradients, moments = (self.by_kind[kind] for kind in DENSE_KINDS)
        dense = weights + gradients + moments
        rows.append(["everything else", "", *_columns([weights, gradients, moments, 0, 0], dense)])
        lines = text_table(("", "density", *SPARSE_KINDS, "total", "dense AdamW", "ratio"), rows)
        if self.missing_gradients:
            lines.append(f"{self.missing_gradients} sparse layers have no gradient at the moment")
        lines.append(
            f"sparse layers: {format_bytes(self.sparse_total)} measured, {format_bytes(self.formula)} by "
            f"formula ({self.deviation:+.2%})"
        )
        lines.append(
            f"dense {format_bytes(self.dense_adamw_bytes)} -> {format_bytes(self.total)}, of which counters "
            f"{format_bytes(self.by_kind['other'])}"
        )
        return "\n".join(lines)

    def _groups(self) -> list[list[LayerReport]]:
        """Layers whose names differ in numbers alone, and that take the same bytes."""
        groups: dict[tuple[Any, ...], list[LayerReport]] = {}
        for layer in self.per_layer.values():
            key = (without_numbers(layer.name), layer.shape, layer.n, layer.total)
            groups.setdefault(key, []).append(layer)
        return list(groups.values())


def report(model: nn.Module, opt: torch.optim.Optimizer | None = None) -> Report:
    """Bytes of the storages that `model` and `opt` keep from step to step, measured.

    Every storage counts once, in full, whoever shares it. Call it between backward and zero_grad to see the
    gradients; where a gradient is not alive, neither the formula nor dense AdamW is charged for it. Works
    with any torch.optim optimizer; the formula is CompactAdamW's. Without `opt`, no moments are counted or
    expected.
    """
    books = _Books(opt)
    per_layer = {name: books.sparse_layer(name, layer) for name, layer in sparse_layers(model)}
    sparse = {id(layer.values) for _, layer in sparse_layers(model)}
    dense_adamw = sum(layer.dense_adamw_bytes for layer in per_layer.values())
    by_kind = Counter(dict.fromkeys(KINDS, 0))
    for layer in per_layer.values():
        by_kind.update(layer.by_kind)
    for parameter in model.parameters():
        if id(parameter) not in sparse:
            counts = books.parameter(parameter, "dense_")
            by_kind.update(counts)
            dense_adamw += sum(counts.values())
    by_kind["other"] += books.other
    without = sum(layer.values.grad is None for _, layer in sparse_layers(model))
    return Report(per_layer, dict(by_kind), dense_adamw, without)


class _Books:
    """Counts storages, each once."""

    def __init__(self, opt: torch.optim.Optimizer | None) -> None:
        self.opt = opt
        self.seen: set[int] = set()
        self.other = 0

    def measure(self, tensors: Iterable[Tensor | None]) -> int:
        count = 0
        for tensor in tensors:
            if tensor is None:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.seen:
                self.seen.add(storage._cdata)
                count += storage.nbytes()
        return count

    def parameter(self, parameter: Tensor, prefix: str = "") -> Counter[str]:
        """weights, gradients and moments of one parameter; its other state goes to `other` and `cohorts`."""
        state = self.opt.state.get(parameter, {}) if self.opt is not None else {}
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        counts = Counter(
            {
                f"{prefix}weights": self.measure([parameter]),
                f"{prefix}gradients": self.measure([parameter.grad]),
                f"{prefix}moments": self.measure(tensors.pop(key, None) for key in _MOMENTS),
            }
        )
        if not prefix:
            counts["cohorts"] = self.measure([tensors.pop("cohort", None)])
        self.other += self.measure(tensors.values())
        return counts

    def state_size(self, values: Tensor) -> float:
        """Bytes of state that one weight should take: by CompactAdamW's options, else as by its defaults."""
        groups = self.opt.param_groups if isinstance(self.opt, CompactAdamW) else []
        for group in groups:
            if any(param is values for param in group["params"]):
                masters = master_bytes(values.dtype, group["master_weights"])
                return 2 * moment_bytes(values.dtype, group["moments"]) + masters
        return 2 * moment_bytes(values.dtype)

    def sparse_layer(self, name: str, layer: SparseLinear) -> LayerReport:
        values = layer.values
        by_kind = self.parameter(values)
        by_kind["index"] = self.measure([layer.mask, layer.rank])
        positions = layer.out_features * layer.in_features
        width: float = values.element_size() * (2 if values.grad is not None else 1)
        cohort = 0
        if self.opt is not None and values in self.opt.state and values.requires_grad:
            width += self.state_size(values)
            cohort = 1
        return LayerReport(
            name=name,
            shape=(layer.out_features, layer.in_features),
            n=values.numel(),
            by_kind={kind: by_kind[kind] for kind in SPARSE_KINDS},
            dense_adamw_bytes=round(width * positions),
            formula=(width + cohort) * values.numel() + INDEX_BYTES * positions,
        )


def _columns(sums: list[int], dense: int) -> list[str]:
    """Bytes by kind, their sum, dense AdamW's bytes and the ratio, as text."""
    total = sum(sums)
    ratio = f"{total / dense:.3f}" if dense else ""
    return [*(format_bytes(count) for count in sums), format_bytes(total), format_bytes(dense), ratio]
