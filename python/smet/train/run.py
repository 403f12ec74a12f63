# SPDX-License-Identifier: BSD-3-Clause
"""One run in its folder: set up, train, save, summarise.

The folder holds config.yaml, log.jsonl, summary.json, tokenizer.json, model/config.json, weights.pt (a
state_dict), sample.txt and run.png.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import nn

import smet
from smet.train import process_memory
from smet.train.config import PretrainConfig
from smet.train.data import TokenData, load_data
from smet.train.display import make_display
from smet.train.errors import ConfigError
from smet.train.log import JsonlLog, write_json
from smet.train.loop import train
from smet.train.methods import resolve
from smet.train.models import build_model, describe, load_model_config
from smet.train.record import Record

INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


@dataclass(frozen=True)
class RunResult:
    """What a run ended with."""

    folder: Path
    summary: dict[str, Any]
    exit_code: int
    losses: list[float]
    updates: list[int]


def pretrain(config: PretrainConfig, data: TokenData | None = None) -> RunResult:
    """Train as `config` says; `data` spares reading it again. Raises TrainerError; prints as it goes."""
    config = resolve(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model_config = load_model_config(config)
    folder = _choose_folder(config)
    process_memory.reset_peak()
    if data is None:
        data = load_data(config, folder, getattr(model_config, "vocab_size", None))
    model = build_model(config, data.vocab, model_config)
    _save_setup(folder, config, model, data)

    with (
        JsonlLog(folder / "log.jsonl") as log,
        make_display(config.steps, config.print_every) as display,
        _interrupts() as interrupted,
    ):
        for note in data.notes:
            display.line(f"note: {note}")
        display.line(
            f"{config.method}: {describe(model)}, vocabulary {data.vocab}, {len(data.train):,} tokens to "
            f"train on, {len(data.held_out):,} held out; writing to {folder}"
        )
        log.write("start", config=config.to_dict(), versions=versions(), vocab=data.vocab)
        record = Record(log, display, config.steps, config.batch * config.seq * config.accumulate)
        train(config, model, data, record, interrupted)
        stopped = interrupted()
        summary = _summary(config, model, record, stopped)
        log.write("end", **{key: value for key, value in summary.items() if key != "config"})
    torch.save(model.state_dict(), folder / "weights.pt")
    write_json(folder / "summary.json", summary)
    if not stopped:
        _finish(config, folder, model, data)
    return RunResult(folder, summary, INTERRUPTED if stopped else 0, record.losses, record.updates)


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
    if config.out is None:
        started = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{config.method}-{Path(config.model).stem}-{started}"
    folder = Path(config.out)
    if (folder / "log.jsonl").exists() and not config.overwrite:
        raise ConfigError(f"--out {folder} already holds a run; choose another, or say --overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be made: {error.strerror}") from error
    return folder


def _save_setup(folder: Path, config: PretrainConfig, model: nn.Module, data: TokenData) -> None:
    """All that the weights need to be used later. The saved configuration makes the same run elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in ("summary.json", "weights.pt", "sample.txt", "run.png"):
        (folder / result).unlink(missing_ok=True)
    saved = replace(config, out=None, overwrite=False)
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


@contextmanager
def _interrupts() -> Iterator[Any]:
    """Ctrl-C once: the function given says True from then on. Twice: KeyboardInterrupt at once."""
    asked = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)

    try:
        previous = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not in the main thread
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
