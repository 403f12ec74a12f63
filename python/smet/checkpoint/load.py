# SPDX-License-Identifier: BSD-3-Clause
"""Reading a checkpoint: everything is checked before the first tensor changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smet import _packing
from smet import _processes as processes
from smet.checkpoint import contents, folder, generators, manifest, plain, tensor_file
from smet.checkpoint.contents import MODEL_FILE, OPTIMIZER_FILE, RUN_FILE
from smet.checkpoint.errors import CheckpointError
from smet.checkpoint.optimizer_state import plan_optimizer
from smet.convert import sparse_layers
from smet.sparse_linear import SparseLinear

if TYPE_CHECKING:
    from smet.checkpoint.tensor_file import TensorFile
    from smet.topology_scheduler import TopologyScheduler

Commit = Callable[[], None]  # carries out what was checked


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded: the `path` of the step folder, the `step`s done, and the caller's `extra`."""

    path: Path
    step: int
    extra: dict[str, Any]


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    opt: torch.optim.Optimizer | None = None,
    topology: TopologyScheduler | None = None,
    *,
    lr_scheduler: Any = None,
    scaler: Any = None,
    restore_generators: bool = True,
    check_extra: Callable[[dict[str, Any]], None] | None = None,
) -> Checkpoint:
    """Continue where `save_checkpoint` was called, bit for bit.

    `path` is a step folder, or a checkpoint folder, of which the newest whole step is taken (a damaged one
    that is passed over is warned of). Everything given here must have been saved, with equal parameter names,
    shapes, dtypes and densities; entries are matched by name. Tensors are copied into the existing ones, on
    the devices where they are, one at a time. In a data-parallel run every rank calls it. Without `opt`, as
    for inference, the optimizer's file is not read and need not be there.
    `check_extra` is called with the caller's `extra` before anything changes, and may raise.

    Raises CheckpointError naming the file, parameter, layer or option that is wrong; nothing is changed then.
    """

    def prepare() -> tuple[Checkpoint, list[Commit]]:
        needed = {MODEL_FILE, RUN_FILE} | ({OPTIMIZER_FILE} if opt is not None else set())
        step_path = _step_path(Path(path), needed)
        body = manifest.read(step_path)
        entries = {name: entry for name, entry in body["files"].items() if name in needed}
        files = tensor_file.open_all(step_path, entries)
        try:
            extra = plain.decode(body["run"].get("extra"), _reader(files, RUN_FILE))
            if check_extra is not None:
                check_extra(extra)
            commits = _plan(body, files, model, opt, topology, lr_scheduler, scaler)
            if restore_generators:
                commits.append(_plan_generators(files.get(RUN_FILE)))
        except CheckpointError as error:
            raise CheckpointError(f"{step_path}: {error}; nothing was changed") from error
        return Checkpoint(step_path, body["step"], extra), commits

    checkpoint, commits = processes.together(prepare)
    for commit in commits:
        commit()
    return checkpoint


def _step_path(path: Path, needed: set[str]) -> Path:
    if (path / manifest.NAME).exists():
        return path
    latest = folder.newest_checkpoint(path, needed)
    if latest is None:
        raise CheckpointError(f"{path} holds no checkpoint; expected a step folder, or a folder of them")
    return latest


def _plan(
    body: dict[str, Any],
    files: dict[str, TensorFile],
    model: nn.Module,
    opt: torch.optim.Optimizer | None,
    topology: TopologyScheduler | None,
    lr_scheduler: Any,
    scaler: Any,
) -> list[Commit]:
    """Check all of it; what is left to do, which cannot fail."""
    commits = [_plan_model(body, files, model)]
    if topology is not None:
        commits.append(_plan_topology(body, files, topology))
    for name, target in (("lr_scheduler", lr_scheduler), ("scaler", scaler)):
        if target is not None:
            commits.append(_plan_stateful(name, body["run"].get(name), target, _reader(files, RUN_FILE)))
    commits.append(_plan_gradients(files.get(RUN_FILE), model))
    if opt is not None:
        commits.append(plan_optimizer(body["optimizer"], files.get(OPTIMIZER_FILE), opt, model))
    return commits


def _reader(files: dict[str, TensorFile], name: str) -> Callable[[str], Tensor]:
    def read(key: str) -> Tensor:
        if name not in files:
            raise CheckpointError(f"no file {name}, which holds '{key}'")
        return files[name][key].clone()

    return read


# Model


def _plan_model(body: dict[str, Any], files: dict[str, TensorFile], model: nn.Module) -> Commit:
    if MODEL_FILE not in files:
        raise CheckpointError(f"no file {MODEL_FILE}")
    saved, aliases = files[MODEL_FILE], body["aliases"]
    tensors, own_aliases = contents.model_tensors(model)
    _check_names({*saved.entries, *aliases}, {*tensors, *own_aliases})
    layers = dict(sparse_layers(model))
    _check_layers(body["layers"], layers)
    sources = {name: saved[aliases.get(name, name)] for name in tensors}
    for name, target in tensors.items():
        _check_like(name, sources[name], target)
    for name, layer in layers.items():
        _check_mask(name, sources[f"{name}.mask" if name else "mask"], layer, body["layers"][name]["hash"])

    @torch.no_grad()
    def commit() -> None:
        for name, target in tensors.items():
            target.copy_(sources[name])
        for layer in layers.values():
            layer.set_mask(layer.mask)  # derives rank

    return commit


