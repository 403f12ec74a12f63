# SPDX-License-Identifier: BSD-3-Clause
"""A run's checkpoints: saved every --save-every steps and when it is stopped, resumed with --resume auto."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import smet
from smet.checkpoint.manifest import read as read_manifest
from smet.train.age_probe import AgeProbe
from smet.train.config import PretrainConfig
from smet.train.data import TokenData
from smet.train.errors import CheckpointRunError, ConfigError
from smet.train.methods import flag

# What may change between the two halves of a run without changing what it computes.
_FREE = frozenset(
    {
        *("out", "overwrite", "prepare", "resume", "save_every", "keep", "print_every", "picture"),
        *("sample_tokens", "threads", "device", "fused_backward", "checkpoint_activations"),
        *("data", "eval_data", "tokenizer", "text_column", "token_dtype", "max_bytes", "vocab"),
        *("eval_every", "eval_bytes", "eval_batch", "model"),  # names and weights of the model are compared
        *("batch", "accumulate"),  # their product may not
    }
)


@dataclass
class Training:
    """What a run's state is made of."""

    model: nn.Module
    optimizer: smet.CompactAdamW
    schedule: LRScheduler
    topology: smet.TopologyScheduler | None
    probe: AgeProbe


class RunCheckpoints:
    """The folder checkpoints/ of a run."""

    def __init__(self, folder: Path, config: PretrainConfig, data: TokenData, processes: int = 1) -> None:
        self.root = folder / "checkpoints"
        self.config, self.every = config, config.save_every
        self._fingerprint = fingerprint(data)
        self._sequences = config.batch * config.accumulate * processes  # of one step
        self._path: Path | None = None
        self.saved: int | None = None

    def clear(self) -> None:
        """Remove all of them: a new run takes the folder. The folder itself may be a link to another disk."""
        for entry in self.root.iterdir() if self.root.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def find(self) -> int:
        """Step of the newest whole checkpoint, which `restore` will load; 0 when there is none."""
        try:
            self._path = smet.latest_checkpoint(self.root)
            return int(read_manifest(self._path)["step"]) if self._path else 0
        except smet.CheckpointError as error:
            raise CheckpointRunError(str(error)) from error

    def restore(self, training: Training) -> int:
        """Load what `find` found; the steps done. TrainerError when this is not the run that was saved."""
        if self._path is None:
            return 0
        try:
            found = smet.load_checkpoint(
                self._path,
                training.model,
                training.optimizer,
                training.topology,
                lr_scheduler=training.schedule,
                check_extra=self._check,
            )
        except smet.CheckpointError as error:
            raise CheckpointRunError(str(error)) from error
        training.probe.load_state(found.extra["probe"])
        self.saved = found.step
        return found.step

    def due(self, step: int, stopped: bool) -> bool:
        """Whether to save after `step`: every so often, and when the run was asked to stop."""
        return step != self.saved and (stopped or (self.every > 0 and step % self.every == 0))

    def save(self, step: int, training: Training) -> None:
        """Save, and remove what is older than the checkpoints to keep."""
        extra = {
            "config": self.config.to_dict(),
            "data": self._fingerprint,
            "sequences_per_step": self._sequences,
            "sequences": step * self._sequences,
            "probe": training.probe.state(),
        }
        smet.save_checkpoint(
            self.root,
            training.model,
            training.optimizer,
            training.topology,
            step=step,
            lr_scheduler=training.schedule,
            extra=extra,
            keep=self.config.keep,
        )
        self.saved = step

    def _check(self, extra: dict[str, Any]) -> None:
        """ConfigError unless the checkpoint is of this very run."""
        self.check_options(extra.get("config", {}), extra.get("sequences_per_step"))
        if extra.get("data") != self._fingerprint:
            raise ConfigError(f"the training data is not that of {self.root}; a run resumes on its own data")

    def check_options(self, saved: dict[str, Any], sequences: int | None) -> None:
        """ConfigError unless a run with these options and sequences per step is the same as this one."""
        here = self.config.to_dict()
        for field in (field for field in here if field not in _FREE and field in saved):
            if saved[field] != here[field]:
                raise ConfigError(
                    f"{flag(field)} is {here[field]}, but {self.root} was saved with {saved[field]}; "
                    "continue with the same options, or start another run (--overwrite, or another --out)"
                )
        if sequences != self._sequences:
            raise ConfigError(
                f"--batch x --accumulate x processes is {self._sequences} sequences a step, but {self.root} "
                f"was saved with {sequences}; choose them so that it stays the same"
            )


def fingerprint(data: TokenData) -> str:
    """SHA-256 of the number of tokens and of 64 evenly spread pieces of them."""
    digest = hashlib.sha256(f"{len(data.train)} {data.vocab}".encode())
    for start in np.linspace(0, max(0, len(data.train) - 4096), 64).astype(int):
        piece: NDArray[Any] = np.asarray(data.train[start : start + 4096], dtype="<u4")
        digest.update(piece.tobytes())
    return digest.hexdigest()
