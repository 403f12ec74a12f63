# SPDX-License-Identifier: BSD-3-Clause
"""The packed model against the method written out plainly: 1,000 steps, 20 updates."""

import pytest
import torch

import smet
from reference_training import INITIAL, MaskedLayer, cosine_fraction, draw_positions, layer_key

SIZES, DENSITIES = (24, 40, 17), (0.3, 0.4)
STEPS, INTERVAL, FRACTION, FINAL, SEED = 1001, 50, 0.3, 0.05, 3
ADAM = {"lr": 2e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}
WARMUP = 40


def batch(step, dtype):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, SIZES[0], generator=generator, dtype=torch.float64)
    teacher = torch.randn(
        SIZES[0], SIZES[2], generator=torch.Generator().manual_seed(10**6), dtype=torch.float64
    )
    return x.to(dtype), torch.tanh(x @ teacher / 2).to(dtype)


def mask_of(layer):
    """The boolean mask, unpacked bit by bit."""
    words = layer.mask.long() & 0xFFFFFFFF
    bits = (words.unsqueeze(-1) >> torch.arange(32)) & 1
    return bits.flatten(1)[:, : layer.in_features].bool()


def packed_model(dtype):
    layers = [
        smet.SparseLinear(i, o, bias=False, density=d, seed=SEED, name=str(2 * at), dtype=dtype)
        for at, (i, o, d) in enumerate(zip(SIZES, SIZES[1:], DENSITIES, strict=False))
    ]
    return torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])


def reference_gradients(layers, step):
    x, y = batch(step, torch.float64)
    weights = [layer.w.clone().requires_grad_() for layer in layers]
    loss = torch.nn.functional.mse_loss(torch.tanh(x @ weights[0].t()) @ weights[1].t(), y)
    return torch.autograd.grad(loss, weights)


# Half an ulp of the largest element for each of the 1,000 steps: 2^-24, and ten times 2^-53 (in float64 the
# reference rounds as much as we do).
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e4 * 2**-53), (torch.float32, 1e3 * 2**-24)]
)
def test_masked_dense_reference_agrees_for_1000_steps_and_20_updates(dtype, tolerance):
    """N3, N9, N10, T1-T5: topology bit for bit after every update; values to `tolerance` of the largest."""
    model = packed_model(dtype)
    packed = [model[0], model[2]]
    opt = smet.CompactAdamW(model, warmup=WARMUP, density_scaling=0.5, **ADAM)
    topo = smet.TopologyScheduler(
        model,
        opt,
        interval=INTERVAL,
        fraction=FRACTION,
        final_fraction=FINAL,
        stop=1.0,
        total_steps=STEPS,
        seed=SEED,
    )
    reference = [
        MaskedLayer(str(2 * at), p.dense_weight().detach(), mask_of(p)) for at, p in enumerate(packed)
    ]
    for layer in reference:
        empty = torch.zeros_like(layer.mask)
        expected = draw_positions(empty, int(layer.mask.sum()), layer_key(SEED, layer.name), INITIAL, 0)
        assert torch.equal(layer.mask, expected)

    updates = 0
    for t in range(1, STEPS):
        for layer, grad in zip(reference, reference_gradients(reference, t), strict=True):
            layer.step(grad, t, warmup=WARMUP, exponent=0.5, **ADAM)
        x, y = batch(t, dtype)
        opt.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        opt.step()
        topo.step()
        if t % INTERVAL == 0:
            updates += 1
            for layer, ours in zip(reference, packed, strict=True):
                layer.update_topology(t, updates, cosine_fraction(t, STEPS, FRACTION, FINAL), SEED)
                assert torch.equal(layer.mask, mask_of(ours)), f"topology differs at step {t}"

    assert updates == topo.updates == 20
    for layer, ours in zip(reference, packed, strict=True):
        state = opt.state[ours.values]
        for name, want, got in [
            ("values", layer.w, ours.values),
            ("exp_avg", layer.m, state["exp_avg"]),
            ("exp_avg_sq", layer.v, state["exp_avg_sq"]),
        ]:
            want = want[layer.mask]
            error = ((got.detach().double() - want).abs().max() / want.abs().max()).item()
            print(f"{dtype} layer {layer.name} {name}: largest error {error:.2e} of the largest element")
            assert error <= tolerance
        born = state["births"][state["cohort"].long()]
        assert torch.equal(born, layer.birth[layer.mask])
