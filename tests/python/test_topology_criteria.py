# SPDX-License-Identifier: BSD-3-Clause
"""Prune and grow criteria: every registered one keeps the invariants; callables; gradient growth."""

import itertools

import pytest
import torch
from scipy import stats

import smet
from reference_training import keyed_draw, layer_key
from smet import _C
from topology_helpers import OPS, active, bits, everything, pack, small_model, train_step, unpack

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = list(itertools.product(_C.prune_criteria(), _C.grow_criteria()))
EACH = {"interval": 1, "fraction": 0.3, "total_steps": 40, "stop": 1.0}
SCORES = 2  # DrawStream::scores


def build(model=None, **options):
    model = small_model() if model is None else model
    opt = smet.CompactAdamW(model, lr=1e-2, warmup=5)
    return model, opt, smet.TopologyScheduler(model, opt, **(EACH | options))


def inactive(layer):
    return (~unpack(layer.mask.cpu(), layer.in_features)).flatten().nonzero().flatten().tolist()


# Every registered criterion


@pytest.mark.parametrize(("prune", "grow"), PAIRS)
def test_invariants_of_every_registered_pair(prune, grow):
    """T1, T2, T4, T5, T6 for whatever the registries hold."""
    model, opt, topo = build(prune=prune, grow=grow)
    for step in range(6):
        layer = model[0]
        before = dict(zip(active(layer), bits(layer.values), strict=True))
        opt.zero_grad()
        model(torch.randn(8, 33)).square().mean().backward()
        opt.step()
        moved = dict(zip(active(layer), bits(layer.values), strict=True))
        assert moved.keys() == before.keys()
        update = topo.step()
        after = dict(zip(active(layer), bits(layer.values), strict=True))
        newborns = after.keys() - moved.keys()
        assert len(after) == layer.nnz and len(newborns) == update.layers[0].k > 0
        assert torch.equal(layer.rank, OPS.mask_rank(layer.mask, layer.in_features))
        assert all(after[p] == (bytes(4) if p in newborns else moved[p]) for p in after)
        state = opt.state[layer.values]
        is_newborn = torch.tensor([p in newborns for p in after])
        assert torch.equal(state["cohort"] == step + 1, is_newborn)
        assert not state["exp_avg"][is_newborn].any() and not state["exp_avg_sq"][is_newborn].any()


@pytest.mark.parametrize(("prune", "grow"), PAIRS)
def test_threads_do_not_change_a_bit(prune, grow, threads):
    """T8: weights and gradients given, so that only the topology update is at work; 1, 2 and 7 threads."""
    results = []
    for count in (1, 2, 7):
        model = torch.nn.Sequential(smet.SparseLinear(1500, 200, bias=False, density=0.25, name="0"))
        layer = model[0]
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with threads(1):  # the dense product of gradient growth is torch's own
            topo = smet.TopologyScheduler(model, opt, **(EACH | {"prune": prune, "grow": grow}))
            generator = torch.Generator().manual_seed(5)
            x = torch.randn(4, 1500, generator=generator)
            model(x).square().sum().backward()
        with threads(count):
            topo.step()
        results.append((bits(layer.mask), bits(layer.rank), bits(layer.values), topo.hash()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("prune", "grow"), PAIRS)
def test_every_device_gives_the_topology_of_the_cpu(prune, grow, device):
    """T9: from equal weights, gradients and (for gradient growth) candidates."""
    hashes = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        model = small_model(density=0.3, sizes=(100, 60, 50)).to(place)
        topo = smet.TopologyScheduler(model, None, **(EACH | {"prune": prune, "grow": grow}))
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            for layer in (model[0], model[2]):
                layer.values.grad = torch.randn(layer.nnz, generator=generator).to(place)
                if grow == "gradient":
                    k = layer.grow_candidates.numel()
                    free = torch.tensor(inactive(layer))
                    layer.grow_candidates.copy_(free[torch.randperm(len(free), generator=generator)[:k]])
            topo.step()
        hashes.append((topo.hash(), bits(model[0].mask), bits(model[0].values)))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("prune", "grow"), PAIRS)
def test_neither_global_seeds_nor_layer_order_matter(prune, grow):
    """T11, and the layers of a model in another order."""

    def run(seed, names):
        torch.manual_seed(seed)
        layers = {"a": (33, 70, 0.2), "b": (70, 20, 0.4), "c": (20, 45, 0.3)}
        model = torch.nn.ModuleDict()
        for name in names:
            i, o, density = layers[name]
            model[name] = smet.SparseLinear(i, o, bias=False, density=density, name=name)
        topo = smet.TopologyScheduler(model, None, prune=prune, grow=grow, **EACH)
        for step in range(4):
            for name in "abc":
                generator = torch.Generator().manual_seed(step)
                x = torch.randn(3, model[name].in_features, generator=generator)
                model[name].zero_grad()
                model[name](x).square().sum().backward()
            torch.rand(seed)
            topo.step()
        return topo.hash(), {name: bits(model[name].mask) for name in "abc"}

    assert run(1, "abc") == run(2, "cab")


