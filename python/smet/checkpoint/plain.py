# SPDX-License-Identifier: BSD-3-Clause
"""Python state (of schedulers, scalers, callers) as JSON that loads back equal, with its tensors beside it.

What JSON lacks is tagged: {"$tuple": [...]}, {"$float": "nan"}, {"$dict": [[key, value], ...]} for keys that
are not strings, {"$counter": [...]}, {"$tensor": name}.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from smet.checkpoint.errors import CheckpointError


def encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors` under names that start with `where`.

    Raises CheckpointError naming the entry that is neither number, string, tensor nor a container of them.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, Tensor):
        tensors[where] = value.detach()
        return {"$tensor": where}
    if isinstance(value, list):
        return [encode(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return _encode_mapping(value, where, tensors)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a NumPy scalar
        return encode(value.item(), where, tensors)
    raise CheckpointError(
        f"'{where}' is of type {type(value).__name__}, which a checkpoint does not hold; expected numbers, "
        "strings, tensors, and lists or dicts of them"
    )


def _encode_mapping(value: Mapping[Any, Any], where: str, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, Counter) and all(
        isinstance(key, str) and not key.startswith("$") for key in value
    ):
        return {key: encode(item, f"{where}/{key}", tensors) for key, item in value.items()}
    pairs = [
        [encode(key, f"{where}/key", tensors), encode(item, f"{where}/{key}", tensors)]
        for key, item in value.items()
    ]
    return {"$counter" if isinstance(value, Counter) else "$dict": pairs}


def decode(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """Inverse of `encode`; `tensor` gives the tensor of a name. CheckpointError for an unknown tag."""
    if isinstance(value, list):
        return [decode(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not next(iter(value)).startswith("$"):
        return {key: decode(item, tensor) for key, item in value.items()}
    [(tag, content)] = value.items()
    if tag == "$tensor" and isinstance(content, str):
        return tensor(content)
    if tag == "$float" and isinstance(content, str) and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag == "$tuple" and isinstance(content, list):
        return tuple(decode(item, tensor) for item in content)
    if tag in ("$dict", "$counter") and isinstance(content, list):
        return _decode_pairs(tag, content, tensor)
    raise CheckpointError(f"the manifest holds an entry '{tag}' that this version does not know")


def _decode_pairs(tag: str, content: list[Any], tensor: Callable[[str], Tensor]) -> Any:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise CheckpointError(f"the manifest's entry '{tag}' is not a list of pairs")
    try:
        pairs = {decode(key, tensor): decode(item, tensor) for key, item in content}
    except TypeError:
        raise CheckpointError(f"a key in the manifest's entry '{tag}' is no key of a dict") from None
    return Counter(pairs) if tag == "$counter" else pairs
