# SPDX-License-Identifier: BSD-3-Clause
"""A model's parameters, watched by its optimizer: one that is replaced would be trained no more."""

from __future__ import annotations

import weakref

from torch import nn

from smet import _C
from smet._names import canonical_name


class WatchedModel:
    """Which module holds which parameter now; nothing is kept alive but the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._places = tuple(
            (weakref.ref(module), key, f"{prefix}.{key}" if prefix else key, param)
            for prefix, module in model.named_modules()
            for key, param in module.named_parameters(recurse=False)
        )
        for _, _, name, param in self._places:  # layers built without a name get one for errors
            info = _C.values_info(param)
            if info is not None and not info[2]:
                layer = canonical_name(name.removesuffix(".values"))
                _C.register_values(param, info[0], info[1], layer, info[3])

    def check(self) -> None:
        """Raises when a parameter of the model is no longer the object that it was."""
        for module_ref, key, name, param in self._places:
            module = module_ref()
            if module is None or module._parameters.get(key) is param:
                continue
            model = self._model()
            if model is not None and not any(param is other for other in model.parameters()):
                raise RuntimeError(
                    f"parameter '{name}' was replaced in the model after this optimizer was built, so its "
                    "updates would be lost; nothing was changed. Build the optimizer after everything that "
                    "makes new parameters (sparsify_, some .to() calls, wrapping), or assign to .data"
                )
