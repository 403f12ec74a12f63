# SPDX-License-Identifier: BSD-3-Clause
"""The sparse layer against nn.Linear, and against its peers: forward + backward, or one of their parts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import smet
from smet.bench.goals import ONE_SHAPE, layer_goal
from smet.bench.peers import alone, csr_forward, sparseprop_layer
from smet.bench.rounds import Body, Rounds, run_rounds
from smet.bench.rows import Row

DENSE = "dense"
_AT_LEAST = 0.2  # seconds for one problem in one sweep
# Times that all problems are gone through. A busy machine has fast and slow minutes, in which a ratio differs
# too, and every set-up lies elsewhere in memory.
_SWEEPS = 5
# Matrix products of one operation on [tokens, out] x [out, in].
PRODUCTS = {"layer": 3, "forward": 1, "backward_input": 1, "backward_values": 1}


@dataclass(frozen=True)
class LayerCase:
    """One line's problem. x [tokens, in] and dy [tokens, out] are float32, token-major, without bias."""

    out_features: int
    in_features: int
    tokens: int
    density: float

    def make(self, algorithm: str) -> tuple[nn.Linear, smet.SparseLinear]:
        """A dense layer, and the sparse one that has its weights at the active positions."""
        dense = nn.Linear(self.in_features, self.out_features, bias=False)
        name = f"{self.out_features}x{self.in_features}"
        return dense, smet.SparseLinear.from_dense(dense, self.density, algorithm=algorithm, name=name)


def body_of(op: str, layer: Callable[[Tensor], Tensor], weight: Tensor, x: Tensor, dy: Tensor) -> Body:
    """One operation of `layer`, whose only parameter is `weight`."""

    def train() -> None:
        x.grad = weight.grad = None
        layer(x).backward(dy)  # type: ignore[no-untyped-call]

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    if op == "layer":
        return train
    if op == "forward":
        return forward
    # The other input is cut off, so that the graph has nothing but what is measured.
    of_input = op == "backward_input"
    weight.requires_grad_(not of_input)
    y = layer(x if of_input else x.detach())
    wanted = x if of_input else weight

    def backward() -> None:
        torch.autograd.grad(y, wanted, dy, retain_graph=True)

    return backward


@dataclass(frozen=True)
class Problem:
    """One operation of a case, by algorithms and, if asked for, by every installed peer."""

    case: LayerCase
    op: str
    algorithms: tuple[str, ...]
    peers: bool = False

    def run(self, rounds: int, sweep: int = 0) -> Rounds:
        """Layers of their own, dense and sparse, in the same rounds."""
        case, op = self.case, self.op
        x = torch.randn(case.tokens, case.in_features, requires_grad=True)
        dy = torch.randn(case.tokens, case.out_features)
        bodies: dict[str, Body] = {}
        for algorithm in self.algorithms:
            dense, sparse = case.make(algorithm)
            bodies[algorithm] = body_of(op, sparse, sparse.values, x, dy)
        bodies[DENSE] = body_of(op, dense, dense.weight, x, dy)
        if self.peers:
            weight = sparse.dense_weight().detach()
            if op == "layer" and (peer := sparseprop_layer(weight)) is not None:
                bodies[peer.name] = alone(body_of(op, peer.layer, peer.weight, x, dy))
            if op == "forward":
                bodies["torch CSR, feature-major"] = csr_forward(weight, x)
        return run_rounds(bodies, rounds, seconds=_AT_LEAST, sweep=sweep)

    def rows(self, measured: Rounds) -> list[Row]:
        """A row for every algorithm and peer."""
        case, op = self.case, self.op
        flops = 2.0 * PRODUCTS[op] * case.out_features * case.in_features * case.tokens
        rows = []
        for name in measured.samples:
            if name == DENSE:
                continue
            goal = layer_goal(op, case.density, case.tokens, torch.get_num_threads(), name)
            rows.append(
                Row(
                    op=op,
                    sparse=measured.times(name),
                    dense=measured.times(DENSE),
                    ratio=measured.ratio(name, DENSE),
                    algorithm=name,
                    out_features=case.out_features,
                    in_features=case.in_features,
                    tokens=case.tokens,
                    density=case.density,
                    sparse_flops=flops * case.density,
                    dense_flops=flops,
                    goal=goal.scaled(ONE_SHAPE) if goal else None,
                    rounds=measured.count,
                )
            )
        return rows


def measure_layers(
    shapes: Sequence[tuple[int, int]],
    densities: Sequence[float],
    tokens: Sequence[int],
    ops: Sequence[str],
    algorithms: Sequence[str],
    rounds: int,
    peers: bool,
) -> list[Row]:
    """The rows of every problem, density by density, of at least `rounds` rounds each."""
    asked = [*ops, "forward"] if peers and "forward" not in ops else list(ops)
    problems = [
        Problem(
            LayerCase(out_features, in_features, count, density),
            op,
            tuple(algorithms if op in ops else algorithms[:1]),
            peers,
        )
        for op in asked
        for count in tokens
        for density in densities
        for out_features, in_features in shapes
    ]
    sweeps = min(rounds, _SWEEPS)
    each = -(-rounds // sweeps)
    measured = [[problem.run(each, sweep) for problem in problems] for sweep in range(sweeps)]
    by_problem = zip(problems, zip(*measured, strict=True), strict=True)
    return [row for problem, its in by_problem for row in problem.rows(Rounds.joined(its))]


def medians(rows: Sequence[Row]) -> list[list[str]]:
    """Lines (op, tokens, density, algorithm, median ratio over shapes, goal, verdict)."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.op, row.tokens, row.density, row.algorithm), []).append(row)
    lines = []
    for (op, tokens, density, algorithm), members in groups.items():
        ratio = statistics.median(row.ratio for row in members if row.ratio is not None)
        goal = layer_goal(op, density, tokens, torch.get_num_threads(), algorithm)
        verdict = ["", ""] if goal is None else [str(goal), goal.verdict(ratio)]
        lines.append([op, str(tokens), f"{density:g}", algorithm, f"{ratio:.3f}", *verdict])
    return lines
