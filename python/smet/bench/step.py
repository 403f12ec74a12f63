# SPDX-License-Identifier: BSD-3-Clause
"""A whole training step of a causal LM, sparse and dense, split into where the time goes.

The dense model's optimizer is torch's fused AdamW. Topology is one update's time divided by its interval.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import smet
from smet.bench.goals import STEP
from smet.bench.regions import Stopwatch
from smet.bench.rounds import WHOLE, Rounds, run_rounds
from smet.bench.rows import Row

INTERVAL = 100  # steps between topology updates
DENSE = "dense"
PARTS = ("layers", "attention", "head", "other", "optimizer", "topology")


class TimedStep:
    """Forward, backward, clipping and optimizer step of one model on one batch; calls return the parts."""

    def __init__(
        self, model: nn.Module, layers: list[nn.Module], optimizer: Optimizer, tokens: Tensor
    ) -> None:
        self.model, self.optimizer, self.tokens = model, optimizer, tokens
        self.watch = Stopwatch()
        for layer in layers:
            self.watch.watch_module(layer, "layers")
        head = model.get_output_embeddings()  # type: ignore[operator]
        head.register_forward_pre_hook(lambda _, args: self.watch.enter("head", *args))

    def __call__(self) -> Mapping[str, float]:
        """Seconds by part; `other` is what is left: embedding, norms, activations, rotation, clipping."""
        self.watch.reset()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with self.watch.watch_attention("attention"):
            loss = self.model(input_ids=self.tokens, labels=self.tokens, use_cache=False).loss
        self.watch.leave("head", loss).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        before = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        parts = {**self.watch.seconds, "optimizer": end - before, "topology": 0.0}
        parts["other"] = end - start - sum(parts.values())
        return parts


class SparseStep(TimedStep):
    """The same with a topology update after every step, counted as one in INTERVAL."""

    def __init__(self, model: nn.Module, density: float, algorithm: str, tokens: Tensor) -> None:
        smet.sparsify_(model, density)
        layers: list[nn.Module] = [layer for _, layer in smet.sparse_layers(model)]
        for layer in layers:
            layer.algorithm = algorithm  # type: ignore[assignment]
        optimizer = smet.CompactAdamW(model, lr=1e-4)
        super().__init__(model, layers, optimizer, tokens)
        self.scheduler = smet.TopologyScheduler(
            model, optimizer, interval=1, fraction_schedule="constant", stop=1.0, total_steps=1_000_000
        )

    def __call__(self) -> Mapping[str, float]:
        """Seconds by part, `topology` among them."""
        parts = super().__call__()
        start = time.perf_counter()
        self.scheduler.step()
        return {**parts, "topology": (time.perf_counter() - start) / INTERVAL}


def dense_step(model: nn.Module, like: list[str], tokens: Tensor) -> TimedStep:
    """The dense model, whose layers are those that the sparse one's were made of."""
    layers = [model.get_submodule(name) for name in like]
    return TimedStep(model, layers, AdamW(model.parameters(), lr=1e-4, fused=True), tokens)


def measure_step(
    model: nn.Module, densities: list[float], algorithm: str, batch: int, seq: int, rounds: int
) -> list[Row]:
    """Rows for every density and part; `whole` is their sum, so that topology counts once in INTERVAL."""
    vocab: int = model.config.vocab_size  # type: ignore[assignment, union-attr]
    tokens = torch.randint(vocab, (batch, seq), generator=torch.Generator().manual_seed(0))
    rows = []
    for density in densities:
        sparse = SparseStep(copy.deepcopy(model), density, algorithm, tokens)
        names = [name for name, _ in smet.sparse_layers(sparse.model)]
        bodies = {"sparse": sparse, DENSE: dense_step(copy.deepcopy(model), names, tokens)}
        measured = with_sums(run_rounds(bodies, rounds))
        for part in (*PARTS, WHOLE):
            rows.append(
                Row(
                    op="step",
                    case=part,
                    sparse=measured.times("sparse", part),
                    dense=measured.times(DENSE, part),
                    ratio=measured.ratio("sparse", DENSE, part),
                    algorithm=algorithm,
                    tokens=batch * seq,
                    density=density,
                    goal=STEP.get(density) if part == WHOLE else None,
                    rounds=measured.count,
                )
            )
    return rows


def with_sums(measured: Rounds) -> Rounds:
    """`whole` replaced by the sum of a round's parts."""
    samples = {}
    for name, parts in measured.samples.items():
        sums = [sum(column) for column in zip(*(parts[part] for part in PARTS), strict=True)]
        samples[name] = {**parts, WHOLE: sums}
    return Rounds(samples)
