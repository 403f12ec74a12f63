# SPDX-License-Identifier: BSD-3-Clause
"""TopologyScheduler: when it updates, what moves with the values, what stays, what it reports."""

import copy
import io
import itertools
import json
import math

import pytest
import torch

import smet
from smet import _C
from topology_helpers import active, bits, everything, small_model, train_step, unpack

pytestmark = pytest.mark.usefixtures("one_thread")

RUN = {"interval": 3, "fraction": 0.3, "total_steps": 40, "stop": 1.0}


def build(opt=None, **options):
    model = small_model()
    opt = smet.CompactAdamW(model, lr=1e-2, warmup=5) if opt is None else opt(model.parameters())
    return model, opt, smet.TopologyScheduler(model, opt, **(RUN | options))


# When


def test_fraction_schedules_in_closed_form():
    def at(schedule, step):
        return _C.fraction_at(schedule, 0.2, 0.005, step, 1000)

    for step in (0, 1, 250, 500, 899, 900, 950, 1000, 2000):
        x = min(step / 1000, 1)
        assert at("cosine", step) == pytest.approx(0.005 + 0.195 * (1 + math.cos(math.pi * x)) / 2, rel=1e-12)
        assert at("linear", step) == pytest.approx(0.2 - 0.195 * x, rel=1e-12)
        assert at("constant", step) == 0.2
        assert at("wsd", step) == pytest.approx(0.2 - 0.195 * max(0, x - 0.9) / 0.1, rel=1e-12)
    assert _C.fraction_schedules() == ["cosine", "constant", "linear", "wsd"]


@pytest.mark.parametrize("schedule", _C.fraction_schedules())
def test_every_schedule_starts_at_fraction_and_never_rises(schedule):
    curve = [_C.fraction_at(schedule, 0.3, 0.1, step, 70) for step in range(71)]
    assert curve[0] == 0.3
    assert all(0.1 <= b <= a + 1e-15 for a, b in itertools.pairwise(curve))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"interval": 1, "total_steps": 6, "stop": 1.0}, [1, 2, 3, 4, 5]),
        ({"interval": 3, "total_steps": 12, "stop": 1.0}, [3, 6, 9]),
        ({"interval": 3, "total_steps": 13, "stop": 1.0}, [3, 6, 9, 12]),
        ({"interval": 2, "total_steps": 12, "stop": 0.5}, [2, 4]),
        ({"interval": 2, "total_steps": 12, "stop": 7}, [2, 4, 6]),
        ({"interval": 1, "total_steps": 12, "stop": 1}, []),
        ({"interval": 1, "total_steps": 12, "stop": 0.0}, []),
        ({"interval": 1, "total_steps": 10, "stop": 0.55}, [1, 2, 3, 4, 5]),
        ({"interval": 1, "total_steps": 20, "stop": 0.55}, list(range(1, 11))),  # .55 * 20 > 11 in binary
        ({"interval": 20, "total_steps": 5, "stop": 1.0}, []),
    ],
)
def test_schedule_edges(options, expected):
    """T12: every step; step 0 has no update; t < stop; frozen afterwards, also beyond total_steps."""
    model, opt, topo = build(**options)
    seen = []
    for step in range(1, 15):
        before = topo.hash()
        update = train_step(model, opt, topo, step)
        assert (update is not None) == (topo.hash() != before)
        if update is not None:
            seen.append(update.step)
            assert update.fraction == topo.fraction_at(step)
    assert seen == expected
    assert topo.steps == 14 and topo.updates == len(seen)


def test_k_is_floor_of_fraction_times_n_capped_by_the_inactive():
    model = torch.nn.Sequential(
        smet.SparseLinear(10, 10, density=0.9, name="0"), smet.SparseLinear(10, 7, density=0.33, name="1")
    )
    constant = {"fraction_schedule": "constant", "interval": 1, "total_steps": 9, "stop": 1.0}
    update = smet.TopologyScheduler(model, fraction=0.5, **constant).step()
    assert [layer.k for layer in update.layers] == [10, 11]  # min(45, 10), floor(.5 * 23)
    update = smet.TopologyScheduler(model, fraction=0.0, **constant).step()
    assert update.k == 0
    full = torch.nn.Sequential(smet.SparseLinear(4, 4, density=1.0))
    assert smet.TopologyScheduler(full, fraction=1.0, **constant).step().k == 0


