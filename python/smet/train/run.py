# SPDX-License-Identifier: BSD-3-Clause
"""One run in its folder: set up, train, save, summarise.

The folder holds config.yaml, log.jsonl, memory.jsonl, summary.json, tokenizer.json, model/config.json,
weights.pt (a state_dict), sample.txt, run.png and checkpoints/.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import smet
from smet._memory_peak import Peak, Run
from smet._text import format_bytes
from smet.checkpoint import CheckpointError, durable
from smet.train import defaults, process_memory
from smet.train.checkpoints import RunCheckpoints
from smet.train.config import PretrainConfig
from smet.train.data import TokenData, load_data
from smet.train.device import choose_device, device_of
from smet.train.display import make_display
from smet.train.errors import CheckpointRunError, ConfigError
from smet.train.log import JsonlLog, events_until, read_log, write_json
from smet.train.loop import train
from smet.train.memory_timeline import MemoryTimeline
from smet.train.methods import is_sparse, resolve
from smet.train.models import build_model, describe, load_model_config
from smet.train.parallel import Parallel, parallel_run
from smet.train.prepare import FILES, prepare
from smet.train.record import Record
from smet.train.stop import EXIT_CODES, stop_requests


@dataclass(frozen=True)
class RunResult:
    """What a run ended with."""

    folder: Path
    summary: dict[str, Any]
    exit_code: int
    losses: list[float]
    updates: list[int]


def pretrain(config: PretrainConfig, data: TokenData | None = None) -> RunResult:
    """Train as `config` says; `data` spares reading it again. Raises TrainerError; prints as it goes.

    Started by torchrun, every process runs this: rank 0 prints and writes.
    """
    given, config = config, resolve(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model_config = load_model_config(config)
    device = choose_device(config.device)
    process_memory.reset_peak()
    if config.init == "sparse":
        process_memory.return_large_blocks()
    with parallel_run(device) as parallel, ExitStack() as stack:
        folder = parallel.from_main(lambda: _choose_folder(config))
        try:
            parallel.from_main(lambda: stack.enter_context(durable.locked(folder)))
        except CheckpointError as error:
            raise CheckpointRunError(str(error)) from error
        if data is None:
            vocab = getattr(model_config, "vocab_size", None)
            data = parallel.main_first(lambda: load_data(config, folder, vocab))
        if chosen := defaults.note(given, config):
            data.notes.append(chosen)
        model = build_model(config, data.vocab, model_config)
        if device_of(model).type != "meta":
            model.to(device)
        process_memory.release()
        return _run(config, folder, model, model_config, data, parallel)


def _run(
    config: PretrainConfig,
    folder: Path,
    model: nn.Module,
    model_config: Any | None,
    data: TokenData,
    parallel: Parallel,
) -> RunResult:
    checkpoints = RunCheckpoints(folder, config, data, parallel.world)
    if config.resume == "auto" and (ended := parallel.from_main(lambda: _ended(folder, config, checkpoints))):
        return ended
    done = checkpoints.find() if config.resume == "auto" else 0
    kept = events_until(folder / "log.jsonl", done) if done else []
    if not done and parallel.is_main:
        checkpoints.clear()
        _save_setup(folder, config, model, data)
    if config.prepare:
        if parallel.world > 1:
            raise ConfigError("--prepare is done by one process; start it without torchrun")
        prepare(config, folder, model, data)
        return RunResult(folder, {}, 0, [], [])
    with (
        JsonlLog(folder / "log.jsonl" if parallel.is_main else None, kept) as log,
        make_display(config.steps, config.print_every, silent=not parallel.is_main) as display,
        MemoryTimeline(folder / "memory.jsonl" if parallel.is_main else None) as memory,
        stop_requests() as stop,
    ):
        for note in data.notes:
            display.line(f"note: {note}")
        display.line(_title(config, folder, model, data, parallel))
        if predicted := predicted_peak(config, data.vocab, model_config):
            display.line(f"predicted {predicted}")
        tokens = config.batch * config.seq * config.accumulate * parallel.world
        record = Record(log, display, config.steps, tokens, memory)
        expected = predicted.total if predicted else None
        if done:
            record.replay(kept)
            display.line(f"resuming after step {done}")
            log.write("resume", step=done, versions=versions())
        else:
            start = {"config": config.to_dict(), "versions": versions(), "vocab": data.vocab}
            log.write("start", **start, predicted_peak_bytes=expected)
        stopped = train(config, model, data, record, stop, checkpoints, parallel)
        if parallel.is_main:
            with memory.phase("save", len(record.losses)):
                _save_weights(model, folder / "weights.pt")
        summary = _summary(config, model, record, stopped) | {"predicted_peak_bytes": expected}
        if expected:
            display.line(
                f"peak {format_bytes(summary['peak_rss_bytes'])}, predicted {format_bytes(expected)}"
            )
        log.write("end", **{key: value for key, value in summary.items() if key != "config"})
    if parallel.is_main:
        try:
            if not stopped:
                _finish(config, folder, model, data)
        finally:  # last: with it the run has ended
            write_json(folder / "summary.json", summary)
    exit_code = EXIT_CODES[signal.SIGTERM] if parallel.world > 1 else stop.exit_code
    return RunResult(folder, summary, exit_code if stopped else 0, record.losses, record.updates)


def _title(
    config: PretrainConfig, folder: Path, model: nn.Module, data: TokenData, parallel: Parallel
) -> str:
    processes = f"; {parallel.world} processes" if parallel.world > 1 else ""
    where = f" on {torch.cuda.get_device_name()}" if device_of(model).type == "cuda" else ""
    return (
        f"{config.method}: {describe(model)}, vocabulary {data.vocab}, {len(data.train):,} tokens to "
        f"train on, {len(data.held_out):,} held out; writing to {folder}{processes}{where}"
    )


def _ended(folder: Path, config: PretrainConfig, checkpoints: RunCheckpoints) -> RunResult | None:
    """What the run in `folder` ended with, if it did: then --resume auto has nothing left to do.

    ConfigError when it was another run: only --overwrite replaces its results.
    """
    path = folder / "summary.json"
    if not path.is_file() or not (folder / "weights.pt").is_file():
        return None
    try:
        summary = json.loads(path.read_bytes())
        saved, interrupted = summary["config"], summary["interrupted"]
        sequences = summary["tokens"] // (summary["steps"] * config.seq)
    except (ValueError, TypeError, KeyError, ArithmeticError):
        raise CheckpointRunError(
            f"{path} is damaged; remove it, and the run goes on from its last checkpoint"
        ) from None
    if interrupted:
        return None
    checkpoints.check_options(saved, sequences)
    print(f"the run in {folder} has ended; nothing is left to do")
    events = list(read_log(folder / "log.jsonl"))
    losses = [float(event["loss"]) for event in events if event["event"] == "step"]
    updates = [event["step"] for event in events if event["event"] == "topology"]
    return RunResult(folder, summary, 0, losses, updates)


def _save_weights(model: nn.Module, path: Path) -> None:
    """The state_dict, whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:  # a file of Python's: a full disk is then an OSError that says so
        torch.save(model.state_dict(), file)
    os.replace(partial, path)


