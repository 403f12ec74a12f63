# SPDX-License-Identifier: BSD-3-Clause
"""Results do not depend on the number of threads, and a run repeats itself byte for byte."""

import copy

import pytest
import torch

import smet
from small_models import model

OUT, IN, TOKENS = 509, 2071, 9  # several chunks of every kernel, none of them full


def integers(*shape, low=-4, high=4, seed=0):
    """Sums of products of these are exact in float32, so that the dense product cannot tell threads apart."""
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def with_1_2_7(threads, make):
    """make() under each number of threads."""
    results = []
    for count in (1, 2, 7):
        with threads(count):
            assert torch.get_num_threads() == count
            results.append(make())
    return results


def bytes_of(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def assert_equal_bytes(results):
    first = results[0]
    assert first
    for other in results[1:]:
        assert first.keys() == other.keys()
        for key, value in first.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == other[key].dtype, key
                assert torch.equal(bytes_of(value), bytes_of(other[key])), key
            else:
                assert value == other[key], key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_layer_forward_and_backward(threads, dtype):
    """T8 for the layer: output and every gradient, with exact sums."""

    def make():
        layer = smet.SparseLinear(IN, OUT, density=0.25, name="fc", dtype=dtype)
        with torch.no_grad():
            layer.values.copy_(integers(layer.nnz, seed=1))
            layer.bias.copy_(integers(OUT, seed=2))
        x = integers(TOKENS, IN, seed=3).to(dtype).requires_grad_()
        y = layer(x)
        y.backward(integers(TOKENS, OUT, seed=4).to(dtype))
        return {
            "mask": layer.mask,
            "rank": layer.rank,
            "output": y.detach(),
            "input": x.grad,
            "values": layer.values.grad,
            "bias": layer.bias.grad,
        }

    results = with_1_2_7(threads, make)
    assert results[0]["output"].abs().max() > 50
    assert_equal_bytes(results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_optimizer_steps_and_topology_updates(threads, dtype, grow):
    """T8: values, moments, cohorts, positions and statistics after three updates, from equal gradients."""

    def make():
        net = torch.nn.Sequential(smet.SparseLinear(IN, OUT, density=0.25, name="fc", dtype=dtype, seed=2))
        layer = net[0]
        opt = smet.CompactAdamW(net, lr=1e-2, warmup=2, stochastic_rounding=dtype == torch.bfloat16)
        topo = smet.TopologyScheduler(
            net, opt, interval=2, fraction=0.3, total_steps=8, stop=1.0, grow=grow, seed=5
        )
        facts = {}
        for step in range(7):
            x, dy = integers(TOKENS, IN, seed=step), integers(TOKENS, OUT, seed=100 + step)
            opt.zero_grad()
            layer(x.to(dtype)).backward(dy.to(dtype))
            opt.step()
            update = topo.step()
            if update is not None:
                facts[f"update {step}"] = str(update)
        state = opt.state[layer.values]
        assert topo.updates == 3
        assert len(state["cohort"].unique()) == 4
        return {
            **facts,
            "hash": topo.hash(),
            "values": layer.values.detach(),
            "mask": layer.mask,
            "rank": layer.rank,
            "grad": layer.values.grad,
            **{key: state[key] for key in ("exp_avg", "exp_avg_sq", "cohort", "births")},
        }

    assert_equal_bytes(with_1_2_7(threads, make))


@pytest.mark.parametrize("select", ["random", "magnitude"])
def test_conversion(threads, select):
    weight = torch.randn(OUT, IN)

    def make():
        net = torch.nn.Sequential(torch.nn.Linear(IN, OUT, bias=False))
        net[0].weight.data.copy_(weight)
        smet.sparsify_(net, 0.3, select=select, init_std=0.02 if select == "random" else None)
        return dict(net[0].state_dict())

    assert_equal_bytes(with_1_2_7(threads, make))


def test_a_whole_run_twice(threads):
    """The same seed and thread count: every tensor of model and optimizer, every loss."""

    def run():
        torch.manual_seed(7)
        net = model(seed=3, width=64, depth=1)
        smet.sparsify_(net, 0.25, seed=1)
        opt = smet.CompactAdamW(net, lr=3e-3, warmup=5)
        topo = smet.TopologyScheduler(net, opt, interval=5, fraction=0.3, total_steps=40, stop=1.0, seed=2)
        facts = {}
        for step in range(17):
            tokens = torch.randint(50, (8, 16))
            opt.zero_grad()
            logits = net(tokens)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), (tokens.flatten() * 3 + 1) % 50)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            topo.step()
            facts[f"loss {step}"] = loss.item()
        facts |= {name: value.clone() for name, value in net.state_dict().items()}
        for name, parameter in net.named_parameters():
            facts |= {f"{name} {key}": value.clone() for key, value in opt.state[parameter].items()}
        assert topo.updates == 3
        assert facts["loss 16"] < facts["loss 0"]
        return copy.deepcopy(facts)

    with threads(2):
        assert_equal_bytes([run(), run()])
