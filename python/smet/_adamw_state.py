# SPDX-License-Identifier: BSD-3-Clause
"""State of CompactAdamW: what one parameter's state holds, and how a saved state is checked and copied in.

torch's own `Optimizer.load_state_dict` casts every state tensor to the parameter's dtype, integers included:
fp32 moments of bf16 parameters would lose bits and cohorts would be destroyed. So loading is written here.
It checks everything before it changes anything, and it copies, so two optimizers never share state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from smet import _C
from smet._names import canonical_name

COHORT_IDS = 256
CALLABLE = "callable"  # how a callable age schedule is written in a state dict
_MOMENTS = ("exp_avg", "exp_avg_sq")
_SCALES = ("exp_avg_scale", "exp_avg_sq_scale")
_COHORTS = ("cohort", "births")
_MASTER = "master_low"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

State = dict[str, Any]
Group = dict[str, Any]


def check_options(group: Group) -> None:
    """Raises ValueError naming the option of a group that is out of range."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    _C.check_adamw_options(group)


def check_params(params: list[Any], options: dict[str, Any]) -> None:
    """Raises ValueError for a parameter listed twice, TypeError for one of a dtype that is not trained."""
    seen: set[int] = set()
    for param in params:
        if id(param) in seen:
            raise ValueError("a parameter group with duplicate parameters: pass every parameter once")
        seen.add(id(param))
        if isinstance(param, Tensor) and param.dtype not in _DTYPES:
            raise TypeError(
                f"CompactAdamW got a parameter of dtype {param.dtype}; expected float32, float64, bfloat16 "
                "or float16"
            )
        moments = options["moments"]
        if isinstance(param, Tensor) and param.dtype == torch.float64 and moments != "fp32":
            raise TypeError(
                f'CompactAdamW got a float64 parameter and moments="{moments}"; expected moments="fp32", '
                "with which a float64 parameter has float64 moments. Put it into a group of its own"
            )
        if isinstance(param, Tensor) and param.dtype == torch.float16 and options["master_weights"]:
            raise TypeError(
                "CompactAdamW got a float16 parameter and master_weights=True; expected bfloat16 or float32. "
                "Put it into a group of its own"
            )
        if isinstance(param, DTensor) and moments == "8bit":
            raise TypeError(
                'CompactAdamW got a sharded parameter and moments="8bit", but a shard holds parts of blocks. '
                'Put sharded parameters into a group of their own with moments="bf16" or "fp32"'
            )


def new_state(param: Tensor, options: Group, capturable: bool) -> State:
    """State of a parameter that was never updated, in a group of these options.

    step: int64 scalar; exp_avg, exp_avg_sq: like the parameter, and their scales [rows, blocks]
    where they are 8-bit. master_low: int16 like the parameter, of a bfloat16 one with master_weights; bits of
    its float32 master = (its bits << 16) + master_low, modulo 2^32. For the values of a sparse layer also
    cohort: uint8 [n], and births: int64 [256], the step after which each cohort was regrown (0 = initial,
    -1 = unused id). step and births are on the CPU; with capturable, where the parameter is.
    """
    place = param.device if capturable else torch.device("cpu")
    step = torch.zeros((), dtype=torch.int64, device=place)
    state: State = {"step": step, **_C.new_moments(param, options["moments"])}
    if options["master_weights"] and param.dtype == torch.bfloat16:
        state[_MASTER] = torch.zeros_like(param, dtype=torch.int16, requires_grad=False)
    if _C.values_info(param) is not None:
        state["cohort"] = torch.zeros(param.numel(), dtype=torch.uint8, device=param.device)
        state["births"] = torch.full((COHORT_IDS,), -1, dtype=torch.int64, device=place)
        state["births"][0] = 0
    return state


def reset_state(state: State) -> None:
    """Back to new_state, in place."""
    for key in ("step", *_MOMENTS, *(k for k in (*_SCALES, _MASTER, *_COHORTS) if k in state)):
        state[key].zero_()
    if "births" in state:
        state["births"][1:] = -1


def load_groups(groups: list[Group], saved_groups: list[Group]) -> list[Group]:
    """New parameter groups: the saved options, our parameters.

    Options that the saved group does not know (it may come from torch's AdamW) keep our value, and so do
    `moments` and `master_weights`: how much memory the state takes is decided where the optimizer is built;
    with another `master_weights` than saved, so is `stochastic_rounding`.
    Raises ValueError when the number of groups or of their parameters differs, or an option cannot be kept.
    """
    if len(groups) != len(saved_groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved_groups)} saved, {len(groups)} here"
        )
    return [
        _load_group(number, group, saved)
        for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True))
    ]


def keep_learning_rates(groups: list[Group], loaded: list[Group]) -> None:
    """Write loaded learning rates into the tensors that held them here, which a CUDA graph reads."""
    for group, new in zip(groups, loaded, strict=True):
        if isinstance(group["lr"], Tensor):
            new["lr"] = group["lr"].copy_(torch.as_tensor(new["lr"]))


