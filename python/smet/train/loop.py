# SPDX-License-Identifier: BSD-3-Clause
"""The training loop: how the library is used, from a dense model to a trained sparse one."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR

import smet
from smet.train.age_probe import AgeProbe
from smet.train.checkpoints import RunCheckpoints, Training
from smet.train.config import PretrainConfig
from smet.train.data import Batches, TokenData
from smet.train.device import choose_device, device_of
from smet.train.errors import NonFiniteLossError
from smet.train.evaluate import evaluate
from smet.train.loss import next_token_loss
from smet.train.memory_timeline import MemoryTimeline
from smet.train.methods import is_dynamic, is_sparse
from smet.train.models import checkpoint_activations, materialise
from smet.train.parallel import Parallel
from smet.train.record import Record

ALONE = Parallel()
Phase = Callable[[str, int], AbstractContextManager[None]]  # MemoryTimeline.phase
NO_PHASE: Phase = MemoryTimeline().phase


def train(
    config: PretrainConfig,
    model: nn.Module,
    data: TokenData,
    record: Record,
    should_stop: Callable[[], bool] = lambda: False,
    checkpoints: RunCheckpoints | None = None,
    parallel: Parallel = ALONE,
) -> bool:
    """Train `model`, which is dense and is made sparse here, for config.steps steps.

    `config` is a resolved one. `should_stop` is asked after every step; a run that stops early is saved, and
    neither evaluated nor finished, and True is returned. `checkpoints` says where it starts. Raises
    NonFiniteLossError before the optimizer step that a loss or gradient without a finite value would spoil.
    """
    phase = record.memory.phase
    with phase("build"):
        training = set_up(config, model, lambda text: record.display.line(text), parallel.rank)
    optimizer, schedule, probe = training.optimizer, training.schedule, training.probe
    batches = Batches(data.train, config.seq, config.batch, config.seed)
    replica = parallel.wrap(model)
    done = checkpoints.restore(training) if checkpoints is not None else 0

    skipped = optimizer.skipped_steps
    for step in range(done + 1, config.steps + 1):
        record.start_step()
        with probe.watch(step):  # with --fused-backward weights move in the backward pass
            if config.fused_backward:
                loss, norm = updating_backward(config, replica, optimizer, batches, step, parallel, phase)
            else:
                loss = parallel.mean(step_gradients(config, replica, batches, step, parallel, phase))
                norm = clip(model, config.clip or 0.0, step, config.on_nonfinite)
            with phase("step", step):
                optimizer.step()
        lr = float(schedule.get_last_lr()[0])
        schedule.step()
        if optimizer.skipped_steps > skipped:
            skipped = optimizer.skipped_steps
            record.skipped(step)
        if step == done + 1:
            record.measured(smet.report(model, optimizer))
        record.step(step, loss, lr, norm)
        if probe.result is not None:
            record.update_sizes(probe.result)

        # Before the topology changes: just after it, newborn weights are still zero.
        due = step == config.steps or (config.eval_every and step % config.eval_every == 0)
        if due and parallel.is_main:
            held_out(config, model, data, record, step)
        change_topology(training, record, step)
        optimizer.zero_grad()
        stopped = parallel.any(should_stop()) and step < config.steps
        if checkpoints is not None and checkpoints.due(step, stopped):
            record.log.sync()
            with phase("save", step):
                checkpoints.save(step, training)
        if stopped:
            return True
    return False


def held_out(config: PretrainConfig, model: nn.Module, data: TokenData, record: Record, step: int) -> None:
    """Evaluate the model after `step` steps."""
    assert config.eval_batch is not None
    with record.memory.phase("evaluation", step):
        result = evaluate(model, data.held_out, config.seq, config.eval_batch, data.held_out_bytes)
    record.evaluated(step, result)


def change_topology(training: Training, record: Record, step: int) -> None:
    """Count one step, and update the topology when it is due."""
    if training.topology is None:
        return
    with record.memory.phase("topology", step):
        update = training.topology.step()
    if update is not None:
        training.probe.grew(step, update.update)
        record.topology(step, update)


def set_up(config: PretrainConfig, model: nn.Module, show: Callable[[str], None], rank: int = 0) -> Training:
    """The state of a run before its first step; `model`, which is dense, is made sparse here."""
    torch.manual_seed(config.seed + rank)  # dropout's: smet itself draws from no global generator
    if is_sparse(config):
        show(str(sparsify(model, config)))
    if config.checkpoint_activations:
        checkpoint_activations(model)
    optimizer = make_optimizer(model, config)
    schedule = LambdaLR(optimizer, lambda done: lr_factor(config, done))
    topology = make_topology(model, optimizer, config) if is_dynamic(config) else None
    return Training(model, optimizer, schedule, topology, AgeProbe(model, optimizer))


def sparsify(model: nn.Module, config: PretrainConfig) -> smet.ConversionTable:
    """Make the projections sparse; see --init for their weights."""
    assert config.density is not None
    from_meta = device_of(model).type == "meta"
    table = smet.sparsify_(
        model,
        density=config.density,
        distribution=config.distribution or "uniform",
        init_std=getattr(model.config, "initializer_range", 0.02) if from_meta else None,
        init_scale=config.init_scale,
        seed=config.seed,
    )
    if from_meta:
        materialise(model, config.seed, choose_device(config.device))
    return table


def make_optimizer(model: nn.Module, config: PretrainConfig) -> smet.CompactAdamW:
    """CompactAdamW for every method: without sparse layers it is AdamW."""
    assert config.lr is not None
    return smet.CompactAdamW(
        model,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        density_scaling=config.density_scaling or 0.0,
        warmup=config.warmup or 0,
        boost=1.0 if config.boost is None else config.boost,
        boost_tau=config.boost_tau or 50.0,
        local_age=config.adam == "local",
        stochastic_rounding=bool(config.stochastic_rounding),
        master_weights=config.master_weights,
        moments=config.moments,
        seed=config.seed,
        on_nonfinite=config.on_nonfinite,
        fused_backward=config.fused_backward,
    )


def make_topology(
    model: nn.Module, optimizer: smet.CompactAdamW, config: PretrainConfig
) -> smet.TopologyScheduler:
    """The scheduler that prunes and grows every config.interval steps."""
    assert config.stop is not None
    options = ("interval", "fraction", "final_fraction", "fraction_schedule", "prune", "grow", "seed")
    return smet.TopologyScheduler(
        model,
        optimizer,
        total_steps=config.steps,
        stop=float(config.stop),
        **{name: getattr(config, name) for name in options},
    )


def lr_factor(config: PretrainConfig, done: int) -> float:
    """Part of the peak learning rate after `done` steps: linear warm-up, then a cosine to lr_final."""
    rising = config.lr_warmup or 0.0
    warmup = math.ceil(rising * config.steps if rising < 1 else rising)
    if done < warmup:
        return (done + 1) / warmup
    part = (done - warmup) / max(1, config.steps - 1 - warmup)
    return config.lr_final + (1 - config.lr_final) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def step_gradients(
    config: PretrainConfig,
    model: nn.Module,
    batches: Batches,
    step: int,
    parallel: Parallel = ALONE,
    phase: Phase = NO_PHASE,
) -> float:
    """All backward passes of a step; the loss on this process's batches: every world-th, from its rank on."""
    loss = 0.0
    first = (step - 1) * config.accumulate
    for part in range(first, first + config.accumulate):
        batch = batches[part * parallel.world + parallel.rank]
        last = part == first + config.accumulate - 1
        with nullcontext() if last else parallel.accumulating(model):
            loss += backward(model, batch, config.accumulate, step, config.on_nonfinite, parallel, phase)
    return loss


