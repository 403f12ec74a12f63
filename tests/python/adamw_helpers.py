# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of CompactAdamW share: packed values without a layer, and distances in ulp."""

import io

import torch

from smet import _C


def make_values(out, in_, n, *, dtype=torch.float32, name="", generator=None):
    """A parameter of n values that the library knows as those of an out x in layer."""
    values = torch.nn.Parameter(torch.randn(n, dtype=torch.float64, generator=generator).to(dtype))
    _C.register_values(values, out, in_, name)
    return values


def snapshot(opt):
    """Every tensor that a step may write, cloned: parameters and state."""
    tensors = []
    for group in opt.param_groups:
        for p in group["params"]:
            tensors.append(p.detach().clone())
            tensors += [v.clone() for v in opt.state[p].values()]
    return tensors


def equal_bits(a, b):
    """Same dtype, shape and bytes (so -0.0 differs from 0.0 and NaN equals itself)."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.detach().view(bits), b.detach().view(bits))
    )


def same(snapshot_a, snapshot_b):
    return len(snapshot_a) == len(snapshot_b) and all(map(equal_bits, snapshot_a, snapshot_b))


def threads_leave_equal_bytes(make_optimizer, between=lambda opt, step: None):
    """Whether three steps of make_optimizer(generator) leave the same bytes with 1, 2 and 7 threads.

    between(opt, step) is called after each.
    """

    def steps(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            generator = torch.Generator().manual_seed(7)
            opt = make_optimizer(generator)
            for step in range(3):
                for p in (p for group in opt.param_groups for p in group["params"]):
                    p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
                opt.step()
                between(opt, step)
            return snapshot(opt)
        finally:
            torch.set_num_threads(before)

    one = steps(1)
    return same(one, steps(2)) and same(one, steps(7))


def through_file(saved):
    """What torch.load, which runs no code, makes of it."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def ulp(size, dtype):
    """One unit in the last place of numbers of that size, in float64."""
    info = torch.finfo(dtype)
    return torch.exp2(torch.floor(torch.log2(size.double().abs().clamp(min=info.tiny)))) * info.eps


def max_ulp(actual, expected, *operands):
    """Largest |actual - expected| in ulp of the dtype of `actual`, at the size of the largest operand.

    Operands matter where terms cancel: a sum's rounding error is relative to its terms, not to its result.
    """
    size = expected.double().abs()
    for operand in operands:
        size = torch.maximum(size, operand.double().abs())
    return ((actual.double() - expected.double()).abs() / ulp(size, actual.dtype)).max().item()