def _check_names(saved: set[str], here: set[str]) -> None:
    if missing := sorted(here - saved):
        raise CheckpointError(
            f"no tensor '{missing[0]}' for the model here ({len(missing)} missing)"
            + (f"; it has instead '{min(saved - here)}'" if saved - here else "")
        )
    if extra := sorted(saved - here):
        raise CheckpointError(f"tensor '{extra[0]}' has no place in the model here ({len(extra)} such)")


def _check_layers(saved: dict[str, Any], layers: dict[str, SparseLinear]) -> None:
    """Sizes first: they explain more than the shape of a tensor does."""
    for name, layer in layers.items():
        entry = saved.get(name)
        if not isinstance(entry, dict) or set(entry) != {"shape", "n", "hash"}:
            raise CheckpointError(f"'{name}' was saved as no sparse layer")
        shape = [layer.out_features, layer.in_features]
        if entry["shape"] != shape:
            raise CheckpointError(f"layer '{name}' was saved as {entry['shape']} weights; here it is {shape}")
        if entry["n"] != layer.nnz:
            raise CheckpointError(
                f"layer '{name}' was saved with {entry['n']} active weights; here it has {layer.nnz} "
                f"(density {layer.density:.4g}). Build the model with the density it was saved with"
            )


def _check_like(name: str, saved: Tensor, target: Tensor) -> None:
    got, expected = tensor_file.describe(saved), tensor_file.describe(target)
    if got != expected:
        raise CheckpointError(
            f"tensor '{name}' is {got['dtype']} {got['shape']}; the model here has "
            f"{expected['dtype']} {expected['shape']}"
        )


def _check_mask(name: str, mask: Tensor, layer: SparseLinear, expected: str) -> None:
    problem = _packing.mask_problem(mask, layer.out_features, layer.in_features, layer.nnz)
    if problem:
        raise CheckpointError(f"the mask of layer '{name}' {problem}")
    got = contents.mask_hash(mask, layer.in_features)
    if got != expected:
        raise CheckpointError(f"the topology hash of layer '{name}' is {got}; the manifest says {expected}")


# The rest of the run


def _plan_topology(body: dict[str, Any], files: dict[str, TensorFile], topology: TopologyScheduler) -> Commit:
    if body["topology"] is None:
        raise CheckpointError("it was saved without a topology scheduler")
    state = dict(body["topology"])
    run = files.get(RUN_FILE)
    layers = state.get("layers")
    if not isinstance(layers, dict) or not all(isinstance(record, dict) for record in layers.values()):
        raise CheckpointError("the topology's 'layers' is not an object of objects")
    layers = {name: dict(record) for name, record in layers.items()}
    for name, record in layers.items():
        if run is not None and f"explored/{name}" in run.entries:
            record["explored"] = run[f"explored/{name}"]
    state["layers"] = layers
    try:
        topology.check_state_dict(state)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(str(error)) from error
    return lambda: topology.load_state_dict(state)


def _plan_stateful(name: str, state: Any, target: Any, read: Callable[[str], Tensor]) -> Commit:
    """A scheduler or scaler: its state has the keys that the one here has."""
    if state is None:
        raise CheckpointError(f"it was saved without {name}")
    decoded = plain.decode(state, read)
    own = target.state_dict()
    if not isinstance(decoded, dict) or set(decoded) != set(own):
        odd = sorted(set(decoded if isinstance(decoded, dict) else ()) ^ set(own))
        raise CheckpointError(
            f"the state of {name} does not fit the {type(target).__name__} here: '{odd[0] if odd else ''}'"
        )
    return lambda: target.load_state_dict(decoded)


def _plan_gradients(run: TensorFile | None, model: nn.Module) -> Commit:
    """Gradients and growth candidates, where the checkpoint has them; else none are left over here."""
    entries = run.entries if run is not None else {}
    names = contents.parameter_names(model)
    gradients: list[tuple[nn.Parameter, Tensor | None]] = []
    for param in model.parameters():
        key = f"gradients/{names[id(param)]}"
        saved = run[key] if run is not None and key in entries else None
        if saved is not None:
            _check_like(key, saved, param)
        gradients.append((param, saved))
    candidates = [
        (layer, run[f"grow_candidates/{name}"])
        for name, layer in sparse_layers(model)
        if run is not None and f"grow_candidates/{name}" in entries
    ]

    def commit() -> None:
        for param, saved in gradients:
            param.grad = None if saved is None else torch.empty_like(param).copy_(saved)
        for layer, saved in candidates:  # after the topology scheduler has armed its layers
            layer.grow_candidates = saved.to(layer.values.device, copy=True)

    return commit


def _plan_generators(run: TensorFile | None) -> Commit:
    rank, _ = processes.rank_and_world()
    prefix = f"generators/{rank}/"
    entries = run.entries if run is not None else {}
    assert run is not None or not entries
    saved = {key.removeprefix(prefix): run[key] for key in entries if key.startswith(prefix) and run}
    generators.check(saved)
    return lambda: generators.restore(saved)
