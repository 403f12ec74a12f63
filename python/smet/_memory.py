# SPDX-License-Identifier: BSD-3-Clause
"""Bytes that a training run keeps from step to step, by kind: the formula, shared by report and estimate.

A layer of out x in positions, n = d * out * in of them active, keeps

    weights n * w, gradients n * w, moments 2 * n * m, cohorts n,
    index 4 * out * (ceil(in / 32) + ceil(in / 1024))

with w bytes per weight and m per moment (4, or 2 for bf16 moments; 8 for float64 weights). Per position that
is (2 * w + 2 * m + 1) * d + 0.129: 17 d + 0.129 for float32, 13 d + 0.129 for bfloat16 weights, 9 d + 0.129
with bf16 moments too. Dense AdamW in the same dtypes keeps 2 * w + 2 * m: 16, 12 and 8. Source: the data
format of the packed layer (sparse_linear).
"""

from __future__ import annotations

import torch

WORD_COLUMNS = 32
SEGMENT_COLUMNS = 1024
INDEX_BYTES = 4 / WORD_COLUMNS + 4 / SEGMENT_COLUMNS  # 0.129 per position
COHORT_BYTES = 1

# Of sparse layers, then of everything else; `other` is step counters and birth tables.
SPARSE_KINDS = ("weights", "gradients", "moments", "cohorts", "index")
DENSE_KINDS = ("dense_weights", "dense_gradients", "dense_moments")
KINDS = (*SPARSE_KINDS, *DENSE_KINDS, "other")


def moment_bytes(dtype: torch.dtype, moments: str = "fp32") -> int:
    """Bytes of one moment of a weight of this dtype: float64 for float64, else "fp32" or "bf16"."""
    if dtype == torch.float64:
        return 8
    return 2 if moments == "bf16" else 4


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
) -> dict[str, int]:
    """Bytes of one sparse layer by kind, exact; one that is not trained has weights and index alone."""
    return {
        "weights": n * dtype.itemsize,
        "gradients": trained * n * dtype.itemsize,
        "moments": trained * 2 * n * moment_bytes(dtype, moments),
        "cohorts": trained * n * COHORT_BYTES,
        "index": index_bytes(out_features, in_features),
    }


def dense_bytes(
    parameters: int, dtype: torch.dtype, trained: bool = True, moments: str = "fp32"
) -> dict[str, int]:
    """Bytes of dense parameters under AdamW, by kind."""
    return {
        "dense_weights": parameters * dtype.itemsize,
        "dense_gradients": trained * parameters * dtype.itemsize,
        "dense_moments": trained * 2 * parameters * moment_bytes(dtype, moments),
    }


def formula_bytes(
    positions: int, n: int, dtype: torch.dtype, trained: bool = True, moments: str = "fp32"
) -> float:
    """((2 w + 2 m + 1) d + 0.129) * positions; (w d + 0.129) * positions of a layer that is not trained."""
    more = dtype.itemsize + 2 * moment_bytes(dtype, moments) + COHORT_BYTES
    return (dtype.itemsize + trained * more) * n + INDEX_BYTES * positions
