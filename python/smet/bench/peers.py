# SPDX-License-Identifier: BSD-3-Clause
"""Other libraries' sparse products on the same weights, where they are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smet.bench.rounds import WHOLE, Body

_SETTLE = 0.01  # seconds


@dataclass(frozen=True)
class Peer:
    """A layer of another library and its only parameter."""

    name: str
    layer: Callable[[Tensor], Tensor]
    weight: nn.Parameter


def missing_peers() -> list[str]:
    """Packages that --peers could use but does not find."""
    return [] if _module("sparseprop.modules") else ["sparseprop"]


def sparseprop_layer(weight: Tensor) -> Peer | None:
    """SparseProp's layer (its W_val are the weights that are not 0), or None where it is not installed."""
    module = _module("sparseprop.modules")
    if module is None:
        return None
    layer = module.SparseLinear(weight)  # type: ignore[attr-defined]
    return Peer(f"sparseprop {importlib.metadata.version('sparseprop')}", layer, layer.W_val)


def adamw_8bit(parameters: list[nn.Parameter]) -> dict[str, Body]:
    """The step of bitsandbytes' AdamW with 8-bit moments, by name; empty where it is not installed."""
    module = _module("bitsandbytes")
    if module is None:
        return {}
    optimizer = module.optim.AdamW8bit(parameters)  # type: ignore[attr-defined]
    return {f"bitsandbytes {importlib.metadata.version('bitsandbytes')}, AdamW8bit": alone(optimizer.step)}


def csr_forward(weight: Tensor, x: Tensor) -> Body:
    """torch.sparse CSR times feature-major x [in, tokens]: what it is fast at; it has no sampled gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "sparse CSR tensor support is in beta state"
        csr = weight.to_sparse_csr()
    feature_major = x.detach().t().contiguous()

    def forward() -> None:
        with torch.no_grad():
            csr @ feature_major

    return forward


def alone(body: Body) -> Body:
    """`body`, and time for its threads to go to sleep.

    A peer brings an OpenMP runtime of its own, whose threads spin for some ms after a call and would take the
    cores from whoever is measured next.
    """

    def timed() -> dict[str, float]:
        start = time.perf_counter()
        body()
        seconds = time.perf_counter() - start
        time.sleep(_SETTLE)
        return {WHOLE: seconds}

    return timed


def _module(name: str) -> object | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
