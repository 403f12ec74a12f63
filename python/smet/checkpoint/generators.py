# SPDX-License-Identifier: BSD-3-Clause
"""States of the global random generators as integer tensors: torch's (each device), NumPy's and Python's.

Smet draws from none of them; a model's dropout and a user's data loader may.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

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
    if "torch" in saved and len(saved["torch"]) != len(torch.get_rng_state()):
        raise CheckpointError(f"the state of generator 'torch' has {len(saved['torch'])} bytes")


def restore(saved: Mapping[str, Tensor]) -> None:
    """Set the generators that are here; states of other devices are left."""
    for name, state in saved.items():
        if name == "torch":
            torch.set_rng_state(state.clone())
        elif name == "numpy":
            *keys, position, has_gauss, bits = state.tolist()
            gauss = float(np.int64(bits).view(np.float64))
            np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, gauss))
        elif name == "python":
            version, *words, has_gauss, bits = state.tolist()
            gauss = float(np.int64(bits).view(np.float64))
            random.setstate((version, tuple(words), gauss if has_gauss else None))
        elif name.startswith("cuda:") and torch.cuda.is_available():
            index = int(name.removeprefix("cuda:"))
            if index < torch.cuda.device_count():
                torch.cuda.set_rng_state(state.clone(), index)
