# SPDX-License-Identifier: BSD-3-Clause
"""torch.compile(fullgraph=True) and FakeTensor, forward and backward."""

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import smet


def network():
    first = smet.SparseLinear(37, 50, density=0.3, name="first")
    second = smet.SparseLinear(50, 21, False, density=0.2, name="second")
    return nn.Sequential(first, nn.Tanh(), second)


def gradients(model, x):
    inputs = [x, *model.parameters()]
    return torch.autograd.grad(model(x).square().sum(), inputs)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_s10_fullgraph_forward_and_backward(backend):
    torch._dynamo.reset()
    model, x = network(), torch.randn(2, 3, 37, requires_grad=True)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)
    inputs = [x, *model.parameters()]
    ours = torch.autograd.grad(compiled(x).square().sum(), inputs)
    torch.testing.assert_close(ours, gradients(model, x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)


def test_dynamic_token_counts_compile_once():
    torch._dynamo.reset()
    model = network()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for tokens in (5, 8, 13):
        x = torch.randn(tokens, 37, requires_grad=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-6, atol=1e-6)
    assert counter.frame_count == 1


def test_topology_may_change_between_compiled_calls():
    """Positions are inputs of the graph, not constants: an in-place update needs no recompilation."""
    torch._dynamo.reset()
    model, x = network(), torch.randn(4, 37)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    before = compiled(x)
    model[0].set_mask(smet.SparseLinear(37, 50, density=0.3, name="moved").mask)
    after = compiled(x)
    torch.testing.assert_close(after, model(x), rtol=1e-6, atol=1e-6)
    assert not torch.equal(before, after) and counter.frame_count == 1


def test_autocast_under_compile():
    torch._dynamo.reset()
    model, x = network(), torch.randn(4, 37)

    def run(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    y = torch.compile(run, fullgraph=True, backend="aot_eager")(x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, run(x))


def test_s10_fake_tensors_have_the_real_shapes_and_dtypes():
    model, x = network().bfloat16(), torch.randn(2, 3, 37, dtype=torch.bfloat16, requires_grad=True)
    real = gradients(model, x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = gradients(model, mode.from_tensor(x))
    described = [[(t.shape, t.dtype, t.device) for t in tensors] for tensors in (real, fakes[1:])]
    assert described[0][1:] == described[1] and fakes[0].shape == x.shape


def test_wrong_shapes_are_errors_while_tracing():
    torch._dynamo.reset()
    compiled = torch.compile(network(), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="expected a last dimension of 37"):
        compiled(torch.randn(2, 36))
    meta = torch.empty(5, 70, device="meta")
    with pytest.raises(ValueError, match="70 input features"):
        torch.ops.smet.sparse_linear(
            meta, meta.new_empty(9), meta.new_empty(4, 2, dtype=torch.int32), meta.new_empty(4, 1).int()
        )