def test_a_skipped_optimizer_step_is_not_counted():
    """G4: nothing is counted while the optimizer's own counter stands still."""
    model, opt, topo = build(interval=2)
    train_step(model, opt, topo, 0)
    for _ in range(5):
        assert topo.step() is None
    assert topo.steps == 1
    assert train_step(model, opt, topo, 1) is not None


def test_without_a_counter_every_call_counts():
    for opt in (None, torch.optim.SGD):
        model = small_model()
        opt = opt and opt(model.parameters(), lr=0.1)
        topo = smet.TopologyScheduler(model, opt, **RUN)
        assert [topo.step() is not None for _ in range(6)] == [False, False, True] * 2


# What moves and what stays


def per_position(model, opt):
    """{layer: {flat position: bytes of value, gradient and per-weight state}}"""
    found = {}
    for name, layer in smet.sparse_layers(model):
        arrays = [bits(layer.values), bits(layer.values.grad)]
        for key, value in opt.state.get(layer.values, {}).items():
            if key not in ("step", "births") and torch.is_tensor(value):
                arrays.append(bits(value))
        found[name] = dict(zip(active(layer), zip(*arrays, strict=True), strict=True))
    return found


OPTIMIZERS = {
    "CompactAdamW": lambda p: smet.CompactAdamW(p, lr=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_survivors_keep_every_bit_and_newborns_start_at_zero(optimizer):
    """T4, T5: value, gradient and all state of any optimizer."""
    model, opt, topo = build(OPTIMIZERS[optimizer], interval=1)
    opt.step()  # some optimizers make their state here
    for step in range(4):
        before = None
        opt.zero_grad()
        model(torch.randn(8, 33)).square().sum().backward()
        opt.step()
        before = per_position(model, opt)
        update = topo.step()
        for layer in update.layers:
            after = per_position(model, opt)[layer.name]
            newborns = after.keys() - before[layer.name].keys()
            assert len(newborns) == layer.k > 0
            for position, arrays in after.items():
                if position in newborns:
                    cohort = [step + 1] if optimizer == "CompactAdamW" else []
                    assert [int.from_bytes(a, "little") for a in arrays if len(a) == 1] == cohort
                    assert not any(any(a) for a in arrays if len(a) > 1)
                else:
                    assert arrays == before[layer.name][position]


def test_parameters_and_addresses_stay():
    """T13"""
    model, opt, topo = build()
    for step in range(3):
        train_step(model, opt, topo, step)

    def identities():
        tensors = [*model.parameters(), *model.buffers()]
        for parameter in model.parameters():
            tensors += [v for v in opt.state[parameter].values() if torch.is_tensor(v)]
        return [(id(t), t.data_ptr(), t.shape) for t in tensors]

    before = identities()
    for step in range(9):
        train_step(model, opt, topo, step)
    assert topo.updates == 4 and identities() == before


def test_accumulated_gradients_stay_aligned():
    """A gradient kept across an update belongs to the same positions after it; newborns start at 0."""
    model, opt, topo = build(interval=1)
    model(torch.randn(8, 33)).square().sum().backward()
    opt.step()
    layer = model[0]
    before = dict(zip(active(layer), layer.values.grad.tolist(), strict=True))
    topo.step()
    kept = dict(zip(active(layer), layer.values.grad.tolist(), strict=True))
    assert all(value == before.get(position, 0.0) for position, value in kept.items())
    model(torch.ones(8, 33)).sum().backward()
    total = layer.values.grad.clone()
    opt.zero_grad()
    model(torch.ones(8, 33)).sum().backward()
    torch.testing.assert_close(total, layer.values.grad + torch.tensor(list(kept.values())))


def test_a_layer_of_256_weights_keeps_its_births():
    """births [256] has the shape of the values then, and must not travel with them."""
    model = torch.nn.Sequential(smet.SparseLinear(32, 32, density=0.25, name="0"))
    opt = smet.CompactAdamW(model)
    topo = smet.TopologyScheduler(model, opt, interval=1, total_steps=9, fraction=0.5)
    for _ in range(3):
        model(torch.randn(4, 32)).sum().backward()
        opt.step()
        topo.step()
    births = opt.state[model[0].values]["births"]
    assert model[0].nnz == 256 and births[:4].tolist() == [0, 1, 2, 3] and (births[4:] == -1).all()


def test_n_not_a_multiple_of_anything_through_20_updates():
    """S2, T1, T2: exact counts, canonical masks and ranks, in every dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model = small_model(density=0.37, sizes=(37, 101, 13), dtype=dtype)
        opt = smet.CompactAdamW(model, lr=1e-2)
        topo = smet.TopologyScheduler(
            model, opt, interval=1, total_steps=21, stop=1.0, fraction=0.4, final_fraction=0.1
        )
        for step in range(20):
            train_step(model, opt, topo, step)
            for _, layer in smet.sparse_layers(model):
                assert int(unpack(layer.mask, layer.in_features).sum()) == layer.nnz
                assert torch.equal(layer.rank, torch.ops.smet.mask_rank(layer.mask, layer.in_features))
        assert topo.updates == 20


def test_a_frozen_layer_is_left_alone():
    model, opt, topo = build(interval=1)
    model[0].values.requires_grad_(False)
    before = bits(model[0].values), bits(model[0].mask)
    update = train_step(model, opt, topo, 0)
    assert [layer.name for layer in update.layers] == ["2"]
    assert (bits(model[0].values), bits(model[0].mask)) == before


# What is reported


def test_reported_numbers_against_brute_force():
    model, opt, topo = build(track_explored=True)
    ever = {name: set(active(layer)) for name, layer in smet.sparse_layers(model)}
    newborn_of = {}
    for step in range(1, 20):
        before = {name: set(active(layer)) for name, layer in smet.sparse_layers(model)}
        update = train_step(model, opt, topo, step)
        if update is None:
            continue
        assert update is topo.last_update and (update.step, update.update) == (step, topo.updates)
        died = born = 0
        for entry in update.layers:
            layer = dict(smet.sparse_layers(model))[entry.name]
            now = set(active(layer))
            new, gone = now - before[entry.name], before[entry.name] - now
            ever[entry.name] |= now
            assert entry.k == len(new) == len(gone) == math.floor(update.fraction * layer.nnz)
            assert entry.churn == len(new) / layer.nnz and entry.n == layer.nnz
            assert entry.density == layer.density
            assert entry.explored == len(ever[entry.name]) / (layer.in_features * layer.out_features)
            assert entry.hash == int(torch.ops.smet.mask_hash(layer.mask, layer.in_features)) % 2**64
            last = newborn_of.get(entry.name)
            assert entry.last_cohort_pruned == (None if last is None else len(gone & last) / len(last))
            died, born = died + len(gone & (last or set())), born + len(last or ())
            newborn_of[entry.name] = new
        assert update.last_cohort_pruned == (died / born if born else None)
        assert update.n == sum(e.n for e in update.layers) and update.k == sum(e.k for e in update.layers)
        assert update.hash == topo.hash()


def test_an_update_prints_and_becomes_json():
    model, opt, topo = build(track_explored=True)
    update = [train_step(model, opt, topo, step) for step in range(6)][-1]
    text = str(update)
    assert "topology update 2 at step 6" in text and "last cohort pruned" in text and "  2: replaced" in text
    assert f"{update.hash:016x}" in text
    again = json.loads(json.dumps(update.as_dict()))
    assert again["layers"]["0"]["k"] == update.layers[0].k and again["churn"] == update.churn
    assert int(again["hash"], 16) == update.hash
    assert "interval=3" in repr(topo) and "updates=2" in repr(topo)


def test_ages_count_updates_since_growth():
    model, opt, topo = build()
    for step in range(1, 8):
        train_step(model, opt, topo, step)
    state = opt.state[model[0].values]
    births = state["births"][state["cohort"].long()]
    expected = torch.bincount(7 - births)
    assert topo.ages("0") == {age: int(c) for age, c in enumerate(expected) if c}
    assert set(topo.ages("0")) == {1, 4, 7}
    with pytest.raises(KeyError, match="no sparse layer 'x'; there are: 0, 2"):
        topo.ages("x")
    plain = smet.TopologyScheduler(model, None, **RUN)
    with pytest.raises(ValueError, match="layer '0' has no cohorts"):
        plain.ages("0")


def test_nan_weights_go_first_and_are_reported():
    """G6"""
    model, opt, topo = build(interval=1)
    train_step(model, opt, topo, 0)
    with torch.no_grad():
        model[0].values[10:13] = math.nan
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    opt.step()
    update = topo.step()
    assert [layer.nan_count for layer in update.layers] == [3, 0] and update.nan_count == 3
    assert not model[0].values.isnan().any() and "3 NaN" in str(update)


# Saving and loading


def save(*parts):
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in parts], buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("grow", _C.grow_criteria())
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 7])
def test_resumed_equals_uninterrupted(grow, cut):
    """C1 for the topology: at the start, before, at and after an update."""
    options = {"grow": grow, "track_explored": True}
    straight, resumed = build(**options), build(**options)
    for step in range(cut):
        train_step(*resumed, step)
    saved = save(*resumed)
    resumed = build(**options)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    for step in range(cut, 14):
        train_step(*resumed, step)
    for step in range(14):
        train_step(*straight, step)
    assert everything(*resumed[:2]) == everything(*straight[:2])
    assert resumed[2].last_update.as_dict() == straight[2].last_update.as_dict()
    assert bits(resumed[2].state_dict()["layers"]["0"]["explored"]) == bits(
        straight[2].state_dict()["layers"]["0"]["explored"]
    )


CHANGED = {
    "interval": {"interval": 4},
    "fraction": {"fraction": 0.2},
    "final_fraction": {"final_fraction": 0.1},
    "fraction_schedule": {"fraction_schedule": "linear"},
    "stop_step": {"stop": 0.5},
    "total_steps": {"total_steps": 41, "stop": 40},
    "prune": {"prune": "random"},
    "grow": {"grow": "gradient"},
    "seed": {"seed": 1},
    "track_explored": {"track_explored": True},
}


@pytest.mark.parametrize("option", CHANGED)
def test_a_state_of_other_options_is_refused_by_name(option):
    model, opt, topo = build()
    train_step(model, opt, topo, 0)
    state = topo.state_dict()
    *_, other = build(**CHANGED[option])
    before = repr(other)
    with pytest.raises(ValueError, match=f"saved with {option} = "):
        other.load_state_dict(state)
    assert repr(other) == before


def test_a_state_that_does_not_fit_is_refused():
    """C6, C7, C9"""
    *_, topo = build(track_explored=True)
    good = topo.state_dict()

    def damaged(change):
        state = copy.deepcopy(good)
        change(state)
        return state

    cases = [
        (lambda s: s["layers"].pop("2"), "no layer '2'"),
        (lambda s: s["layers"].update({"9": s["layers"]["0"]}), "a layer '9', which the model here has not"),
        (lambda s: s["layers"]["0"].update(n=5), "layer '0' was saved with 5 active weights"),
        (lambda s: s["layers"]["0"].pop("n"), "no 'n' in layer '0'"),
        (lambda s: s["layers"]["0"].update(explored=torch.zeros(2)), "explored bitmap saved for layer '0'"),
        (lambda s: s["layers"]["2"].update(last_cohort_id=256), "last cohort saved for layer '2'"),
        (lambda s: s.pop("steps"), "no 'steps'"),
        (lambda s: s.update(steps="three"), "'steps' of the saved topology state is 'three'"),
        (lambda s: s.update(steps=-1), "counts -1 steps"),
        (lambda s: s.update(version=2), "saved in format 2; this smet reads format 1"),
        (lambda s: s["config"].pop("seed"), "no option 'seed'"),
        (lambda s: s["config"].update(speed=1), "unknown option 'speed'"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            topo.load_state_dict(damaged(change))
    topo.load_state_dict(good)
