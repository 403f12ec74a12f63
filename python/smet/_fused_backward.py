# SPDX-License-Identifier: BSD-3-Clause
"""CompactAdamW(fused_backward=True): a parameter is updated as soon as its gradient is complete.

torch calls a post-accumulate-grad hook when a backward pass has added its last term to a gradient. The hook
updates that parameter and frees the gradient, so one layer's gradient lives at a time. It runs after the
backward nodes that read the parameter, so no gradient is computed from updated weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smet import _C
from smet import _nonfinite as nonfinite
from smet import _processes as processes

if TYPE_CHECKING:
    from smet.compact_adamw import CompactAdamW


class FusedBackward:
    """The hooks of one optimizer, and what happened since its last step()."""

    def __init__(self, optimizer: CompactAdamW) -> None:
        self._optimizer = weakref.ref(optimizer)  # the parameters hold the hooks
        self._updated: set[int] = set()  # indices of the parameters updated since step()
        self._norms: dict[int, Tensor] | None = None  # while gradients are measured
        self._bad: int | None = None  # the first whose gradient was not finite when it was measured
        self._factor: Tensor | None = None  # of the gradients of the pass that updates
        self._hooked: set[tuple[int, int]] = set()  # (group, place) of the parameters that have a hook
        self._handles: list[Any] = []
        self.attach()
        weakref.finalize(optimizer, _remove, self._handles)

    def attach(self) -> None:
        """Watch the parameters that require a gradient now; others are updated by step() alone."""
        optimizer = self._optimizer()
        assert optimizer is not None
        for number, group in enumerate(optimizer.param_groups):
            for place, param in enumerate(group["params"]):
                if param.requires_grad and (number, place) not in self._hooked:
                    hook = _Hook(self, number, place)
                    self._hooked.add((number, place))
                    self._handles.append(param.register_post_accumulate_grad_hook(hook))

    def complete(self, param: nn.Parameter, number: int, place: int) -> None:
        """The gradient of this parameter is complete: update the parameter, or only measure the gradient."""
        optimizer = self._optimizer()
        if optimizer is None or param.grad is None:
            return
        item = optimizer._item(number, place)
        index = item[3]
        name = nonfinite.parameter_name(optimizer.param_groups, index)
        self._check(optimizer, index, name)
        finite = optimizer.on_nonfinite == "ignore" or _C.first_nonfinite([param.grad]) < 0
        if self._norms is not None:
            if not finite and self._bad is None:
                self._bad = index
            self._norms[index] = torch.linalg.vector_norm(param.grad)
        elif not finite:
            raise RuntimeError(
                f"smet: the gradient of '{name}' holds NaN or infinity; the parameter was "
                f"not changed, but {len(self._updated)} nearer to the loss were (fused_backward=True updates "
                "during the backward pass). clipped_backward() looks at all gradients before any change"
            )
        else:
            if self._factor is not None:
                param.grad.mul_(self._factor.to(param.grad.device))
            call = [(optimizer.param_groups[number], [item])]
            _C.compact_adamw_step(call, False, capturable=optimizer.capturable)
            self._updated.add(index)
        param.grad = None

    def _check(self, optimizer: CompactAdamW, index: int, name: str) -> None:
        if index in self._updated or (self._norms is not None and index in self._norms):
            raise RuntimeError(
                f"smet: a second gradient of '{name}' since the last step(): fused_backward=True updates "
                "during backward(), so gradients cannot be accumulated over several passes. Call step() "
                "after every backward(), or use fused_backward=False"
            )
        if processes.group_of(optimizer._process_group) is not None:
            raise RuntimeError(
                "smet: fused_backward=True would update each process with its own gradients, before "
                "DistributedDataParallel or FSDP average them; with several processes use "
                "fused_backward=False"
            )
        if optimizer.on_nonfinite == "skip" and self._norms is None and self._factor is None:
            raise RuntimeError(
                'smet: on_nonfinite="skip" needs all gradients before the first update, which '
                'fused_backward=True has only in clipped_backward(); use that, or on_nonfinite="raise"'
            )

    def clipped(self, backward: Callable[[], Any], max_norm: float) -> tuple[Any, Tensor]:
        """See CompactAdamW.clipped_backward."""
        optimizer = self._optimizer()
        assert optimizer is not None
        if self._updated:
            raise RuntimeError("smet: clipped_backward() after a backward pass; call step() first")
        self.attach()  # a parameter that thawed would gather the gradients of both passes
        generators = _Generators(optimizer)
        self._norms, self._bad = {}, None
        try:
            result = backward()
            norms = [norm for _, norm in sorted(self._norms.items())]
        finally:
            self._norms = None
        # Formula and order of torch.nn.utils.clip_grad_norm_, so that the results are equal bit for bit.
        device = norms[0].device if norms else torch.device("cpu")
        norms = [norm.to(device) for norm in norms] or [torch.zeros(())]
        total = torch.linalg.vector_norm(torch.stack(norms))
        if self._bad is not None:
            name = nonfinite.parameter_name(optimizer.param_groups, self._bad)
            bad = f"the gradient of '{name}' holds NaN or infinity"
            nonfinite.refuse(optimizer, bad, "nothing was changed")
            return result, total
        if optimizer.on_nonfinite != "ignore" and not torch.isfinite(total):  # a factor of 0 would hide it
            nonfinite.refuse(optimizer, "the norm of all gradients overflows", "nothing was changed")
            return result, total
        self._factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
        try:
            generators.rewind()
            result = backward()
        finally:
            self._factor = None
        return result, total

    def forget(self) -> None:
        """A state was loaded: what was updated before is no part of the step that begins."""
        self._updated.clear()

    def finish(self, found_inf: Tensor | None) -> None:
        """step() was called: what was updated since the last one is one step."""
        self._updated.clear()
        if found_inf is not None:
            raise RuntimeError(
                "smet: fused_backward=True cannot be combined with torch.amp.GradScaler: the weights were "
                "updated with scaled gradients before the scaler could look at them. Train in bfloat16, "
                "which needs no scaler, or use fused_backward=False"
            )


class _Hook:
    """Not a closure: deepcopy and pickle of a parameter leave its hooks behind, and say so with a name."""

    def __init__(self, fused: FusedBackward, number: int, place: int) -> None:
        self._fused, self._number, self._place = fused, number, place

    def __call__(self, param: nn.Parameter) -> None:
        with torch.no_grad():
            self._fused.complete(param, self._number, self._place)


class _Generators:
    """torch's global generators, so that both passes of clipped_backward see the same dropout."""

    def __init__(self, optimizer: CompactAdamW) -> None:
        devices = {p.device for group in optimizer.param_groups for p in group["params"] if p.is_cuda}
        self._cpu = torch.get_rng_state()
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def rewind(self) -> None:
        """Back to where they were."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