def _load_group(number: int, group: Group, saved: Group) -> Group:
    if len(group["params"]) != len(saved["params"]):
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
            f"group {number} has {len(saved['params'])} parameters saved, {len(group['params'])} here"
        )
    loaded: Group = {key: deepcopy(value) for key, value in saved.items() if key != "params"}
    if loaded.get("amsgrad"):
        raise ValueError(
            f"parameter group {number} was saved with amsgrad=True, which CompactAdamW does not have"
        )
    if "decoupled_weight_decay" in loaded:  # how torch's Adam and AdamW say it
        loaded.setdefault("coupled_weight_decay", not loaded.pop("decoupled_weight_decay"))
    for key in ("amsgrad", "foreach", "fused", "capturable", "differentiable"):
        loaded.pop(key, None)
    if loaded.get("age_schedule") == CALLABLE:
        if not callable(group["age_schedule"]):
            raise ValueError(
                f"parameter group {number} was saved with a callable age_schedule, which a state dict does "
                "not hold: give it to the constructor again"
            )
        loaded["age_schedule"] = group["age_schedule"]
    for key, value in group.items():
        if key not in ("params", "param_names"):
            loaded.setdefault(key, value)
    if bool(saved.get("master_weights")) != group["master_weights"]:
        loaded["stochastic_rounding"] = group["stochastic_rounding"]
    loaded["master_weights"] = group["master_weights"]
    loaded["betas"] = tuple(loaded["betas"])
    loaded["moments"] = group["moments"]
    loaded["params"] = group["params"]
    if "param_names" in group:
        loaded["param_names"] = group["param_names"]
    else:
        loaded.pop("param_names", None)
    _C.check_adamw_options(loaded)
    return loaded


def match_params(group: Group, saved: Group) -> Iterator[tuple[Any, Tensor, str]]:
    """(saved id, parameter, name) of one group: by name where both sides have names, else by order."""
    names = [canonical_name(name) for name in group.get("param_names", ())]
    saved_names = [canonical_name(name) for name in saved.get("param_names", ())]
    if not names or not saved_names:
        labels: Iterable[str] = names or (f"parameter {index}" for index in range(len(group["params"])))
        yield from zip(saved["params"], group["params"], labels, strict=True)
        return
    ids = dict(zip(saved_names, saved["params"], strict=True))
    missing = [name for name in names if name not in ids]
    if missing:
        extra = sorted(set(saved_names) - set(names))
        raise ValueError(
            f"loaded state dict has no parameter '{missing[0]}' ({len(missing)} missing); "
            f"it has instead: {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}"
        )
    for name, param in zip(names, group["params"], strict=True):
        yield ids[name], param, name


def check_saved_state(saved: State, param: Tensor, name: str) -> int:
    """Checks one parameter's saved state against the parameter; returns its step.

    Raises ValueError that names the parameter and the entry.
    """

    def fail(what: str) -> ValueError:
        return ValueError(f"loaded optimizer state of '{name}': {what}; nothing was changed")

    required = {"step", *_MOMENTS}
    if _C.values_info(param) is not None:
        required.update(_COHORTS)
    if isinstance(codes := saved.get("exp_avg"), Tensor) and codes.dtype == torch.int8:
        required.update(_SCALES)
    for key in required:
        if key not in saved:
            raise fail(f"no '{key}'")
    known = required | ({_MASTER} & set(saved))
    for key in saved:
        if key not in known:
            raise fail(f"unknown entry '{key}'")
    for key in sorted(known - {"step"}):
        if not isinstance(saved[key], Tensor):
            raise fail(f"'{key}' is {type(saved[key]).__name__}, expected a tensor")
    if problem := _C.moments_problem(param, saved):
        raise fail(problem)
    if _MASTER in saved and (saved[_MASTER].dtype != torch.int16 or saved[_MASTER].shape != param.shape):
        got = f"{saved[_MASTER].dtype} {list(saved[_MASTER].shape)}"
        raise fail(f"'{_MASTER}' is {got}, expected torch.int16 {list(param.shape)}")
    step = saved["step"]
    if isinstance(step, Tensor) and step.numel() == 1:
        step = step.item()
    if type(step) not in (int, float) or not 0 <= step < 2**62 or step != int(step):
        raise fail(f"step is {step}, expected a count of updates")
    if "cohort" in required:
        _C.check_cohorts(saved["cohort"], saved["births"], param.numel(), int(step), name)
    return int(step)


def copy_state(saved: State, state: State, step: int, param: Tensor) -> None:
    """Copies a checked saved state into that of `param`, in place, in its formats and on its devices.

    A master's low half that was not saved is 0: the master is the parameter. One without a place is dropped.
    """
    state["step"].fill_(step)
    _C.copy_moments_(param, state, saved)
    if _MASTER in state:
        state[_MASTER].copy_(saved[_MASTER]) if _MASTER in saved else state[_MASTER].zero_()
    for key in (k for k in _COHORTS if k in state):
        state[key].copy_(saved[key])


def with_densities(text: str, groups: list[Group]) -> str:
    """What torch prints of an optimizer, and how many parameters of each group have which density."""
    lines = text.rstrip(")").rstrip("\n").split("\n")
    for number, group in enumerate(groups):
        counts: Counter[str] = Counter()
        for param in group["params"]:
            info = _C.values_info(param)
            positions = info[0] * info[1] if info is not None else 0
            counts[f"{param.numel() / positions:.4g}" if positions else "1 (dense)"] += 1
        found = ", ".join(f"{density} x {count}" for density, count in sorted(counts.items()))
        start = lines.index(f"Parameter Group {number}")
        lines.insert(start + 1, f"    densities: {found}")
    return "\n".join([*lines, ")"])
