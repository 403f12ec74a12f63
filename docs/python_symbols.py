# SPDX-License-Identifier: BSD-3-Clause
"""The public symbols of the Python package, and whether each is documented."""

import dataclasses
import inspect
import re
from typing import Any


def python_symbols() -> dict[str, bool]:
    """Every name of smet.__all__, and the public methods, properties and fields of its classes."""
    import smet

    symbols: dict[str, bool] = {}
    for name in smet.__all__:
        value = getattr(smet, name)
        if inspect.isclass(value):
            symbols |= _class_symbols(name, value)
        elif callable(value):
            symbols[name] = bool(inspect.getdoc(value))
        else:
            symbols[name] = name in (smet.__doc__ or "")
    return symbols


def _has_text(text: str | None) -> bool:
    """Whether there is more than the signature that pybind11 writes."""
    return bool(re.sub(r"^\w+\(self.*\) -> .*$", "", text or "", count=1, flags=re.M).strip())


def _class_symbols(name: str, cls: type[Any]) -> dict[str, bool]:
    symbols = {name: bool(cls.__doc__)}
    for member, value in vars(cls).items():
        if not member.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
            symbols[f"{name}.{member}"] = _has_text(inspect.getdoc(getattr(cls, member)))
    if dataclasses.is_dataclass(cls):  # said in the docstring, or behind the field
        source = inspect.getsource(cls)
        for field in dataclasses.fields(cls):
            behind = re.search(rf"^ +{field.name}: .*  # ", source, re.M)
            symbols[f"{name}.{field.name}"] = bool(
                behind or re.search(rf"\b{field.name}\b", cls.__doc__ or "")
            )
    return symbols
