# SPDX-License-Identifier: BSD-3-Clause
"""Dense models to sparse ones and back, in place, names unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from smet._ddp import keep_positions_local
from smet._linear_layers import LinearLayer, is_conv1d, is_sparse, linear_layers
from smet._memory import index_bytes
from smet._names import Pattern, canonical_name, without_numbers
from smet._plan import SKIP, Density, Plan, make_plan
from smet._text import format_bytes, text_table
from smet.sparse_linear import SparseLinear

# Module state that must outlive the exchange. The dictionaries themselves are handed over, so that handles
# returned by register_forward_hook and the like still remove their hooks.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


@dataclass(frozen=True)
class ConvertedLayer:
    """One line of a ConversionTable."""

    name: str
    shape: tuple[int, int]  # (out_features, in_features)
    n: int  # weights that exist
    dense_bytes: int  # of the weight, all of it
    bytes: int  # of values, mask and rank

    @property
    def density(self) -> float:
        """n / (out_features * in_features)."""
        return self.n / (self.shape[0] * self.shape[1])


@dataclass(frozen=True)
class ConversionTable:
    """What sparsify_ did. Print it; `layers` and `kept` hold the facts.

    kept: (name, shape, reason) of every linear layer that stays dense. Bytes are those of weights and index;
    `smet.report` counts gradients and optimizer state too.
    """

    layers: list[ConvertedLayer]
    kept: list[tuple[str, tuple[int, int], str]]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the converted layers' weights before."""
        return sum(layer.dense_bytes for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of the converted layers' weights and index now."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def density(self) -> float:
        """Weights that exist over positions, all converted layers together."""
        return sum(layer.n for layer in self.layers) / sum(x.shape[0] * x.shape[1] for x in self.layers)

    def __str__(self) -> str:
        """One line per layer, or per group of layers that differ in their number alone."""
        groups: dict[tuple[str, tuple[int, int], int, int], list[ConvertedLayer]] = {}
        for layer in self.layers:
            key = (without_numbers(layer.name), layer.shape, layer.n, layer.bytes)
            groups.setdefault(key, []).append(layer)
        rows = [
            [
                members[0].name if len(members) == 1 else f"{name} x {len(members)}",
                f"{shape[0]} x {shape[1]}",
                f"{n:,}",
                f"{members[0].density:.4g}",
                format_bytes(size * len(members)),
            ]
            for (name, shape, n, size), members in groups.items()
        ]
        lines = text_table(("layer", "shape", "n", "density", "bytes"), rows)
        kept = Counter((without_numbers(name), shape, reason) for name, shape, reason in self.kept)
        for (name, shape, reason), count in kept.items():
            times = "" if count == 1 else f" x {count}"
            lines.append(f"stays dense: {name}{times}  {shape[0]} x {shape[1]}  ({reason})")
        lines.append(f"dense {format_bytes(self.dense_bytes)} -> {format_bytes(self.bytes)}")
        return "\n".join(lines)


def sparsify_(
    model: nn.Module,
    density: Density = 0.25,
    *,
    distribution: str = "uniform",
    include: Pattern | Iterable[Pattern] | None = None,
    skip: Pattern | Iterable[Pattern] = SKIP,
    select: str = "random",
    init_std: float | None = None,
    init_scale: str | None = None,
    seed: int = 0,
) -> ConversionTable:
    """Replaces linear layers of `model` by SparseLinear, in place, and says what it did.

    `q_proj.weight` [out, in] becomes `q_proj.values` [n], n = round(density * out * in). Bias, dtype, device,
    training flag, requires_grad and forward hooks are kept; a gradient is dropped. Build optimizers and
    wrappers (DDP) afterwards. nn.Linear and transformers' Conv1D are converted; subclasses with a forward of
    their own stay dense, and so do the model's output embeddings unless `include` names them. One layer
    exists twice at a time, never the model.

    Args:
        density: the fraction of weights that exist, 0 < density <= 1; or {name pattern: density}, where the
            first pattern that matches decides and a layer that none matches stays dense.
        distribution: "uniform" (every layer at `density`) or "erk" (the same total, n of a layer
            proportional to out + in, at most out * in).
        include, skip: which layers; a pattern or several. A string is a substring of the name, or a glob when
            it has one of `* ? [`; a compiled regular expression is searched for; a function gets (name,
            module). Layers must match `include` (None: all) and not `skip`, whose default is smet.SKIP; a
            layer whose `.weight` the model's own code reads (T5's wo) must be skipped too.
        select: "random" (positions drawn from (seed, name)) or "magnitude" (the largest |weight| of each
            layer; among equal ones the later position).
        init_std: None keeps the given weights at the active positions; a number draws them anew, normal with
            this standard deviation, from (seed, name, position). A model on the meta device needs a number.
        init_scale: "fan_in" multiplies the initial values by 1 / sqrt(density of the layer).
        seed: of positions and values.

    A meta-device model stays on the meta device: `model.to_empty(device=...)` draws positions and values
    then, the same as for a model that was built densely and given init_std.

    Raises before anything is changed. TypeError or ValueError: a bad density, pattern, or option; a pattern
    in `include` or `density` that matches nothing; a chosen layer that is sparse already, shares its weight,
    or is parametrized; nothing left to convert.
    """
    _check_options(select, init_std, init_scale)
    plan = make_plan(model, density, distribution=distribution, include=include, skip=skip)
    _check_weights(plan, select, init_std)
    layers = []
    for layer in plan.layers:
        layers.append(_describe(layer))
        _exchange(layer, _sparse_twin(layer, select, init_std, init_scale, seed))
    _leave_fast_path(model)
    keep_positions_local(model)
    return ConversionTable(layers, plan.kept)


def densify_(model: nn.Module) -> None:
    """Replaces every SparseLinear by the dense layer it came from (nn.Linear or Conv1D), in place.

    Weights that do not exist become zeros. Raises ValueError when the model has no sparse layer.
    """
    layers = [layer for layer in linear_layers(model) if is_sparse(layer.module)]
    if not layers:
        raise ValueError("densify_: the model has no sparse layer")
    for layer in layers:
        assert isinstance(layer.module, SparseLinear)
        _exchange(layer, layer.module.to_dense())


def sparse_layers(model: nn.Module) -> Iterator[tuple[str, SparseLinear]]:
    """(canonical name, layer) of every SparseLinear, each once, in the model's order.

    The name is without what DDP, torch.compile, FSDP and activation checkpointing add to it.
    """
    for name, module in model.named_modules():
        if isinstance(module, SparseLinear):
            yield canonical_name(name), module


def sparse_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The values of all sparse layers, as FSDP's `ignored_params` wants them."""
    return {layer.values for _, layer in sparse_layers(model)}


# One layer


def _sparse_twin(
    layer: LinearLayer, select: str, init_std: float | None, init_scale: str | None, seed: int
) -> SparseLinear:
    # from_dense rounds density * positions to n again, exactly: the quotient is off by less than 1e-16.
    return SparseLinear.from_dense(
        layer.module,
        density=layer.n / (layer.out_features * layer.in_features),
        select=select,
        name=layer.name,
        seed=seed,
        init_std=init_std,
        init_scale=init_scale,
    )


def _exchange(layer: LinearLayer, new: nn.Module) -> None:
    new.train(layer.module.training)
    for attribute in _HOOKS:
        setattr(new, attribute, getattr(layer.module, attribute))
    for parent, attribute in layer.places:
        setattr(parent, attribute, new)


def _leave_fast_path(model: nn.Module) -> None:
    # In evaluation torch's encoder layer hands the weights of linear1 and linear2 to a fused operator, unless
    # its activation is one that the operator does not know; 0 is how it notes that.
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(map(is_sparse, module.children())):
            module.activation_relu_or_gelu = 0


def _weight(layer: LinearLayer) -> Tensor:
    """The weight as [out, in]."""
    weight = layer.module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().t() if is_conv1d(layer.module) else weight.detach()


def _describe(layer: LinearLayer) -> ConvertedLayer:
    shape, itemsize = (layer.out_features, layer.in_features), _weight(layer).element_size()
    return ConvertedLayer(
        layer.name,
        shape,
        layer.n,
        dense_bytes=shape[0] * shape[1] * itemsize,
        bytes=layer.n * itemsize + index_bytes(*shape),
    )


# Checks


def _check_options(select: str, init_std: float | None, init_scale: str | None) -> None:
    if select not in ("random", "magnitude"):
        raise ValueError(f"select is {select!r}; expected 'random' or 'magnitude'")
    if init_std is not None and not 0.0 < init_std < float("inf"):
        raise ValueError(f"init_std is {init_std!r}; expected a positive number, or None to keep the weights")
    if init_scale not in (None, "fan_in"):
        raise ValueError(f"init_scale is {init_scale!r}; expected 'fan_in' or None")


def _check_weights(plan: Plan, select: str, init_std: float | None) -> None:
    for layer in plan.layers:
        if _weight(layer).device.type != "meta":
            continue
        if init_std is None:
            raise ValueError(
                f"layer '{layer.name}' is on the meta device and has no weights to keep: give init_std, the "
                "standard deviation of its initial values (transformers: config.initializer_range)"
            )
        if select == "magnitude":
            raise ValueError(
                f"layer '{layer.name}' is on the meta device and has no magnitudes: use select='random'"
            )
