# SPDX-License-Identifier: BSD-3-Clause
"""The linear layers of a model: where they hang, what stands in the way of replacing one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smet._names import canonical_name

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# A wrapper that has taken the dense parameters into its own books before they are replaced.
_DATA_PARALLEL = frozenset({"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"})


@dataclass
class LinearLayer:
    """A linear layer of a model. A plan adds n, the number of weights that it gets when it becomes sparse."""

    name: str
    module: nn.Module
    out_features: int
    in_features: int
    places: list[tuple[nn.Module, str]]  # (parent, attribute): every place where the module is registered
    n: int = 0
    density: float = 0.0  # as asked for; n is exact


def is_conv1d(module: nn.Module) -> bool:
    """Whether `module` is transformers' Conv1D, a linear layer with weight [in, out].

    Told by name, so that transformers is not imported.
    """
    return any(
        cls.__name__ == "Conv1D" and cls.__module__ == "transformers.pytorch_utils"
        for cls in type(module).__mro__
    )


def is_sparse(module: nn.Module) -> bool:
    """Whether `module` is a SparseLinear."""
    from smet.sparse_linear import SparseLinear

    return isinstance(module, SparseLinear)


def features(module: nn.Module) -> tuple[int, int]:
    """(out_features, in_features) of an nn.Linear, a Conv1D or a SparseLinear."""
    if is_conv1d(module):
        return int(module.nf), int(module.nx)  # type: ignore[arg-type]
    return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]


def linear_layers(model: nn.Module) -> Iterator[LinearLayer]:
    """Every nn.Linear, Conv1D and SparseLinear once, under its first canonical name."""
    found: dict[int, LinearLayer] = {}
    parents: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parents[name] = module
        if not (isinstance(module, nn.Linear) or is_conv1d(module) or is_sparse(module)):
            continue
        if not name:
            raise ValueError(
                "the model is itself one linear layer, which cannot be replaced in place: use "
                "SparseLinear.from_dense, or put it into a torch.nn.Sequential"
            )
        parent_name, _, attribute = name.rpartition(".")
        parent = parents[parent_name]
        layer = found.setdefault(id(module), LinearLayer(canonical_name(name), module, *features(module), []))
        if not any(parent is other and attribute == known for other, known in layer.places):
            layer.places.append((parent, attribute))
    yield from found.values()


def output_embeddings(model: nn.Module) -> set[int]:
    heads: set[int] = set()
    for module in model.modules():
        getter = getattr(module, "get_output_embeddings", None)
        if callable(getter):
            try:
                heads.add(id(getter()))
            except (NotImplementedError, AttributeError):
                continue  # transformers' way of saying that there are none
    return heads


def obstacle(layer: LinearLayer) -> str | None:
    """Why the layer has to stay dense, or None. Raises where leaving it dense would go against the user."""
    module = layer.module
    weight = module._parameters.get("weight")

    def refuse(why: str, todo: str) -> ValueError:
        return ValueError(f"layer '{layer.name}' {why}: {todo}, or leave it out with skip=")

    if parametrize.is_parametrized(module):
        names = ", ".join(sorted(module.parametrizations))  # type: ignore[arg-type]
        raise refuse(
            f"is parametrized ({names})", "call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise refuse("is lazy and has no shape yet", "run one forward first")
    if weight is None:
        raise refuse(
            "has no parameter 'weight' (weight_norm or pruning keeps it elsewhere)",
            "make that permanent first",
        )
    if "forward" in module.__dict__:
        raise refuse("has had its forward replaced", "undo that first")
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
        raise refuse("has hooks on its weight, which would be lost", "remove them first")
    base = nn.Linear if isinstance(module, nn.Linear) else _conv1d_class(module)
    if type(module).forward is not base.forward:
        return f"{type(module).__name__} has its own forward"
    if type(module).__name__ == "NonDynamicallyQuantizableLinear":
        return "MultiheadAttention reads its weight directly"
    if weight.dtype not in _FLOATS:
        return f"dtype {weight.dtype}"
    if weight.numel() == 0:
        return "no weights"
    return None


def _conv1d_class(module: nn.Module) -> type[nn.Module]:
    return next(cls for cls in type(module).__mro__ if cls.__name__ == "Conv1D")


def data_parallel_wrapper(model: nn.Module) -> str | None:
    for module in model.modules():
        for cls in type(module).__mro__:
            if cls.__name__ in _DATA_PARALLEL:
                return cls.__name__
    return None


def check_ties(model: nn.Module, layers: list[LinearLayer]) -> None:
    owners: dict[tuple[str, int], dict[int, str]] = {}
    for prefix, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = canonical_name(f"{prefix}.{key}" if prefix else key)
            owners.setdefault(_storage_key(parameter), {}).setdefault(id(module), name)
    for layer in layers:
        weight = layer.module.weight
        assert isinstance(weight, Tensor)
        names = [name for owner, name in owners[_storage_key(weight)].items() if owner != id(layer.module)]
        if names:
            raise ValueError(
                f"the weight of layer '{layer.name}' is shared with '{names[0]}', and a sparse layer cannot "
                f"share its weight: leave it out with skip={layer.name!r}, or untie the two first"
            )


def _storage_key(parameter: Tensor) -> tuple[str, int]:
    """Equal for parameters that are one tensor, or two that start at the same address."""
    if parameter.device.type == "meta" or isinstance(parameter, nn.parameter.UninitializedParameter):
        return "meta", id(parameter)
    if parameter.numel() == 0 or parameter.data_ptr() == 0:
        return "meta", id(parameter)
    return str(parameter.device), parameter.data_ptr()