def updating_backward(
    config: PretrainConfig,
    model: nn.Module,
    optimizer: smet.CompactAdamW,
    batches: Batches,
    step: int,
    parallel: Parallel = ALONE,
    phase: Phase = NO_PHASE,
) -> tuple[float, float | None]:
    """The pass or passes of --fused-backward: the loss, and where it is clipped the norm before."""

    def gradients() -> float:
        return step_gradients(config, model, batches, step, parallel, phase)

    if not config.clip:
        return gradients(), None
    loss, norm = optimizer.clipped_backward(gradients, config.clip)
    return loss, norm.item()


def backward(
    model: nn.Module,
    batch: Tensor,
    parts: int,
    step: int,
    on_nonfinite: str = "raise",
    parallel: Parallel = ALONE,
    phase: Phase = NO_PHASE,
) -> float:
    """Add the gradients of one of `parts` equal batches; its part of the step's loss."""
    with phase("forward", step):
        loss = next_token_loss(model, batch.to(device_of(model))) / parts
    value = loss.item()
    if on_nonfinite == "raise" and parallel.any(not math.isfinite(value)):
        raise NonFiniteLossError(
            f"the loss is {value} at step {step}; stopped before the update. Try a smaller --lr"
        )
    with phase("backward", step):
        torch.autograd.backward(loss)
    return value


def clip(model: nn.Module, largest: float, step: int, on_nonfinite: str = "raise") -> float:
    """Scale all gradients so that their norm is at most `largest` (0 = leave them); the norm before.

    A norm that is not finite raises NonFiniteLossError, or ("skip") is left for the optimizer to skip.
    """
    named = [(name, param) for name, param in model.named_parameters() if param.grad is not None]
    norm = torch.as_tensor(get_total_norm([param.grad for _, param in named if param.grad is not None]))
    if not math.isfinite(norm.item()):
        if on_nonfinite == "skip":
            return norm.item()
        culprits = (name for name, param in named if not torch.isfinite(param.grad).all())  # type: ignore[arg-type]
        raise NonFiniteLossError(
            f"the gradient of {next(culprits, 'all parameters together')} is not finite at step {step}; "
            "stopped before the update"
        )
    if largest > 0:
        clip_grads_with_norm_([param for _, param in named], largest, norm)
    return float(norm)
