# SPDX-License-Identifier: BSD-3-Clause
"""Writing a checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import smet
from smet import _processes as processes
from smet.checkpoint import contents, durable, folder, generators, manifest, plain, tensor_file
from smet.checkpoint.contents import MODEL_FILE, OPTIMIZER_FILE, RUN_FILE
from smet.checkpoint.errors import CheckpointError
from smet.compact_adamw import CompactAdamW
from smet.convert import sparse_layers

if TYPE_CHECKING:
    from smet.topology_scheduler import TopologyScheduler

Tensors = dict[str, Tensor]
_DOUBLES = ("lr", "eps", "weight_decay", "density_scaling", "warmup", "boost", "boost_tau")


def save_checkpoint(
    root: str | os.PathLike[str],
    model: nn.Module,
    opt: torch.optim.Optimizer | None = None,
    topology: TopologyScheduler | None = None,
    *,
    step: int,
    lr_scheduler: Any = None,
    scaler: Any = None,
    extra: dict[str, Any] | None = None,
    gradients: bool = False,
    keep: int | None = None,
) -> Path:
    """Write root/step-00000300 (made if needed) and return it. The run goes on as if nothing had happened.

    Args:
        root: the run's checkpoint folder. One writer at a time: a second one is refused.
        model, opt, topology: what `load_checkpoint` will be given again. Parameters go by canonical name.
        step: optimizer steps done; it names the folder. A step that is there already is refused, unless it
            is damaged.
        lr_scheduler, scaler: anything with a state_dict of plain values and tensors.
        extra: what else the run needs, such as its configuration and position in the data: numbers, strings,
            tensors, and lists and dicts of them. `load_checkpoint` returns it.
        gradients: save gradients too, for a stop between the backward passes of one step.
        keep: remove all but the newest so many step folders, once the new one was read back and found whole.

    In a data-parallel run every rank calls it: rank 0 writes, each rank's generators are kept, and a failure
    raises on all. Raises CheckpointError, or OSError from the file system; older checkpoints stay.
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise CheckpointError(f"step is {step!r}; expected the number of optimizer steps done")
    if keep is not None and keep < 1:
        raise CheckpointError(f"keep is {keep}; expected at least 1, or None to keep all")
    rank, _ = processes.rank_and_world()
    states = processes.gathered(generators.states())

    def write() -> Path:
        target = folder.step_folder(Path(root), step)
        if rank != 0:
            return target
        run: Tensors = {}
        weights, aliases = contents.model_tensors(model)
        for number, saved in enumerate(states):
            run |= {f"generators/{number}/{name}": state for name, state in saved.items()}
        head = {"lr_scheduler": lr_scheduler, "scaler": scaler}
        state = {key: None if value is None else value.state_dict() for key, value in head.items()}
        body = {
            "format": manifest.FORMAT,
            "version": manifest.VERSION,
            "smet": smet.__version__,
            "step": step,
            "layers": contents.layer_entries(model),
            "run": plain.encode({**state, "extra": extra or {}}, "run", run),
            "topology": None if topology is None else _topology_entry(topology, run),
            "aliases": aliases,
        }
        if gradients:
            run |= _gradients(model)
        files = {MODEL_FILE: weights}
        files[OPTIMIZER_FILE], body["optimizer"] = _optimizer_entry(opt, model)
        files[RUN_FILE] = run
        return _write(Path(root), step, files, body, keep)

    return processes.together(write)


def _write(root: Path, step: int, files: dict[str, Tensors], body: dict[str, Any], keep: int | None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with durable.locked(root):
        folder.remove_leftovers(root)
        if step in folder.checkpoint_steps(root):
            _make_room(root, step)
        unfinished = folder.unfinished_folder(root, step)
        try:
            body["files"] = {
                name: tensor_file.write(unfinished / name, tensors)
                for name, tensors in files.items()
                if tensors
            }
            durable.write_file(unfinished / manifest.NAME, manifest.dump(body))
            target = folder.publish(unfinished, root, step)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if keep is not None:
            folder.keep_last(root, keep, step)
        return target


def _make_room(root: Path, step: int) -> None:
    try:
        folder.verify_checkpoint(folder.step_folder(root, step))
    except CheckpointError:
        folder.remove(root, step)
        return
    raise CheckpointError(
        f"{folder.step_folder(root, step)} is there already and whole; save into another folder, or remove it"
    )


def _topology_entry(topology: TopologyScheduler, run: Tensors) -> dict[str, Any]:
    """The clock and its options; explored bitmaps go to the run file."""
    state = topology.state_dict()
    layers = {}
    for name, record in state["layers"].items():
        if "explored" in record:
            run[f"explored/{name}"] = record["explored"]
        layers[name] = {key: value for key, value in record.items() if key != "explored"}
    return {**state, "layers": layers}


def _gradients(model: nn.Module) -> Tensors:
    names = contents.parameter_names(model)
    found = {
        f"gradients/{names[id(param)]}": param.grad for param in model.parameters() if param.grad is not None
    }
    for name, layer in sparse_layers(model):
        if layer.grow_candidates is not None:
            found[f"grow_candidates/{name}"] = layer.grow_candidates
    return found


def _optimizer_entry(
    opt: torch.optim.Optimizer | None, model: nn.Module
) -> tuple[Tensors, dict[str, Any] | None]:
    """State tensors as NAME/KEY, and the options of the groups with their parameters by name."""
    if opt is None:
        return {}, None
    names = contents.parameter_names(model)
    tensors: Tensors = {}
    groups, states = [], []
    saved_groups = opt.state_dict()["param_groups"]
    for number, (group, members) in enumerate(contents.group_names(opt, names)):
        options = {
            key: value for key, value in saved_groups[number].items() if key not in ("params", "param_names")
        }
        if isinstance(opt, CompactAdamW):  # the same text as from C++, whose options are doubles
            options |= {key: float(options[key]) for key in _DOUBLES if type(options[key]) is int}
        groups.append({"params": members, "options": plain.encode(options, f"group {number}", tensors)})
        for param, name in zip(group["params"], members, strict=True):
            state = opt.state.get(param, {})
            states += [name] if state else []
            for key, value in state.items():
                if not isinstance(value, Tensor):
                    value = torch.tensor(value)
                tensors[f"{name}/{key}"] = value
    return tensors, {"class": type(opt).__name__, "groups": groups, "states": sorted(states)}
