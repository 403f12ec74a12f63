# SPDX-License-Identifier: BSD-3-Clause
"""States of the global random generators as integer tensors: torch's (each device), NumPy's and Python's.

Smet draws from none of them; a model's dropout and a user's data loader may.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smet.checkpoint.errors import CheckpointError


def states() -> dict[str, Tensor]:
    """Name -> state: "torch" and "cuda:N" uint8, "numpy" and "python" int64."""
    found = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert kind == "MT19937"
    bits = int(np.float64(gauss).view(np.int64))
    found["numpy"] = torch.tensor([*map(int, keys), position, has_gauss, bits], dtype=torch.int64)
    version, words, next_gauss = random.getstate()
    bits = int(np.float64(0.0 if next_gauss is None else next_gauss).view(np.int64))
    numbers = [version, *words, int(next_gauss is not None), bits]
    found["python"] = torch.tensor(numbers, dtype=torch.int64)
    return found


def check(saved: Mapping[str, Tensor]) -> None:
    """CheckpointError unless every state is one that `restore` can take."""
    sizes = {"numpy": 624 + 3, "python": 1 + 625 + 2}
    for name, state in saved.items():
        size = sizes.get(name)
        dtype = torch.uint8 if size is None else torch.int64
        if state.dtype != dtype or state.dim() != 1 or (size is not None and len(state) != size):
            raise CheckpointError(f"the state of generator '{name}' is {state.dtype} {list(state.shape)}")
        try:
            _set(name, state, torch.Generator(), np.random.RandomState(), random.Random())
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise CheckpointError(f"the state of generator '{name}' is none: {error}") from error


def restore(saved: Mapping[str, Tensor]) -> None:
    """Set the generators that are here; states of other devices are left."""
    for name, state in saved.items():
        _set(name, state, torch.default_generator, np.random, random)
        if name.startswith("cuda:") and torch.cuda.is_available():
            index = int(name.removeprefix("cuda:"))
            if index < torch.cuda.device_count():
                torch.cuda.set_rng_state(state.clone(), index)


def _set(name: str, state: Tensor, of_torch: torch.Generator, of_numpy: Any, of_python: Any) -> None:
    """Set the one of these generators that has this name."""
    if name == "torch":
        of_torch.set_state(state.clone())
    elif name == "numpy":
        *keys, position, has_gauss, bits = state.tolist()
        if not (0 <= position <= len(keys) and has_gauss in (0, 1)):  # NumPy would read past its keys
            raise ValueError(f"it stands at number {position} of {len(keys)}")
        gauss = float(np.int64(bits).view(np.float64))
        of_numpy.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, gauss))
    elif name == "python":
        version, *words, has_gauss, bits = state.tolist()
        gauss = float(np.int64(bits).view(np.float64))
        of_python.setstate((version, tuple(words), gauss if has_gauss else None))
