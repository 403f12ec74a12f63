# SPDX-License-Identifier: BSD-3-Clause
"""One topology update of one layer against the same update of a masked dense layer (torch.topk)."""

from __future__ import annotations

import torch

import smet
from smet.bench.goals import PRUNE, TOPOLOGY_UPDATE, Goal
from smet.bench.rounds import WHOLE, Body, Rounds, Times, run_rounds
from smet.bench.rows import Row

DENSE = "masked dense"
_FRACTION = 0.2
_OPS = torch.ops.smet


class SparseUpdate:
    """A layer with gradients and optimizer state, on which every call does one whole update."""

    def __init__(self, out_features: int, in_features: int, density: float) -> None:
        self.layer = smet.SparseLinear(in_features, out_features, False, density=density, name="layer")
        self.layer.values.grad = torch.randn_like(self.layer.values)
        self.optimizer = smet.CompactAdamW(self.layer)
        self.state = self.optimizer.state[self.layer.values]
        self.updates = 0
        self.k = int(_FRACTION * self.layer.nnz)
        self.scheduler = smet.TopologyScheduler(
            self.layer,
            self.optimizer,
            interval=1,
            fraction=_FRACTION,
            fraction_schedule="constant",
            stop=1.0,
            total_steps=1_000_000,
        )

    def whole(self) -> None:
        """Prune, draw, and lay out values, gradients, moments and cohorts anew."""
        self.state["step"] += 1  # else the scheduler sees that the optimizer did nothing, and waits
        assert self.scheduler.step() is not None

    def plan(self) -> None:
        """Prune and draw; nothing is changed."""
        layer = self.layer
        self.updates += 1
        _OPS.topology_plan(
            layer.mask,
            layer.rank,
            layer.values.detach(),
            True,
            layer.in_features,
            self.k,
            None,
            1,
            self.updates,
        )

    def draw(self) -> None:
        """Draw alone."""
        self.updates += 1
        _OPS.draw_positions(self.layer.mask, self.layer.in_features, self.k, 1, 1, self.updates)


class MaskedUpdate:
    """The same layer as dense tensors and a mask: what a training script does without a sparse format."""

    def __init__(self, layer: smet.SparseLinear) -> None:
        self.mask = _OPS.expand(
            torch.ones(layer.nnz), layer.mask, layer.rank, layer.in_features
        ).bool()  # fmt: skip
        self.weight = layer.dense_weight().detach()
        self.state = [torch.randn_like(self.weight) for _ in range(3)]  # gradient and moments
        self.k = int(_FRACTION * layer.nnz)

    def prune(self) -> None:
        """Find the k smallest active weights."""
        score = torch.where(self.mask, self.weight.abs(), torch.inf)
        self.pruned = score.flatten().topk(self.k, largest=False, sorted=False).indices

    def whole(self) -> None:
        """Prune, grow at random, clear what is inactive or newborn."""
        self.prune()
        score = torch.rand_like(self.weight).masked_fill_(self.mask, -1)
        grown = score.flatten().topk(self.k, sorted=False).indices
        for tensor in (self.weight, *self.state):
            tensor.view(-1)[self.pruned] = 0
            tensor.view(-1)[grown] = 0
        self.mask.view(-1)[self.pruned] = False
        self.mask.view(-1)[grown] = True


def measure_topology(out_features: int, in_features: int, density: float, rounds: int) -> list[Row]:
    """Rows for pruning (a plan less its draws), for the draws and for the whole update."""
    ours = SparseUpdate(out_features, in_features, density)
    theirs = MaskedUpdate(ours.layer)
    bodies: dict[str, Body] = {
        "plan": ours.plan,
        "draws": ours.draw,
        "whole": ours.whole,
        "prune, dense": theirs.prune,
        DENSE: theirs.whole,
    }
    measured = with_prune(run_rounds(bodies, rounds))

    def row(op: str, body: str, baseline: str, goal: Goal | None) -> Row:
        return Row(
            op=op,
            sparse=prune_times(measured) if body == "prune" else measured.times(body),
            dense=measured.times(baseline),
            ratio=measured.ratio(body, baseline),
            out_features=out_features,
            in_features=in_features,
            density=density,
            weights=ours.layer.nnz,
            goal=goal,
            rounds=measured.count,
        )

    return [
        row("prune", "prune", "prune, dense", PRUNE),
        row("plan: prune and draw", "plan", DENSE, None),
        row("topology_update", "whole", DENSE, TOPOLOGY_UPDATE),
    ]


def with_prune(measured: Rounds) -> Rounds:
    """`prune` added: in every round what planning took beyond the draws alone."""
    plan, draws = (measured.samples[body][WHOLE] for body in ("plan", "draws"))
    prune = [whole - part for whole, part in zip(plan, draws, strict=True)]
    return Rounds({**measured.samples, "prune": {WHOLE: prune}})


def prune_times(measured: Rounds) -> Times:
    """Of `prune`: as minimum the minima's difference, for the least difference is the noisiest round's."""
    minimum = measured.times("plan").minimum - measured.times("draws").minimum
    return Times(minimum, measured.times("prune").median)
