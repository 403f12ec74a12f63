# SPDX-License-Identifier: BSD-3-Clause
"""A topology update written out plainly over flat positions, and small things the topology tests share."""

import itertools
import math

import torch

import smet
from reference_training import GROW, draw_positions

OPS = torch.ops.smet


def unpack(mask, cols):
    """Packed words -> boolean [out, cols]."""
    bits = (mask.long().unsqueeze(-1) >> torch.arange(32)) & 1
    return bits.flatten(1)[:, :cols].bool()


def pack(dense):
    """Boolean [out, cols] -> packed words."""
    out, cols = dense.shape
    padded = torch.zeros(out, -(-cols // 32) * 32, dtype=torch.long)
    padded[:, :cols] = dense.long()
    words = (padded.reshape(out, -1, 32) << torch.arange(32)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def active(layer):
    """Flat positions of a layer's values, ascending."""
    return unpack(layer.mask.cpu(), layer.in_features).flatten().nonzero().flatten().tolist()


def bits(tensor):
    """Bytes of every element, as a list: NaN payloads and signed zeros count."""
    data = tensor.detach().cpu().contiguous().reshape(-1)
    size = data.element_size()
    raw = data.view(torch.uint8).numpy().tobytes()
    return [raw[i * size : (i + 1) * size] for i in range(data.numel())]


def plain_update(dense, arrays, cohort, score, magnitude, k, grown, newborn, key, update):
    """New mask, arrays and cohort, NaN count and died[256], by sorting and dictionaries.

    arrays: lists of bytes per weight; grown: positions, or None for keyed draws.
    """
    positions = dense.flatten().nonzero().flatten().tolist()
    scores = [abs(s) if magnitude else s for s in score.double().tolist()]
    order = sorted(
        range(len(positions)),
        key=lambda i: (not math.isnan(scores[i]), 0 if math.isnan(scores[i]) else scores[i], positions[i]),
    )
    pruned = {positions[i] for i in order[:k]}
    if grown is None:
        grown = draw_positions(dense, k, key, GROW, update).flatten().nonzero().flatten().tolist()
    survivors = [i for i, position in enumerate(positions) if position not in pruned]
    entries = {
        positions[i]: ([a[i] for a in arrays], 0 if cohort[i] == newborn else cohort[i]) for i in survivors
    }
    zeros = [bytes(len(a[0])) if a else b"" for a in arrays]
    entries |= {position: (zeros, newborn) for position in grown}
    died = [0] * 256
    for i in order[:k]:
        died[cohort[i]] += 1
    new = torch.zeros(dense.numel(), dtype=torch.bool)
    new[list(entries)] = True
    ordered = [entries[position] for position in sorted(entries)]
    new_arrays = [[entry[0][j] for entry in ordered] for j in range(len(arrays))]
    nan_count = sum(map(math.isnan, scores))
    return new.reshape(dense.shape), new_arrays, [entry[1] for entry in ordered], nan_count, died


def small_model(density=0.25, seed=0, sizes=(33, 70, 20), dtype=torch.float32):
    """Two sparse layers, named "0" and "2"."""
    layers = [
        smet.SparseLinear(i, o, bias=False, density=density, seed=seed, name=str(2 * at), dtype=dtype)
        for at, (i, o) in enumerate(itertools.pairwise(sizes))
    ]
    return torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])


def train_step(model, opt, topo, step, zero_grad=True):
    """One step on data that depend on the step alone. Returns what the scheduler returned."""
    first = model[0]
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, first.in_features, generator=generator, dtype=torch.float64).to(first.values)
    if zero_grad:
        opt.zero_grad()
    (model(x) - x.mean()).square().mean().backward()
    opt.step()
    return topo.step()


def everything(model, opt):
    """Bytes of every tensor of the layers and the optimizer, by name."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            tensors[f"{name}.grad"] = parameter.grad
        for key, value in opt.state.get(parameter, {}).items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value)
    return {name: b"".join(bits(tensor)) for name, tensor in tensors.items()}
