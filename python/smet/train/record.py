# SPDX-License-Identifier: BSD-3-Clause
"""What a run remembers of itself: every event goes to log.jsonl and to the display, some into the summary."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from smet._text import format_bytes
from smet.train.evaluate import Evaluation
from smet.train.memory_timeline import MemoryTimeline
from smet.train.process_memory import resident_bytes
from smet.train.spikes import quiet_spikes, spikes

if TYPE_CHECKING:
    from smet import TopologyUpdate
    from smet.memory_report import Report
    from smet.train.age_probe import UpdateSizes
    from smet.train.display import Display
    from smet.train.log import JsonlLog


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step."""

    step: int
    loss: float
    lr: float
    grad_norm: float | None  # None: nobody measured it
    tokens: int  # of the whole run so far
    seconds: float  # of this step, without evaluation
    tokens_per_second: float
    rss_bytes: int
    seconds_left: float


@dataclass
class Record:
    """History of a run, fed by the loop."""

    log: JsonlLog
    display: Display
    steps: int
    tokens_per_step: int
    memory: MemoryTimeline = field(default_factory=MemoryTimeline)  # one without a log notes nothing
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)  # steps done at each topology update
    skipped_steps: int = 0
    density: float | None = None
    topology_hash: str | None = None
    evaluation: Evaluation | None = None
    report: Report | None = None
    _started: float = field(default_factory=time.perf_counter)

    @property
    def seconds_per_step(self) -> float | None:
        """Median over the steps after the first two, which also allocate."""
        seconds = self.step_seconds[2:] or self.step_seconds
        return statistics.median(seconds) if seconds else None

    def replay(self, events: Iterable[dict[str, Any]]) -> None:
        """Take over what a resumed run logged before."""
        for event in events:
            kind = event["event"]
            if kind == "step":
                self.losses.append(float(event["loss"]))
                self.step_seconds.append(event["seconds"])
            elif kind == "topology":
                self.updates.append(event["step"])
                self.density, self.topology_hash = event["density"], event["hash"]
            elif kind == "skipped":
                self.skipped_steps = event["skipped_steps"]
            elif kind == "eval":
                loss, bits = float(event["val_loss"]), event["val_bits_per_byte"]
                self.evaluation = Evaluation(loss, event["tokens"], bits)

    def start_step(self) -> None:
        """The clock of one step starts."""
        self._started = time.perf_counter()

    def step(self, step: int, loss: float, lr: float, grad_norm: float | None) -> None:
        """One optimizer step is done."""
        seconds = time.perf_counter() - self._started
        self.losses.append(loss)
        self.step_seconds.append(seconds)
        recent = statistics.median(self.step_seconds[-20:])
        record = StepRecord(
            step=step,
            loss=loss,
            lr=lr,
            grad_norm=grad_norm,
            tokens=step * self.tokens_per_step,
            seconds=seconds,
            tokens_per_second=self.tokens_per_step / seconds,
            rss_bytes=resident_bytes(),
            seconds_left=recent * (self.steps - step),
        )
        self.log.write("step", **asdict(record))
        self.display.step(record)

    def evaluated(self, step: int, result: Evaluation) -> None:
        """The held-out data was evaluated after `step` steps."""
        self.evaluation = result
        bits = result.bits_per_byte
        self.log.write(
            "eval",
            step=step,
            val_loss=result.loss,
            val_perplexity=result.perplexity,
            val_bits_per_byte=bits,
            tokens=result.tokens,
        )
        per_byte = f"  {bits:.4f} bits per byte" if bits is not None else ""
        self.display.line(
            f"step {step}/{self.steps}  held-out loss {result.loss:.4f}  "
            f"perplexity {result.perplexity:.2f}{per_byte}"
        )

    def topology(self, step: int, update: TopologyUpdate) -> None:
        """The topology changed after `step` steps, which count skipped ones; update.step does not."""
        self.updates.append(step)
        self.density = update.density
        self.topology_hash = f"{update.hash:016x}"
        pruned = update.last_cohort_pruned
        self.log.write(
            "topology",
            step=step,
            update=update.update,
            fraction=update.fraction,
            density=update.density,
            replaced=update.k,
            churn=update.churn,
            last_cohort_pruned=pruned,
            nan_scores=update.nan_count,
            explored=update.explored,
            hash=self.topology_hash,
        )
        of_last = f"  of the last grown {100 * pruned:.0f} % pruned" if pruned is not None else ""
        nan = f"  {update.nan_count} weights were NaN" if update.nan_count else ""
        self.display.line(
            f"step {step}/{self.steps}  topology update {update.update}: {update.k:,} weights "
            f"replaced ({100 * update.churn:.1f} %){of_last}{nan}"
        )

    def skipped(self, step: int) -> None:
        """The optimizer left a step out: a gradient was not finite."""
        self.skipped_steps += 1
        self.log.write("skipped", step=step, skipped_steps=self.skipped_steps)
        self.display.line(
            f"step {step}/{self.steps}  skipped: a gradient was NaN or infinite ({self.skipped_steps} so far)"
        )

    def measured(self, report: Report) -> None:
        """Weights, gradients, optimizer state and index were measured."""
        self.report = report
        sparse, everything = report.sparse_total, report.sparse_dense_adamw_bytes
        if report.per_layer:
            positions = sum(layer.shape[0] * layer.shape[1] for layer in report.per_layer.values())
            self.density = sum(layer.n for layer in report.per_layer.values()) / positions
            self.display.line(
                f"sparse layers: {format_bytes(sparse)} of weights, gradients, optimizer state and index, "
                f"{100 * sparse / everything:.1f} % of dense AdamW's {format_bytes(everything)}"
            )
        else:
            self.density = 1.0
        self.log.write("state_bytes", total=report.total, **report.by_kind)

    def summary(self, interval: int | None) -> dict[str, Any]:
        """The figures of the run that follow from its history."""
        window = interval or 100
        jumps = spikes(self.losses, self.updates, window)
        quiet = quiet_spikes(self.losses, self.updates, window)
        evaluation, report = self.evaluation, self.report
        seconds = self.seconds_per_step
        last = self.losses[-20:]
        return {
            "train_loss": statistics.fmean(last) if last else None,
            "val_loss": evaluation.loss if evaluation else None,
            "val_perplexity": evaluation.perplexity if evaluation else None,
            "val_bits_per_byte": evaluation.bits_per_byte if evaluation else None,
            "spike_mean": jumps.mean,
            "spike_max": jumps.largest,
            "spike_error": jumps.error,
            "quiet_spike_mean": quiet.mean,
            "quiet_spike_max": quiet.largest,
            "topology_updates": len(self.updates),
            "topology_hash": self.topology_hash,
            "skipped_steps": self.skipped_steps,
            "density": self.density,
            "tokens": len(self.losses) * self.tokens_per_step,
            "seconds_per_step": seconds,
            "tokens_per_second": self.tokens_per_step / seconds if seconds else None,
            "state_bytes": report.by_kind if report else None,
            "state_bytes_total": report.total if report else None,
            "state_bytes_dense_adamw": report.dense_adamw_bytes if report else None,
            "sparse_layer_bytes": report.sparse_total if report else None,
            "sparse_layer_bytes_formula": report.formula if report else None,
            "sparse_layer_bytes_dense_adamw": report.sparse_dense_adamw_bytes if report else None,
        }

    def update_sizes(self, sizes: UpdateSizes) -> None:
        """How far newborn and mature weights moved in one step."""
        self.log.write("update_size", **asdict(sizes))