def test_seed_name_and_update_number_all_matter():
    dense = torch.zeros(20, 50, dtype=torch.bool)
    dense[::2] = True
    mask, score = pack(dense), torch.rand(500)

    def grown(seed, name, update):
        key = _C.layer_key(seed, name)
        key -= 2**64 if key >= 2**63 else 0
        rank = OPS.mask_rank(mask, 50)
        return bits(OPS.topology_plan(mask, rank, score, True, 50, 40, None, key, update)[0])

    results = [grown(*case) for case in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2))]
    assert all(a != b for a, b in itertools.combinations(results, 2))
    assert grown(0, "a", 1) == results[0]


# Single criteria


def test_random_pruning_is_by_keyed_draws():
    model, _, topo = build(prune="random", seed=11, fraction_schedule="constant")
    layer, key = model[0], layer_key(11, "0")
    for update in range(1, 4):
        before = active(layer)
        model.zero_grad()
        model(torch.randn(2, 33)).sum().backward()
        for state in topo._opt.state.values():
            state["step"] += 1
        k = topo.step().layers[0].k
        order = sorted(before, key=lambda p: (keyed_draw(key, SCORES, update, p) >> 11, p))
        assert set(before) - set(active(layer)) == set(order[:k])


def test_magnitude_gradient_is_the_product():
    model, _, topo = build(prune="magnitude_gradient")
    layer = model[0]
    model(torch.randn(4, 33)).square().sum().backward()
    score = (layer.values * layer.values.grad).abs()
    before = active(layer)
    for state in topo._opt.state.values():
        state["step"] += 1
    k = topo.step().layers[0].k
    lowest = score.argsort(stable=True)[:k].tolist()
    assert set(before) - set(active(layer)) == {before[i] for i in lowest}


def test_magnitude_gradient_without_a_gradient_names_the_layer():
    model, opt, topo = build(prune="magnitude_gradient")
    model(torch.randn(4, 33)).sum().backward()
    opt.step()
    opt.zero_grad()
    with pytest.raises(RuntimeError, match=r"layer '0' has no gradient.*before zero_grad"):
        topo.step()
    assert topo.steps == topo.updates == 0


@pytest.mark.parametrize("k", [20, 160])
def test_regrowth_is_uniform(k):
    """T15: chi-square over 2,000 updates, k below and above half of the 200 inactive positions."""
    generator = torch.Generator().manual_seed(1)
    dense = torch.zeros(400, dtype=torch.bool)
    dense[torch.randperm(400, generator=generator)[:200]] = True
    mask = pack(dense.reshape(20, 20))
    rank, score = OPS.mask_rank(mask, 20), torch.rand(200, generator=generator)
    counts, updates = torch.zeros(20, 20), 2000
    for update in range(updates):
        new, _ = OPS.topology_plan(mask, rank, score, True, 20, k, None, 123456789, update)
        counts += unpack(new, 20) & ~dense.reshape(20, 20)
    grown = counts.flatten()[~dense]
    expected = updates * k / 200
    assert grown.sum() == updates * k
    # Draws without replacement vary less: each count has the variance expected * (1 - k / 200).
    statistic = ((grown - expected) ** 2).sum().item() / (expected * (1 - k / 200)) * 199 / 200
    p = stats.chi2.sf(statistic, 199)
    print(f"chi2 {statistic:.1f} on 199 degrees of freedom, p = {p:.3f}")
    assert 1e-4 < p < 1 - 1e-4


# Gradient growth


def dense_gradient(layer, x, dy):
    return (dy.double().t() @ x.double()).abs().flatten()


@pytest.mark.parametrize("interval", [1, 3])
def test_gradient_growth_takes_the_largest_inactive_gradients(interval):
    """RigL: also at the first update, from the last backward pass before it; recorded in that step alone."""
    model = torch.nn.Sequential(smet.SparseLinear(40, 30, bias=False, density=0.3, name="0"))
    model, opt, topo = build(model, grow="gradient", interval=interval, fraction=0.2)
    layer = model[0]
    for step in range(1, 8):
        assert (layer.grow_candidates is not None) == (step % interval == 0)
        opt.zero_grad()
        for micro in range(2):  # the last of the accumulated backward passes counts
            x = torch.randn(6, 40, generator=torch.Generator().manual_seed(10 * step + micro))
            y = model(x)
            y.square().sum().backward()
        free, before = inactive(layer), set(active(layer))
        gradient = dense_gradient(layer, x, 2 * y.detach())
        opt.step()
        update = topo.step()
        assert (update is not None) == (step % interval == 0)
        if update is not None:
            best = sorted(free, key=lambda p: (-gradient[p].item(), p))[: update.k]
            assert set(active(layer)) - before == set(best)


