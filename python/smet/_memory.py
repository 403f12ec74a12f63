# SPDX-License-Identifier: BSD-3-Clause
"""Bytes that a training run keeps from step to step, by kind: the formula, shared by report and estimate.

A layer of out x in positions, n = d * out * in of them active, keeps

    weights n * w, gradients n * w, moments 2 * n * m, cohorts n,
    index 4 * out * (ceil(in / 32) + ceil(in / 1024))

with w bytes per weight and m per moment (4, or 2 for bf16 moments; 8 for float64 weights; 1 for 8-bit moments
and 4 more for each block). Per position that is (2 * w + 2 * m + 1) * d + 0.129: 17 d + 0.129 for float32,
13 d + 0.129 for bfloat16 weights, 9 d + 0.129 with bf16 moments too, 7.06 d + 0.129 with 8-bit ones, taking
128 weights for a block, which has about 256 unless a row has fewer. Dense AdamW in the same dtypes keeps
2 * w + 2 * m: 16, 12, 8 and 6.01. master_weights=True adds 2 per bfloat16 weight to both, counted with the
moments. Source: the data format of the packed layer (sparse_linear).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from smet import _C

WORD_COLUMNS = 32
SEGMENT_COLUMNS = 1024
INDEX_BYTES = 4 / WORD_COLUMNS + 4 / SEGMENT_COLUMNS  # 0.129 per position
COHORT_BYTES = 1

# Of sparse layers, then of everything else; `other` is step counters and birth tables.
SPARSE_KINDS = ("weights", "gradients", "moments", "cohorts", "index")
DENSE_KINDS = ("dense_weights", "dense_gradients", "dense_moments")
KINDS = (*SPARSE_KINDS, *DENSE_KINDS, "other")


def moment_bytes(dtype: torch.dtype, moments: str = "fp32") -> float:
    """Bytes of one moment of a sparse weight of this dtype by the formula: float64 for float64."""
    if dtype == torch.float64:
        return 8
    return {"fp32": 4, "bf16": 2, "8bit": 1 + 4 / 128}[moments]


def master_bytes(dtype: torch.dtype, master_weights: bool) -> int:
    """Bytes beside one weight that make it a float32 master."""
    return 2 if master_weights and dtype == torch.bfloat16 else 0


def _moments_bytes(rows: int, cols: int, n: int, dtype: torch.dtype, moments: str, sparse: bool) -> int:
    """Bytes of both moments of n weights in rows x cols positions, exact."""
    if moments == "8bit" and dtype != torch.float64:
        scales = _C.block8_scales(rows, cols, n, sparse)  # 0: fp32 all the same
        return 2 * n + 8 * scales if scales or not n else 8 * n
    return 2 * n * int(moment_bytes(dtype, moments))


def index_bytes(out_features: int, in_features: int) -> int:
    """Bytes of mask and rank of one layer."""
    words = -(-in_features // WORD_COLUMNS)
    segments = -(-in_features // SEGMENT_COLUMNS)
    return 4 * out_features * (words + segments)


def sparse_bytes(
    out_features: int,
    in_features: int,
    n: int,
    dtype: torch.dtype,
    trained: bool = True,
    moments: str = "fp32",
    master_weights: bool = False,
) -> dict[str, int]:
    """Bytes of one sparse layer by kind, exact; one that is not trained has weights and index alone."""
    state = _moments_bytes(out_features, in_features, n, dtype, moments, True)
    return {
        "weights": n * dtype.itemsize,
        "gradients": trained * n * dtype.itemsize,
        "moments": trained * (state + n * master_bytes(dtype, master_weights)),
        "cohorts": trained * n * COHORT_BYTES,
        "index": index_bytes(out_features, in_features),
    }


def dense_bytes(
    shape: Sequence[int],
    dtype: torch.dtype,
    trained: bool = True,
    moments: str = "fp32",
    master_weights: bool = False,
) -> dict[str, int]:
    """Bytes of a dense parameter under AdamW, by kind."""
    parameters, rows = math.prod(shape), shape[0] if shape else 1
    cols = parameters // rows if rows else 0
    state = _moments_bytes(rows, cols, parameters, dtype, moments, False)
    return {
        "dense_weights": parameters * dtype.itemsize,
        "dense_gradients": trained * parameters * dtype.itemsize,
        "dense_moments": trained * (state + parameters * master_bytes(dtype, master_weights)),
    }


def formula_bytes(
    positions: int,
    n: int,
    dtype: torch.dtype,
    trained: bool = True,
    moments: str = "fp32",
    master_weights: bool = False,
) -> float:
    """((2 w + 2 m + 1) d + 0.129) * positions; (w d + 0.129) * positions of a layer that is not trained."""
    state = 2 * moment_bytes(dtype, moments) + master_bytes(dtype, master_weights)
    more = dtype.itemsize + state + COHORT_BYTES
    return (dtype.itemsize + trained * more) * n + INDEX_BYTES * positions
