# SPDX-License-Identifier: BSD-3-Clause
"""`smet bench` at tiny sizes: that it measures what it says, not how fast anything is."""

import itertools
import json
import sys
import time
import types

import pytest
import torch
import transformers
from torch import nn

from smet.bench import peers
from smet.bench.goals import DENSITIES, Goal, layer_goal
from smet.bench.layer import DENSE, LayerCase, Problem, body_of, measure_layers, medians
from smet.bench.machine import this_machine
from smet.bench.optimizer import measure_optimizer
from smet.bench.regions import Stopwatch
from smet.bench.rounds import WHOLE, Rounds, Times, run_rounds
from smet.bench.rows import Row, table
from smet.bench.step import PARTS, SparseStep, measure_step
from smet.bench.topology import MaskedUpdate, SparseUpdate, measure_topology, prune_times, with_prune
from smet.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

KEYS = {
    *("op", "case", "out", "in", "tokens", "density", "weights", "threads", "algorithm", "isa", "machine"),
    *("sparse_s", "dense_s", "ratio", "sparse_median_s", "dense_median_s", "ratio_of_minima"),
    *("sparse_gflops", "dense_gflops", "goal", "goal_of", "verdict", "rounds", "blas", "cores"),
    *("torch", "smet"),
}


class Clock:
    """Time that passes only where a body says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def body(self, seconds):
        durations = itertools.chain(seconds, itertools.repeat(1.0))

        def run():
            self.now += next(durations)

        return run


# Rounds


def test_a_ratio_is_the_median_of_the_rounds_own():
    clock = Clock()
    # After two warm-up rounds the machine halves its speed, then doubles it; once it was busy in between.
    bodies = {"dense": clock.body([9, 9, 1.0, 2.0, 0.5]), "sparse": clock.body([1, 1, 0.5, 1.2, 2.0])}
    rounds = run_rounds(bodies, 3, clock)
    assert rounds.count == 3
    assert rounds.times("sparse") == Times(pytest.approx(0.5), pytest.approx(1.2))
    assert rounds.times("dense") == Times(pytest.approx(0.5), pytest.approx(1.0))
    assert rounds.ratio("sparse", "dense") == pytest.approx(0.6)  # of 0.5, 0.6 and 4


def test_sweeps_are_joined_round_by_round():
    fast = Rounds({"dense": {WHOLE: [2.0, 2.0]}, "sparse": {WHOLE: [1.0, 1.2]}})
    slow = Rounds({"dense": {WHOLE: [4.0]}, "sparse": {WHOLE: [3.6]}})
    joined = Rounds.joined([fast, slow])
    assert joined.count == 3
    assert joined.times("sparse") == Times(1.0, 1.2)
    assert joined.ratio("sparse", "dense") == pytest.approx(0.6)  # of 0.5, 0.6 and 0.9


def test_nothing_to_do_has_no_ratio():
    rounds = Rounds({"dense": {WHOLE: [1.0], "topology": [0.0]}, "sparse": {WHOLE: [1.0], "topology": [2.0]}})
    assert rounds.ratio("sparse", "dense", "topology") is None


def test_short_bodies_take_more_rounds_until_the_time_has_passed():
    clock = Clock()
    rounds = run_rounds({"dense": clock.body([9, 9])}, 3, clock, seconds=30)
    assert (rounds.count, clock.now) == (12, 30)  # two rounds of 9 seconds to warm up, then of one


def test_bodies_run_once_a_round_in_changing_order():
    log = []
    run_rounds({name: lambda name=name: log.append(name) for name in "abc"}, 30, itertools.count().__next__)
    rounds = [tuple(log[i : i + 3]) for i in range(0, len(log), 3)]
    log.clear()
    run_rounds({name: lambda name=name: log.append(name) for name in "abc"}, 30, sweep=1)
    assert rounds != [tuple(log[i : i + 3]) for i in range(0, len(log), 3)]  # every sweep's own
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6


def test_parts_come_with_the_whole():
    rounds = run_rounds({"dense": lambda: {"layers": 2.0}}, 3)
    assert rounds.times("dense", "layers") == Times(2.0, 2.0)
    assert set(rounds.samples["dense"]) == {WHOLE, "layers"}


# Goals and rows


def test_verdicts():
    goal = Goal(0.5, 0.4)
    assert [goal.verdict(x) for x in (0.4, 0.41, 0.5, 0.56)] == [
        "aim met",
        "holds",
        "holds",
        "misses by 12 %",
    ]
    assert Goal(10.0, measure="ns").verdict(3.0) == "holds"
    assert str(goal.scaled(1.1)) == "<= 0.55"


def test_goals_of_the_layer():
    assert layer_goal("layer", 0.25, 512, 2, "auto") == Goal(0.52, 0.42)
    assert layer_goal("layer", 0.25, 512, 1, "tile_spmm").must == pytest.approx(0.55)
    assert layer_goal("layer", 0.5, 256, 2, "auto").must == pytest.approx(1.0)
    assert layer_goal("layer", 0.01, 2048, 2, "auto").must == pytest.approx(0.1)
    assert layer_goal("layer", 0.3, 512, 2, "auto") is None
    assert layer_goal("layer", 0.3, 512, 2, "expand_gemm").must == 1.1
    assert layer_goal("layer", 0.25, 512, 2, "sparseprop 0.1.14") is None
    for op in ("layer", "forward", "backward_input", "backward_values"):
        musts = [layer_goal(op, density, 512, 2, "auto").must for density in DENSITIES]
        assert musts == sorted(musts, reverse=True)


def row(**changes):
    times = {"sparse": Times(0.2, 0.33), "dense": Times(0.4, 0.3)}
    return Row(**{"op": "layer", **times, "ratio": 0.5, "goal": Goal(0.4), **changes})


def test_a_row_in_figures_and_as_json():
    found = row(
        out_features=3, in_features=5, tokens=7, density=0.25, dense_flops=8e9, sparse_flops=2e9, ratio=0.6
    )
    data = found.to_dict(this_machine())
    assert set(data) == KEYS
    assert (data["ratio_of_minima"], data["ratio"]) == (pytest.approx(0.5), 0.6)
    assert (data["sparse_gflops"], data["dense_gflops"]) == (pytest.approx(10), pytest.approx(20))
    assert (data["out"], data["in"], data["verdict"]) == (3, 5, "misses by 50 %")
    assert data["threads"] == torch.get_num_threads()
    lines = table([found]).splitlines()
    assert len(lines) == 3
    assert "ns/weight" not in lines[0]
    assert lines[2].split()[-3:] == ["by", "50", "%"]


def test_goals_per_weight():
    found = row(goal=Goal(20.0, measure="ns"), weights=20_000_000)
    assert found.ns == pytest.approx(16.5)  # of the median round
    assert found.verdict == "holds"
    assert "<= 20 ns" in table([found])


def test_nothing_over_nothing_has_no_ratio():
    found = row(dense=Times(0.0, 0.0), ratio=None, goal=None)
    assert found.to_dict(this_machine())["ratio_of_minima"] is None
    assert "-" in table([found]).splitlines()[2].split()


# The layer


def test_bodies_do_what_their_names_say():
    case = LayerCase(6, 10, 8, 0.5)
    dense, sparse = case.make("auto")
    x, dy = torch.randn(8, 10, requires_grad=True), torch.randn(8, 6)
    torch.testing.assert_close(sparse.dense_weight(), dense.weight * (sparse.dense_weight() != 0))
    body_of("layer", sparse, sparse.values, x, dy)()
    torch.testing.assert_close(x.grad, dy @ sparse.dense_weight())
    assert sparse.values.grad.shape == sparse.values.shape
    x.grad = sparse.values.grad = None
    for op in ("forward", "backward_input", "backward_values"):
        body_of(op, sparse, sparse.values, x, dy)()
        assert x.grad is None
        assert sparse.values.grad is None


@pytest.mark.parametrize(
    ("op", "wanted"), [("backward_input", "sparse_linear_backward_input"),
                       ("backward_values", "sparse_linear_backward_values")]
)  # fmt: skip
def test_a_gradient_alone_is_computed_alone(op, wanted):
    _, sparse = LayerCase(6, 10, 8, 0.5).make("auto")
    x = torch.randn(8, 10, requires_grad=True)
    body = body_of(op, sparse, sparse.values, x, torch.randn(8, 6))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        body()
    ran = {event.key for event in profile.key_averages() if event.key.startswith("smet::sparse_linear")}
    assert ran == {f"smet::{wanted}"}


@pytest.mark.parametrize("op", ["layer", "forward", "backward_input", "backward_values"])
def test_rows_of_a_layer(op):
    rows = measure_layers([(32, 48)], [0.25], [16], [op], ["auto", "expand_gemm"], rounds=2, peers=False)
    assert [found.algorithm for found in rows] == ["auto", "expand_gemm"]
    for found in rows:
        assert found.ratio > 0
        assert found.dense_flops == 2 * 32 * 48 * 16 * (3 if op == "layer" else 1)
        assert found.sparse_flops == pytest.approx(found.dense_flops * 0.25)
    assert rows[1].goal.must == pytest.approx(1.1 * 1.1)


@pytest.mark.parametrize(("rounds", "each"), [(40, [8] * 5), (12, [3] * 5), (2, [1, 1])])
def test_all_problems_are_gone_through_in_sweeps(monkeypatch, rounds, each):
    log = []

    def fake(problem, count, sweep):
        log.append((problem.case.out_features, count, sweep))
        return Rounds({"auto": {WHOLE: [sweep + 1.0] * count}, DENSE: {WHOLE: [2.0] * count}})

    monkeypatch.setattr(Problem, "run", fake)
    rows = measure_layers([(32, 48), (16, 8)], [0.25], [16], ["layer"], ["auto"], rounds, peers=False)
    assert log == [(out, count, sweep) for sweep, count in enumerate(each) for out in (32, 16)]
    assert [(found.rounds, found.sparse.minimum) for found in rows] == [(sum(each), 1.0)] * 2


def test_the_median_is_over_shapes():
    rows = [row(algorithm="auto", tokens=512, density=0.25, ratio=ratio) for ratio in (0.1, 0.6, 0.4)]
    assert medians(rows) == [["layer", "512", "0.25", "auto", "0.400", "<= 0.55", "aim met"]]


class SparseProp(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.mask = weight != 0
        self.W_val = nn.Parameter(weight[self.mask])

    def forward(self, x):
        return x @ torch.zeros(self.mask.shape).masked_scatter(self.mask, self.W_val).t()


def test_peers_are_measured_where_they_are_installed(monkeypatch):
    case = LayerCase(32, 48, 16, 0.25)
    monkeypatch.setitem(sys.modules, "sparseprop", None)
    monkeypatch.setitem(sys.modules, "sparseprop.modules", None)
    assert peers.missing_peers() == ["sparseprop"]
    layer, forward = (Problem(case, op, ("auto",), peers=True) for op in ("layer", "forward"))
    assert set(layer.run(1).samples) == {"auto", DENSE}
    assert set(forward.run(1).samples) == {"auto", "torch CSR, feature-major", DENSE}
    module = types.ModuleType("sparseprop.modules")
    module.SparseLinear = SparseProp
    monkeypatch.setitem(sys.modules, "sparseprop", types.ModuleType("sparseprop"))
    monkeypatch.setitem(sys.modules, "sparseprop.modules", module)
    monkeypatch.setattr(peers.importlib.metadata, "version", lambda name: "9.9")
    assert peers.missing_peers() == []
    measured = layer.run(1)
    assert set(measured.samples) == {"auto", "sparseprop 9.9", DENSE}
    assert [found.algorithm for found in layer.rows(measured)] == ["auto", "sparseprop 9.9"]


# Optimizer and topology


def test_rows_of_the_optimizer():
    rows = measure_optimizer(4000, 4, torch.float32, rounds=2, peers=True)
    assert [found.case for found in rows] == [
        *("dense parameters", "all mature", "2 % young", "40 cohorts", "40 cohorts, unchecked"),
        *("bf16 moments, against fp32's", "8-bit moments, against fp32's", "torch AdamW, foreach"),
    ]
    assert all(found.weights == 4000 and found.ns > 0 for found in rows)
    full = rows[1].sparse
    assert [found.dense == full for found in rows] == [False] * 5 + [True, True, False]
    assert [found.goal is not None for found in rows] == [True] * 7 + [False]


def test_rows_of_the_topology_update():
    rows = measure_topology(64, 96, 0.25, rounds=2)
    assert [found.op for found in rows] == ["prune", "plan: prune and draw", "topology_update"]
    assert rows[0].sparse.median < rows[1].sparse.median
    assert all(found.weights == 64 * 96 // 4 for found in rows)


def test_pruning_is_what_a_plan_takes_beyond_its_draws():
    taken = with_prune(Rounds({"plan": {WHOLE: [3.0, 5.0]}, "draws": {WHOLE: [1.0, 4.5]}}))
    assert taken.samples["prune"][WHOLE] == [2.0, 0.5]
    # Not the least difference, .5: the second round's draws took long for a reason of their own.
    assert prune_times(taken) == Times(minimum=2.0, median=1.25)


def test_both_topology_updates_replace_as_many_weights():
    ours = SparseUpdate(32, 40, 0.25)
    theirs = MaskedUpdate(ours.layer)
    before, mask = ours.layer.mask.clone(), theirs.mask.clone()
    for body in (ours.plan, ours.draw):
        body()
        assert torch.equal(ours.layer.mask, before)
    ours.whole()
    theirs.whole()
    ones = torch.ones(ours.layer.nnz)
    after = torch.ops.smet.expand(ones, ours.layer.mask, ours.layer.rank, 40).bool()
    assert int((after & ~mask).sum()) == int((theirs.mask & ~mask).sum()) == ours.k == 64
    assert int(theirs.mask.sum()) == ours.layer.nnz
    assert not theirs.weight[theirs.mask & ~mask].any()
    ours.whole()  # every call is an update
    assert ours.scheduler.updates == 2


# The step


class Slow(torch.autograd.Function):
    """Twice its input; forward takes 20 ms, backward 40."""

    @staticmethod
    def forward(ctx, x):
        time.sleep(0.02)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(0.04)
        return 2 * gradient


class SlowModule(nn.Module):
    def forward(self, x):
        return Slow.apply(x)


def test_regions_have_their_own_time_forward_and_backward():
    watch = Stopwatch()
    watched, other = SlowModule(), SlowModule()
    watch.watch_module(watched, "layers")
    x = torch.ones(3, requires_grad=True)
    other(watched(other(watched(x)))).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 16.0))
    assert 0.12 <= watch.seconds["layers"] < 0.12 + 0.1
    watch.reset()
    assert not watch.seconds


def test_attention_is_a_region_only_while_it_is_watched():
    watch = Stopwatch()
    original = nn.functional.scaled_dot_product_attention
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    with watch.watch_attention("attention"):
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.sum().backward()
    assert nn.functional.scaled_dot_product_attention is original
    torch.testing.assert_close(out, original(q, k, v, is_causal=True))
    assert watch.seconds["attention"] > 0
    assert all(tensor.grad is not None for tensor in (q, k, v))


@pytest.fixture
def config_file(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4
    )
    config.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tiny_llama(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def test_rows_of_a_step(config_file):
    rows = measure_step(tiny_llama(config_file), [0.25, 0.5], "expand_gemm", 2, 8, rounds=2)
    assert [(found.density, found.case) for found in rows] == [
        (density, part) for density in (0.25, 0.5) for part in (*PARTS, WHOLE)
    ]
    for density in (0.25, 0.5):
        parts = {found.case: found for found in rows if found.density == density}
        assert all(parts[part].sparse.minimum > 0 for part in (*PARTS, WHOLE))
        assert all(parts[part].dense.minimum > 0 for part in (*PARTS, WHOLE) if part != "topology")
        assert parts["topology"].dense.minimum == 0
        assert parts[WHOLE].sparse.minimum >= sum(parts[part].sparse.minimum for part in PARTS)
    assert [found.goal is not None for found in rows].count(True) == 1  # the whole step at .25


def test_a_timed_step_trains(config_file):
    model = tiny_llama(config_file)
    tokens = torch.arange(16).reshape(2, 8)
    step = SparseStep(model, 0.25, "auto", tokens)
    step.optimizer.param_groups[0]["lr"] = 1e-2
    before = model(input_ids=tokens, labels=tokens).loss.item()
    for _ in range(5):
        step()
    assert model(input_ids=tokens, labels=tokens).loss.item() < before - 0.1
    assert step.scheduler.updates == 5


# The command


def run(capsys, *argv):
    code = main(["bench", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_bench_layer(capsys, tmp_path):
    file, picture = tmp_path / "rows.json", tmp_path / "layers.png"
    code, out, _ = run(
        capsys, "layer", "--shapes", "24x16", "16x24", "--densities", ".25", ".1", "--tokens", "8",
        "--rounds", "2", "--json", str(file), "--picture", str(picture), "--peers",
    )  # fmt: skip
    rows = json.loads(file.read_text())
    assert code == 0
    assert [
        (found["op"], found["out"], found["density"]) for found in rows if found["algorithm"] == "auto"
    ] == [(op, out, density) for op in ("layer", "forward") for density in (0.25, 0.1) for out in (24, 16)]
    assert set(rows[0]) == KEYS
    assert str(this_machine()) in out
    assert "median over shapes" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_bench_optimizer_topology_and_step(capsys, tmp_path, config_file):
    file = tmp_path / "rows.json"
    common = ("--rounds", "2", "--json", str(file))
    assert run(capsys, "optimizer", "--weights", "1000", "--layers", "2", *common)[0] == 0
    assert len(json.loads(file.read_text())) == 7
    assert run(capsys, "topology", "--shape", "32x64", *common)[0] == 0
    assert len(json.loads(file.read_text())) == 3
    code, out, _ = run(capsys, "step", "--model", str(config_file), "--density", ".25", "--batch", "2",
                       "--seq", "8", *common)  # fmt: skip
    assert code == 0
    assert len(json.loads(file.read_text())) == len(PARTS) + 1
    assert "attention" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["layer", "--shapes", "12"], "'12' is no shape; expected out x in, such as 2048x768"),
        (["layer", "--shapes", "0x5"], "'0x5' is no shape"),
        (["layer", "--densities", "0"], "--densities is 0.0; expected 0 < density <= 1"),
        (["layer", "--densities", "nan"], "--densities is nan"),
        (["layer", "--tokens", "0"], "--tokens is [0]; expected at least 1"),
        (["layer", "--algorithms", "spnm"], "there is no algorithm 'spnm'; expected one of auto, "),
        (["layer", "--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["layer", "--densitis", ".5"], "there is no --densitis; did you mean --densities?"),
        (["optimizer", "--weights", "5", "--layers", "9"], "--weights 5 are fewer than the 9 --layers"),
        (["topology", "--density", "2"], "--density is 2.0"),
        (["topology", "--rounds", "0"], "--rounds is 0"),
        (["step", "--model", "8b"], "--model 8b is neither a size"),
        (["stepp"], "there is no command 'stepp'; did you mean step?"),
        ([], "a command is missing"),
    ],
)
def test_mistakes_are_told(capsys, argv, said):
    try:
        code = main(["bench", *argv])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert said in capsys.readouterr().err
