# SPDX-License-Identifier: BSD-3-Clause
"""Sparse layers as CSR matrices in safetensors."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from smet import _packing
from smet.export.files import LaterTensor, new_folder, write_tensors
from smet.export.trained import Shape, Trained, open_trained, part_name

_POSITIONS_AT_ONCE = 1 << 22  # of a mask that is unpacked


def export_csr(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Write the sparse layers of a trained model as CSR matrices, its other tensors as they are; the folder.

    For each sparse layer NAME with W [out, in] and n active weights, model.safetensors in `out` holds

        NAME.values        [n], the weights' dtype, row by row, columns ascending
        NAME.crow_indices  [out + 1], row r is values[crow_indices[r] : crow_indices[r + 1]]
        NAME.col_indices   [n]

    as torch.sparse_csr_tensor(crow_indices, col_indices, values, (out, in)) and SciPy take them. Indices are
    int32, or int64 where n >= 2^31. The entry "shapes" of the file's metadata is JSON, {NAME: [out, in]}.

    `source`, `config` and `max_shard_size` are those of `export_hf`; the configuration is needed for a run's
    weights.pt alone, which does not hold the layers' shapes. Raises ExportError, CheckpointError, or OSError
    from the file system; nothing is left behind then.
    """
    trained = open_trained(source)
    shapes = _shapes(trained, None if config is None else Path(config))
    tensors: dict[str, LaterTensor] = {}
    for name, shape in shapes.items():
        tensors |= _layer_tensors(trained, name, shape)
    for name in trained.dense_names():
        found = trained.read(name)
        tensors[name] = LaterTensor(tuple(found.shape), found.dtype, partial(trained.read, name))
    folder = Path(out)
    with new_folder(folder) as unfinished:
        said = {name: list(shape) for name, shape in shapes.items()}
        write_tensors(unfinished, tensors, max_shard_size, {"format": "pt", "shapes": json.dumps(said)})
    return folder


def csr_indices(mask: Tensor, cols: int) -> tuple[Tensor, Tensor]:
    """(crow_indices [out + 1], col_indices [n]) of a packed mask, in pieces of bounded size."""
    rows, step = mask.shape[0], max(1, _POSITIONS_AT_ONCE // max(1, cols))
    counts, columns = [torch.zeros(1, dtype=torch.int64)], [torch.empty(0, dtype=torch.int32)]
    for first in range(0, rows, step):
        active = _packing.unpack(mask[first : first + step], cols)
        counts.append(active.sum(1))
        columns.append(active.nonzero()[:, 1].to(torch.int32))
    crow, col = torch.cat(counts).cumsum(0), torch.cat(columns)
    wide = torch.int32 if col.numel() < 1 << 31 else torch.int64
    return crow.to(wide), col.to(wide)


def _shapes(trained: Trained, config: Path | None) -> dict[str, Shape]:
    if all(trained.layers.values()):
        return {name: shape for name, shape in trained.layers.items() if shape is not None}
    from smet.export.hf import dense_model, linear_shapes

    return linear_shapes(trained, dense_model(trained, config))


def _layer_tensors(trained: Trained, name: str, shape: Shape) -> dict[str, LaterTensor]:
    values = trained.read(part_name(name, "values"))
    n, dtype = values.numel(), values.dtype
    index = torch.int32 if n < 1 << 31 else torch.int64

    def indices(which: int) -> Tensor:
        _, mask = trained.packed(name, shape)
        return csr_indices(mask, shape[1])[which]

    return {
        part_name(name, "values"): LaterTensor((n,), dtype, lambda: trained.packed(name, shape)[0]),
        part_name(name, "crow_indices"): LaterTensor((shape[0] + 1,), index, lambda: indices(0)),
        part_name(name, "col_indices"): LaterTensor((n,), index, lambda: indices(1)),
    }
