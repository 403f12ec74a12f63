# SPDX-License-Identifier: BSD-3-Clause
"""An optimizer's saved state, matched by parameter name and handed to its own load_state_dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from smet.checkpoint import contents, plain
from smet.checkpoint.errors import CheckpointError
from smet.checkpoint.tensor_file import TensorFile
from smet.compact_adamw import CompactAdamW


def plan_optimizer(
    entry: dict[str, Any] | None, file: TensorFile | None, opt: torch.optim.Optimizer, model: nn.Module
) -> Callable[[], None]:
    """Check the saved state against `opt`; what is left to do."""
    state_dict = _state_dict(entry, file, opt, model)
    if isinstance(opt, CompactAdamW):
        try:
            plan = opt.plan_load(state_dict)  # copies from the mapped file, tensor by tensor
        except (ValueError, TypeError) as error:
            raise CheckpointError(str(error)) from error
        return plan
    for param, state in _saved_states(opt, state_dict):
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape != param.shape:
                raise CheckpointError(
                    f"optimizer state '{key}' has shape {list(value.shape)}; its parameter has "
                    f"{list(param.shape)}"
                )
    # torch keeps the very tensors it is given: they must not be those of the mapped file.
    return lambda: opt.load_state_dict({**state_dict, "state": _cloned(state_dict["state"])})


def _state_dict(
    entry: dict[str, Any] | None, file: TensorFile | None, opt: torch.optim.Optimizer, model: nn.Module
) -> dict[str, Any]:
    """The state dict that `opt` would have given, with parameters in the order that they have here."""
    if entry is None:
        raise CheckpointError("it was saved without an optimizer")
    if entry.get("class") != type(opt).__name__:
        raise CheckpointError(
            f"it was saved with the optimizer {entry.get('class')}; here it is {type(opt).__name__}"
        )
    groups = list(contents.group_names(opt, contents.parameter_names(model)))
    saved = entry.get("groups")
    if not isinstance(saved, list) or len(saved) != len(groups):
        count = len(saved) if isinstance(saved, list) else "no"
        raise CheckpointError(f"it has {count} parameter groups; the optimizer here has {len(groups)}")
    keys_of, states = _by_parameter(file.entries if file is not None else ()), entry.get("states")
    if not _are_names(states):
        raise CheckpointError("the optimizer's 'states' are not names of parameters")
    if odd := sorted(set(keys_of) ^ set(states)):
        raise CheckpointError(f"the optimizer state of '{odd[0]}' is missing, or not in the manifest")

    def tensor(name: str) -> Tensor:
        if file is None:
            raise CheckpointError(f"no file {contents.OPTIMIZER_FILE}")
        return file[name]

    loaded, state, number = [], {}, 0
    for index, ((_, names), saved_group) in enumerate(zip(groups, saved, strict=True)):
        _check_members(index, names, saved_group)
        options = plain.decode(saved_group["options"], tensor)
        if not isinstance(options, dict):
            raise CheckpointError(f"the options of parameter group {index} are not an object")
        loaded.append({**options, "params": list(range(number, number + len(names)))})
        for name in names:
            if keys := keys_of.pop(name, None):
                state[number] = {key: tensor(f"{name}/{key}") for key in keys}
            number += 1
    if keys_of:
        raise CheckpointError(f"optimizer state of '{min(keys_of)}' belongs to no parameter here")
    return {"state": state, "param_groups": loaded}


def _check_members(index: int, names: list[str], saved: Any) -> None:
    if not isinstance(saved, dict) or not _are_names(saved.get("params")) or "options" not in saved:
        raise CheckpointError(f"parameter group {index} is not an object of params and options")
    missing = sorted(set(names) - set(saved["params"]))
    extra = sorted(set(saved["params"]) - set(names))
    if missing or extra:
        raise CheckpointError(
            f"parameter group {index} was saved "
            + (f"without '{missing[0]}'" if missing else f"with '{extra[0]}', which the group here has not")
        )


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _by_parameter(entries: Iterable[str]) -> dict[str, list[str]]:
    """Parameter name -> keys of its state, from names NAME/KEY; tensors among the options are left out."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, _, key = entry.rpartition("/")
        if not name.startswith("group "):
            found.setdefault(name, []).append(key)
    return found


def _saved_states(
    opt: torch.optim.Optimizer, state_dict: dict[str, Any]
) -> list[tuple[Tensor, dict[str, Any]]]:
    params = [param for group in opt.param_groups for param in group["params"]]
    return [(params[index], state) for index, state in state_dict["state"].items()]


def _cloned(states: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    return {index: {key: value.clone() for key, value in state.items()} for index, state in states.items()}
