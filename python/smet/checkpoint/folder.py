# SPDX-License-Identifier: BSD-3-Clause
"""Step folders in a checkpoint folder: their names, the newest whole one, and which are kept."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path

from smet.checkpoint import durable, manifest, tensor_file
from smet.checkpoint.errors import CheckpointError

_STEP = re.compile(r"step-(\d{8,})")
_UNFINISHED, _REMOVED = ".saving-", ".removed-"


def step_folder(root: Path, step: int) -> Path:
    """root/step-00000300."""
    return root / f"step-{step:08d}"


def checkpoint_steps(root: str | os.PathLike[str]) -> list[int]:
    """Steps that have a folder in `root`, ascending; damaged ones too."""
    found = []
    for entry in Path(root).iterdir() if Path(root).is_dir() else ():
        if (match := _STEP.fullmatch(entry.name)) and entry.is_dir():
            found.append(int(match[1]))
    return sorted(found)


def verify_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless the step folder `path` is complete and every checksum fits."""
    _verify(Path(path), None)


def _verify(folder: Path, files: Collection[str] | None) -> None:
    for name, entry in manifest.read(folder)["files"].items():
        if files is None or name in files:
            tensor_file.verify(folder / name, entry)


def latest_checkpoint(root: str | os.PathLike[str]) -> Path | None:
    """The newest step folder in `root` that is complete and whole, or None where `root` has no step folder.

    Warns of every damaged one that is passed over; CheckpointError when there are only damaged ones.
    """
    return newest_checkpoint(root, None)


def newest_checkpoint(root: str | os.PathLike[str], files: Collection[str] | None) -> Path | None:
    """As `latest_checkpoint`, but only the manifest and `files` (None: all) have to be whole."""
    damaged = []
    for step in reversed(checkpoint_steps(root)):
        folder = step_folder(Path(root), step)
        try:
            _verify(folder, files)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for message in damaged:
            warnings.warn(f"passed over a damaged checkpoint: {message}", stacklevel=3)
        return folder
    if damaged:
        raise CheckpointError(f"{root} has only damaged checkpoints: {'; '.join(damaged)}")
    return None


def unfinished_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` is put together; a new, empty folder."""
    folder = root / f"{_UNFINISHED}{step:08d}"
    folder.mkdir()
    return folder


def remove_leftovers(root: Path) -> None:
    """What interrupted saves and removals left; the caller holds the lock."""
    for entry in root.iterdir():
        if entry.name.startswith((_UNFINISHED, _REMOVED)) and not entry.is_symlink():
            shutil.rmtree(entry)


def publish(folder: Path, root: Path, step: int) -> Path:
    """Give a complete folder its name. All of it is on disk when the name appears."""
    durable.flush(folder)
    target = step_folder(root, step)
    folder.rename(target)
    durable.flush(root)
    return target


def keep_last(root: Path, count: int, saved: int) -> None:
    """Remove all but the `count` newest step folders, after that of `saved` was read back and found whole."""
    others = [step for step in checkpoint_steps(root) if step != saved]
    old = others[: max(0, len(others) - (count - 1))]
    if old:
        verify_checkpoint(step_folder(root, saved))
    for step in old:
        remove(root, step)


def remove(root: Path, step: int) -> None:
    """Remove a step folder. Renamed first: a removal that is interrupted must leave no half a folder."""
    removed = root / f"{_REMOVED}{step:08d}"
    step_folder(root, step).rename(removed)
    shutil.rmtree(removed)