def test_gradient_growth_without_a_backward_pass_names_the_layer():
    model, opt, topo = build(grow="gradient")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    opt.step()
    before = everything(model, opt)
    with pytest.raises(RuntimeError, match="gradient growth has no candidates for layer '0'"):
        topo.step()
    assert everything(model, opt) == before and topo.steps == 0
    train_step(model, opt, topo, 0)  # and it goes on after a backward pass
    assert topo.updates == 1


# Callables


def test_callables_see_the_layer_and_decide():
    seen = []

    def prune(context):
        seen.append((context.name, context.step, context.update, context.out_features, context.in_features))
        assert context.positions.dtype == torch.int64 and not context.values.requires_grad
        assert context.grad.shape == context.values.shape == context.cohort.shape
        assert context.key == _C.layer_key(0, context.name)
        return context.positions.double()

    def grow(context, k):
        free = (~unpack(context.mask, context.in_features)).flatten().nonzero().flatten()
        return free.flip(0)[:k]

    model, opt, topo = build(prune=prune, grow=grow, fraction=0.1)
    before = active(model[0])
    free = inactive(model[0])
    k = train_step(model, opt, topo, 0).layers[0].k
    assert active(model[0]) == sorted(before[k:] + free[-k:])
    assert seen == [("0", 1, 1, 70, 33), ("2", 1, 1, 20, 70)]


def test_a_callable_equal_to_a_registered_criterion_gives_its_topology():
    callables = {
        "magnitude": lambda c: c.values.abs(),
        "magnitude_gradient": lambda c: (c.values * c.grad).abs(),
    }
    for name, function in callables.items():
        hashes = []
        for prune in (name, function):
            model, opt, topo = build(prune=prune)
            for step in range(4):
                train_step(model, opt, topo, step)
            hashes.append(topo.hash())
        assert hashes[0] == hashes[1]


def free_positions(context, k):
    return (~unpack(context.mask, context.in_features)).flatten().nonzero().flatten()[:k]


def only_second(good, bad):
    return lambda context, *k: bad(context, *k) if context.name == "2" else good(context, *k)


def fail(*_):
    raise KeyError("mine")


BAD_PRUNE = {
    "list": (lambda c: [1.0], TypeError, "prune callable returned list for layer '2'"),
    "none": (lambda c: None, TypeError, "prune callable returned NoneType for layer '2'"),
    "short": (lambda c: c.values[1:], ValueError, r"returned shape \[349\] for layer '2'"),
    "integers": (lambda c: c.positions, TypeError, "returned dtype (Long|long) for layer '2'"),
    "raises": (fail, KeyError, "mine"),
}
BAD_GROW = {
    "list": (lambda c, k: [1], TypeError, "grow callable returned list for layer '2'"),
    "too many": (lambda c, k: free_positions(c, k + 1), ValueError, r"for layer '2'; expected \[104\]"),
    "int32": (lambda c, k: free_positions(c, k).int(), TypeError, "for layer '2'; expected int64"),
    "float": (lambda c, k: free_positions(c, k).double(), TypeError, "for layer '2'; expected int64"),
    "active": (lambda c, k: c.positions[:k], ValueError, "layer '2': grow position .* is active"),
    "twice": (lambda c, k: free_positions(c, k) * 0 + free_positions(c, 1), ValueError, "layer '2'.*twice"),
    "beyond": (lambda c, k: free_positions(c, k) + 1400, ValueError, "layer '2'.*out of range"),
    "negative": (lambda c, k: free_positions(c, k) - 1400, ValueError, "layer '2'.*out of range"),
    "raises": (fail, KeyError, "mine"),
}
BAD = [("prune", name, *case) for name, case in BAD_PRUNE.items()]
BAD += [("grow", name, *case) for name, case in BAD_GROW.items()]


@pytest.mark.parametrize(
    ("role", "case", "bad", "error", "message"), BAD, ids=lambda v: v if type(v) is str else ""
)
def test_a_failing_callable_of_a_later_layer_changes_nothing(role, case, bad, error, message):
    """T14: an exception between pruning and growing is not observable, in any layer; a retry goes on."""
    good = free_positions if role == "grow" else lambda c: c.values.abs()
    broken = True
    choose = only_second(good, lambda *arguments: (bad if broken else good)(*arguments))
    model, opt, topo = build(**{role: choose}, track_explored=True)
    model(torch.randn(8, 33)).square().mean().backward()
    opt.step()
    before, state = everything(model, opt), repr(topo.state_dict())
    with pytest.raises(error, match=message):
        topo.step()
    assert everything(model, opt) == before
    assert repr(topo.state_dict()) == state and topo.last_update is None
    broken = False
    assert topo.step().update == 1 and everything(model, opt) != before
