# SPDX-License-Identifier: BSD-3-Clause
"""Which layers of a model become sparse, and with how many weights: every check, no change.

`sparsify_` and `estimate` share this: what is planned is exactly what is done.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from smet import _C
from smet._linear_layers import (
    LinearLayer,
    check_ties,
    data_parallel_wrapper,
    is_sparse,
    linear_layers,
    obstacle,
    output_embeddings,
)
from smet._names import NamePattern, Pattern, name_patterns

Density = float | Mapping[str, float]
SKIP: tuple[Pattern, ...] = ("embed", "lm_head", "classifier", "score")


@dataclass
class Plan:
    """Layers to make sparse, and (name, shape, reason) of the linear layers that stay dense."""

    layers: list[LinearLayer] = field(default_factory=list)
    kept: list[tuple[str, tuple[int, int], str]] = field(default_factory=list)

    @property
    def positions(self) -> int:
        """out * in, summed over the sparse layers."""
        return sum(layer.out_features * layer.in_features for layer in self.layers)


def check_density(value: Any, what: str = "density") -> float:
    """`value` as a float in (0, 1]; TypeError or ValueError that says what it was."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} is {value!r} ({type(value).__name__}); expected a number, 0 < density <= 1")
    number = float(value)
    if math.isnan(number) or not 0.0 < number <= 1.0:
        raise ValueError(
            f"{what} is {value!r}; expected 0 < density <= 1 (the fraction of weights that exist)"
        )
    return number


def make_plan(
    model: nn.Module,
    density: Density,
    *,
    distribution: str = "uniform",
    include: Pattern | Iterable[Pattern] | None = None,
    skip: Pattern | Iterable[Pattern] = SKIP,
) -> Plan:
    """Chooses layers and counts; see `sparsify_` for the rules and the errors."""
    densities = _check_densities(density)
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a model (torch.nn.Module); got {type(model).__name__}")
    wrapper = data_parallel_wrapper(model)
    if wrapper:
        raise ValueError(
            f"the model holds a {wrapper}, which has already registered the dense parameters: call sparsify_ "
            "first and wrap the result"
        )
    plan = _choose(model, include, skip)
    if isinstance(densities, float):
        for layer in plan.layers:
            layer.density = densities
    else:
        _densities_by_pattern(plan, densities)
    if not plan.layers:
        raise ValueError("no layer to make sparse is left in the model. " + _kept_text(plan))
    check_ties(model, plan.layers)
    _count(plan.layers, densities, distribution)
    return plan


def _choose(
    model: nn.Module, include: Pattern | Iterable[Pattern] | None, skip: Pattern | Iterable[Pattern]
) -> Plan:
    candidates = list(linear_layers(model))
    _check_unique(candidates)
    skipped = name_patterns(skip)
    included = None if include is None else name_patterns(include)
    if included is not None:
        _check_patterns(included, candidates, skipped)
    heads = output_embeddings(model)
    plan = Plan()
    for layer in candidates:
        shape = (layer.out_features, layer.in_features)
        skip_pattern = _first_match(skipped, layer)
        reason = None
        if skip_pattern is not None:
            reason = f"skip={skip_pattern}"
        elif included is not None and _first_match(included, layer) is None:
            reason = "not in include"
        elif is_sparse(layer.module):
            raise ValueError(f"layer '{layer.name}' is sparse already; skip it, or densify_ the model first")
        elif included is None and id(layer.module) in heads:
            reason = "output embeddings"
        else:
            reason = obstacle(layer)
        if reason is None:
            plan.layers.append(layer)
        else:
            plan.kept.append((layer.name, shape, reason))
    return plan


def _first_match(patterns: list[NamePattern], layer: LinearLayer) -> NamePattern | None:
    return next((pattern for pattern in patterns if pattern.matches(layer.name, layer.module)), None)


def _check_unique(candidates: list[LinearLayer]) -> None:
    seen: set[str] = set()
    for layer in candidates:
        if layer.name in seen:
            raise ValueError(
                f"two layers are called '{layer.name}' once the names that wrappers add (module, _orig_mod, "
                "...) are taken off; rename one of them"
            )
        seen.add(layer.name)


def _check_patterns(
    included: list[NamePattern], candidates: list[LinearLayer], skipped: list[NamePattern]
) -> None:
    for pattern in included:
        chosen = [layer for layer in candidates if pattern.matches(layer.name, layer.module)]
        if not chosen:
            names = [layer.name for layer in candidates if _first_match(skipped, layer) is None]
            raise ValueError(f"include={pattern} matches no linear layer; there are {_some(names)}")
        if all(_first_match(skipped, layer) is not None for layer in chosen):
            raise ValueError(
                f"include={pattern} matches only layers that skip= leaves out "
                f"({_some([layer.name for layer in chosen])}); pass skip=() or a narrower skip"
            )


# Counts


def _check_densities(density: Density) -> float | dict[str, float]:
    if not isinstance(density, Mapping):
        return check_density(density)
    if not density:
        raise ValueError("density is an empty mapping; expected {name pattern: density}")
    return {key: check_density(value, f"density[{key!r}]") for key, value in density.items()}


def _densities_by_pattern(plan: Plan, densities: dict[str, float]) -> None:
    """The first pattern that matches decides; a layer that none matches stays dense."""
    patterns = [(NamePattern(key), value) for key, value in densities.items()]
    for pattern, _ in patterns:
        if not any(pattern.matches(layer.name, layer.module) for layer in plan.layers):
            names = [layer.name for layer in plan.layers]
            raise ValueError(f"density[{pattern}] matches no layer; there are {_some(names)}")
    layers, plan.layers = plan.layers, []
    for layer in layers:
        value = next((v for pattern, v in patterns if pattern.matches(layer.name, layer.module)), None)
        if value is None:
            plan.kept.append((layer.name, (layer.out_features, layer.in_features), "no density given"))
        else:
            layer.density = value
            plan.layers.append(layer)


def _count(layers: list[LinearLayer], densities: float | dict[str, float], distribution: str) -> None:
    if isinstance(densities, float):
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        counts = _C.distribute(shapes, densities, distribution)
    else:
        if distribution != "uniform":
            raise ValueError(
                f"distribution={distribution!r} shares out one global density; with densities by pattern "
                "only 'uniform' makes sense"
            )
        counts = [
            _C.distribute([(layer.out_features, layer.in_features)], layer.density, "uniform")[0]
            for layer in layers
        ]
    for layer, n in zip(layers, counts, strict=True):
        if n == 0:
            raise ValueError(
                f"layer '{layer.name}' of shape {layer.out_features} x {layer.in_features} would keep no "
                f"weight at density {layer.density:g}: raise the density, or leave it out with skip="
            )
        layer.n = n


# Texts


def _some(names: list[str], limit: int = 12) -> str:
    if not names:
        return "none"
    text = ", ".join(f"'{name}'" for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def _kept_text(plan: Plan) -> str:
    if not plan.kept:
        return "It has no nn.Linear or Conv1D"
    reasons: dict[str, list[str]] = {}
    for name, _, reason in plan.kept:
        reasons.setdefault(reason, []).append(name)
    return "Kept dense: " + "; ".join(f"{_some(names, 4)} ({reason})" for reason, names in reasons.items())
