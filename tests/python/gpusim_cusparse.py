# SPDX-License-Identifier: BSD-3-Clause
"""The algorithm `cusparse` against `expand_gemm`, dtype by dtype, before and after changes of the topology.

gpusim_cusparse.py OPERATORS, the library that tests/gpusim/path builds.
"""

import sys

import torch

import smet

OPS = torch.ops.smet
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def results(layer, x, dy, algorithm, dtype):
    """y, dx and, where cuSPARSE has it, dvalues."""
    values, bias = layer.values.detach().to(dtype), layer.bias.detach().to(dtype)
    place = (layer.mask, layer.rank)
    found = [
        OPS.sparse_linear(x, values, *place, bias, algorithm),
        OPS.sparse_linear(x, values, *place, None, algorithm),
        OPS.sparse_linear_backward_input(dy, values, *place, x.shape[-1], algorithm),
    ]
    if dtype != torch.bfloat16:
        found.append(OPS.sparse_linear_backward_values(dy, x, *place, len(values), algorithm))
        found += OPS.sparse_linear_backward(dy, x, values, *place, algorithm)
    return found


def compare(layer):
    torch.manual_seed(1)
    for dtype, tolerance in TOLERANCE.items():
        wide = torch.randn(2, 3, layer.in_features + 5, dtype=dtype)
        dy = torch.randn(2, 3, layer.out_features, dtype=dtype)
        for x in (wide[..., :-5], wide[..., :-5].contiguous(), wide[..., 5:]):  # rows further apart, or not
            got = results(layer, x, dy, "cusparse", dtype)
            want = results(layer, x, dy, "expand_gemm", dtype)
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def main():
    torch.set_num_threads(1)
    torch.ops.load_library(sys.argv[1])
    assert smet._C.algorithm_names("cpu") == ["expand_gemm", "cusparse"]
    for out_features, in_features, density in ((33, 1061, 0.05), (70, 40, 0.3), (5, 2100, 0.01)):
        layer = smet.SparseLinear(in_features, out_features, density=density, seed=3, name="layer")
        torch.nn.init.normal_(layer.bias)
        opt = smet.CompactAdamW(layer)
        topo = smet.TopologyScheduler(layer, opt, interval=1, fraction=0.5, stop=1.0, total_steps=9)
        compare(layer)
        for _ in range(2):
            layer.values.grad = torch.ones_like(layer.values)
            layer.bias.grad = None
            opt.step()
            before = layer.mask.clone()
            assert topo.step() is not None and not torch.equal(layer.mask, before)
            compare(layer)
        other = smet.SparseLinear(in_features, out_features, density=density, seed=4, name="other")
        torch.nn.init.normal_(other.bias)
        layer.load_state_dict(other.state_dict())  # written from outside
        compare(layer)
    none = torch.zeros(33, 34, dtype=torch.int32)
    rank = OPS.mask_rank(none, 1061)
    assert not OPS.sparse_linear(torch.ones(2, 1061), torch.ones(0), none, rank, None, "cusparse").any()
    try:
        bf16 = torch.ones(2, 1061, dtype=torch.bfloat16)
        layer = smet.SparseLinear(1061, 33, density=0.1).to(torch.bfloat16)
        layer.algorithm = "cusparse"
        layer(bf16).sum().backward()
    except TypeError as error:
        assert "no sampled product (SDDMM) of BFloat16" in str(error), error
    else:
        raise AssertionError("a gradient that cuSPARSE cannot compute")


if __name__ == "__main__":
    main()
