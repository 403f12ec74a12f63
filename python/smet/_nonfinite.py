# SPDX-License-Identifier: BSD-3-Clause
"""Gradients that are not finite: who is told, and what happens to the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smet import _C
from smet import _processes as processes

if TYPE_CHECKING:
    from smet.compact_adamw import CompactAdamW


def check_option(on_nonfinite: str, capturable: bool) -> None:
    """Raises ValueError for what is no choice, or none of a step that never waits for the device."""
    if on_nonfinite not in ("raise", "skip", "ignore"):
        raise ValueError(f'Invalid on_nonfinite: {on_nonfinite!r}; expected "raise", "skip" or "ignore"')
    if capturable and on_nonfinite != "ignore":
        raise ValueError(
            f"capturable=True got on_nonfinite={on_nonfinite!r}, for which every step would wait for the "
            'device; expected on_nonfinite="ignore" (a GradScaler skips steps on the device)'
        )


def all_finite(optimizer: CompactAdamW, items: list[Any], group: Any) -> bool:
    """Whether every gradient of every process is finite; else raises, or counts a skipped step."""
    bad = _C.first_nonfinite([param.grad for param, _, _, _ in items])
    # By its number among all parameters: not every process need have the same gradients.
    bad = processes.largest(items[bad][3] if bad >= 0 else bad, group)
    if bad < 0:
        return True
    name = parameter_name(optimizer.param_groups, bad)
    refuse(
        optimizer, f"the gradient of '{name}' holds NaN or infinity", "nothing was changed, on any process"
    )
    return False


def refuse(optimizer: CompactAdamW, what: str, changed: str) -> None:
    """RuntimeError, or with on_nonfinite="skip" one more skipped step."""
    if optimizer.on_nonfinite == "raise":
        raise RuntimeError(
            f"smet: {what}; {changed}. Find where the loss left the finite range, or skip such steps with "
            'on_nonfinite="skip"'
        )
    optimizer._count_skipped(what)


def parameter_name(groups: list[dict[str, Any]], index: int) -> str:
    """What errors call the parameter number `index` of all groups."""
    places = [(group, i) for group in groups for i in range(len(group["params"]))]
    group, i = places[index]
    if names := group.get("param_names"):
        return str(names[i])
    info = _C.values_info(group["params"][i])
    return f"{info[2]}.values" if info is not None and info[2] else f"parameter {index}"