def predicted_peak(config: PretrainConfig, vocab: int, model_config: Any | None) -> Peak | None:
    """What `smet estimate` says of this process; None for a dense run and for models whose activations it
    does not know."""
    if not is_sparse(config):
        return None
    estimate = smet.estimate(
        config.model if model_config is None else model_config,
        config.density or 1.0,
        dtype=config.dtype,
        distribution=config.distribution or "uniform",
        vocab=vocab if model_config is None else None,
        moments=config.moments,
        master_weights=config.master_weights,
    )
    device = "cpu" if choose_device(config.device).type == "cpu" else "gpu"
    return estimate.peak(
        Run(config.batch, config.seq, config.checkpoint_activations, config.fused_backward, device)
    )


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"smet": smet.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}


def _summary(config: PretrainConfig, model: nn.Module, record: Record, stopped: bool) -> dict[str, Any]:
    return {
        "method": config.method,
        "steps": len(record.losses),
        "interrupted": stopped,
        **record.summary(config.interval),
        "peak_rss_bytes": process_memory.peak_bytes(),
        "parameters": sum(param.numel() for param in model.parameters()),
        "versions": versions(),
        "config": config.to_dict(),
    }


def _choose_folder(config: PretrainConfig) -> Path:
    """The run's folder, made."""
    started = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(config.out or f"runs/{config.method}-{Path(config.model).stem}-{started}")
    if (folder / "log.jsonl").exists() and not config.overwrite and config.resume == "never":
        raise ConfigError(
            f"--out {folder} already holds a run; choose another, or say --resume auto or --overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be made: {error.strerror}") from error
    return folder


def _save_setup(folder: Path, config: PretrainConfig, model: nn.Module, data: TokenData) -> None:
    """All that the weights need to be used later. The saved configuration makes the same run elsewhere."""
    for result in ("summary.json", "weights.pt", "sample.txt", "run.png", *FILES):
        (folder / result).unlink(missing_ok=True)
    saved = replace(config, out=None, overwrite=False, prepare=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(saved.to_dict(), sort_keys=False), encoding="utf-8")
    model.config.save_pretrained(folder / "model")  # type: ignore[operator, union-attr]
    if data.tokenizer is not None:
        data.tokenizer.save(str(folder / "tokenizer.json"))


def _finish(config: PretrainConfig, folder: Path, model: nn.Module, data: TokenData) -> None:
    """The picture and a sample of text."""
    if config.picture:
        from smet.train.plots import draw_runs

        draw_runs([folder], folder / "run.png")
        print(f"picture: {folder / 'run.png'}")
    if config.sample_tokens and data.tokenizer is not None:
        from smet.train.generate import generate

        prompt = data.tokenizer.decode(data.held_out[:32].tolist())
        text = generate(model, data.tokenizer, prompt, config.sample_tokens, seed=config.seed)
        (folder / "sample.txt").write_text(text, encoding="utf-8")
        print(f"sample after {prompt!r}:\n{text[len(prompt) :]}")
