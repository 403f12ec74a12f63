# SPDX-License-Identifier: BSD-3-Clause
"""AdamW for packed sparse layers and dense parameters, in one object and one kernel call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from smet import _C
from smet import _adamw_state as adamw_state
from smet import _nonfinite as nonfinite
from smet import _processes as processes
from smet._fused_backward import FusedBackward
from smet._grad_scaler import CountedStep
from smet._sharded import check_not_sharded, local_parameter
from smet._watched import WatchedModel

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
_LOG = logging.getLogger("smet")
AgeSchedule = str | Callable[[int], float] | None


class CompactAdamW(torch.optim.Optimizer):
    r"""AdamW with one age per regrown weight.

    For every active weight, a = its age (number of its updates, counting this one)::

        m <- beta1 * m + (1 - beta1) * g          v <- beta2 * v + (1 - beta2) * g^2
        lr_w = lr * density^-density_scaling * warm(a)
        w <- w - lr_w * ((m / (1 - beta1^a)) / (sqrt(v / (1 - beta2^a)) + eps) + weight_decay * w)

    a is the global step for dense parameters and for weights that were there from the start, and warm(a) = 1.
    For weights regrown later, warm(a) = min(1, a / warmup) * (1 + (boost - 1) * exp(-a / boost_tau)).

    Dense parameters have density 1 and get torch's AdamW: a step from equal state gives moments within 1 ulp
    (equal bit for bit to torch's code without fused multiply-adds) and weights within 2 ulp, or within 8 ulp
    of the update where that is larger than the weight.
    Source: SMET, arXiv 2606.00888, section 3, with ages instead of a scaled first moment.

    Args:
        params: a model (its parameters' names are kept for errors and checkpoints), an iterable of
            parameters or of (name, parameter), or a list of parameter groups. Values of SparseLinear layers
            are recognised whichever way they come. Parameters: float32, float64, bfloat16, float16.
        lr: learning rate, a number or a tensor of one element.
        betas: decay rates of the two moments.
        eps: added to the square root of the corrected second moment.
        weight_decay: decoupled; `coupled_weight_decay=True` adds weight_decay * w to the gradient.
        density_scaling: exponent p of lr * density^-p; 0 = off.
        warmup: W of warm(a), in updates; 0 = none. The topology interval is a good value.
        boost, boost_tau: B and tau of warm(a); B = 1 is the paper's schedule.
        age_schedule: None or "linear" (warm(a) as above), "none" (warm = 1), or a function of the age that
            returns the factor (a state dict does not hold it).
        local_age: False corrects all moments by the global step, as plain Adam does; for comparison.
        maximize: ascend instead of descend.
        stochastic_rounding: round bfloat16 parameters up or down at random, keyed by `seed`, parameter and
            step, so that updates below half a bfloat16 ulp are not lost.
        master_weights: update float32 masters of bfloat16 parameters, which are their upper halves, to
            nearest; the lower ones take 2 bytes per weight. TypeError for float16, ValueError beside
            stochastic_rounding; float32 and float64 parameters stay as they are.
        moments: "fp32"; "bf16": two bytes instead of four for each of exp_avg and exp_avg_sq; or "8bit": one
            byte, with a scale for about 256 neighbouring weights of a sparse layer, up to 1,024 of a row of a
            dense parameter (dense ones of fewer than 64 columns, such as norms and biases, keep float32).
            bf16 and 8-bit moments are rounded up or down at random, keyed by `seed`, parameter and step (to
            nearest, exp_avg_sq would never decay). Arithmetic is fp32 in all of them; float64 parameters have
            float64 moments and refuse the others.
        on_nonfinite: what a NaN or infinite gradient does: "raise" (RuntimeError with the parameter's name
            before anything is changed), "skip" (the step is left out: nothing moves, neither ages nor the
            topology's clock; `skipped_steps` counts it and the logger "smet" says it) or "ignore" (no check;
            what torch does).
        process_group: the processes that raise or skip together, so that none waits for another that does
            not come: "default" (torch.distributed's default group, where there is one), a group, or None
            (each process for itself).
        fused_backward: update each parameter during backward(), as soon as its gradient is complete, and free
            the gradient, so that only one layer's is alive at a time. step() then ends the step (and updates
            what has a gradient nonetheless). Results are those of the ordinary step, bit for bit. Not with
            gradient accumulation, GradScaler or several processes; on_nonfinite="raise" raises before the
            parameter at hand is changed, but after those nearer to the loss. `clipped_backward` clips by the
            norm of all gradients, and decides about non-finite ones before anything is changed.
        capturable: keep counters and births where the parameters are and read them, and `lr` where it is a
            tensor there, at every step, so that a CUDA graph may hold the step: every replay is a step of its
            own. A GradScaler may be captured too; steps that it skips are not counted. Needs
            on_nonfinite="ignore" (to raise would mean to wait for the device), and age_schedule no function.
            Results are those of the ordinary step, bit for bit on the CPU (a GPU's pow and exp differ).

    Under torch.amp.GradScaler the scaler looks at the gradients, and `on_nonfinite` has no say. Where all
    parameters are on a GPU, the kernels read its scale and its verdict there; gradients stay scaled unless
    scaler.unscale_ was called. A skipped step counts until the next one begins (or `settle`, `state_dict` or
    a due topology update asks): then its verdict has reached the host, and the count, with ages and the
    topology's clock, goes back. Results are those of a run that waits for every verdict.

    Parameters without a gradient, or with requires_grad=False, are skipped and their step stands still.
    State exists from construction (of a frozen parameter, from its first update).
    state[p]: step (int64 scalar), exp_avg, exp_avg_sq, and for values cohort (uint8 [n]) and births (int64
    [256]); step and births on the CPU, with capturable=True where the parameter is. 8-bit moments: exp_avg
    int8, exp_avg_sq uint8, and exp_avg_scale, exp_avg_sq_scale float32 [rows, blocks]: m = scale (c / 127)^2
    sign(c), sqrt(v) = scale (c / 255)^2. Of a parameter with a master, master_low int16: bits(master) =
    (bits(parameter) << 16) + master_low modulo 2^32; so a master follows its parameter when that is set.
    """

    on_nonfinite: str
    capturable: bool
    skipped_steps: int  # since this object was built; of steps that are settled
    # torch's convention: True makes GradScaler.step call step() with `found_inf` and `grad_scale` set on this
    # object, float32 scalars on the device, and delete them after it.
    _step_supports_amp_scaling: bool
    _counted: CountedStep | None = None  # the last step, while its verdict is on the way
    _watched: WatchedModel | None = None
    _fused: FusedBackward | None = None

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        coupled_weight_decay: bool = False,
        density_scaling: float = 0.5,
        warmup: float = 100,
        boost: float = 1.0,
        boost_tau: float = 50.0,
        age_schedule: AgeSchedule = None,
        local_age: bool = True,
        maximize: bool = False,
        stochastic_rounding: bool = False,
        master_weights: bool = False,
        moments: str = "fp32",
        seed: int = 0,
        on_nonfinite: str = "raise",
        process_group: Any = "default",
        fused_backward: bool = False,
        capturable: bool = False,
    ) -> None:
        nonfinite.check_option(on_nonfinite, capturable)
        if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
            raise ValueError("betas must be either both floats or both Tensors")
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": (float(betas[0]), float(betas[1])),
            "eps": eps,
            "weight_decay": weight_decay,
            "coupled_weight_decay": coupled_weight_decay,
            "density_scaling": density_scaling,
            "warmup": warmup,
            "boost": boost,
            "boost_tau": boost_tau,
            "age_schedule": age_schedule,
            "local_age": local_age,
            "maximize": maximize,
            "stochastic_rounding": stochastic_rounding,
            "master_weights": master_weights,
            "moments": moments,
            "seed": seed,
        }
        adamw_state.check_options(defaults)
        self.on_nonfinite, self.skipped_steps, self.capturable = on_nonfinite, 0, capturable
        self._process_group = process_group
        model = params if isinstance(params, nn.Module) else None
        if model is not None:
            check_not_sharded(model)
        listed = list(params.named_parameters()) if isinstance(params, nn.Module) else params
        super().__init__(listed, defaults)
        if model is not None:
            self._watched = WatchedModel(model)
        if fused_backward:
            self._fuse()

    # Parameters

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; checks the options and that no parameter is listed twice, and makes the state."""
        if isinstance(param_group, dict):
            options = {**self.defaults, **param_group}
            adamw_state.check_options(options)
            params = param_group["params"]
            if not isinstance(params, Tensor | set):
                param_group["params"] = params = list(params)
                adamw_state.check_params(
                    [entry[1] if isinstance(entry, tuple) else entry for entry in params], options
                )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for param in group["params"]:
            if param.requires_grad:
                self.state[param] = self._new_state(param, group)
        self._step_supports_amp_scaling = self._fused is not None or self.capturable or self._on_gpu()
        if self._fused is not None:
            self._fused.attach()

    def _fuse(self) -> None:
        self._fused = FusedBackward(self)
        self._step_supports_amp_scaling = True  # so that step() is called, and can refuse

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return adamw_state.new_state(param, group, self.capturable)

    def _on_gpu(self) -> bool:
        # On the CPU a GradScaler's own way costs no wait: it divides the gradients in place and skips step().
        return all(param.is_cuda for group in self.param_groups for param in group["params"])

    # The step

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient. Returns what `closure` returns.

        Raises RuntimeError when a gradient is not finite (on_nonfinite="raise"; "skip" returns) or a
        parameter was replaced, and TypeError or ValueError when a gradient or a state does not fit its
        parameter; nothing is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._watched is not None:
            self._watched.check()
        self.settle()
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if self._fused is not None:
            self._fused.finish(found_inf)
        calls = []
        for number, group in enumerate(self.param_groups):
            items = [
                self._item(number, i)
                for i, param in enumerate(group["params"])
                if param.requires_grad and param.grad is not None
            ]
            if items:
                calls.append((group, items))
        if found_inf is not None:
            grad_scale: Tensor | None = getattr(self, "grad_scale", None)
            _C.compact_adamw_step(calls, False, found_inf, grad_scale, self.capturable)
            if not self.capturable:
                counters = [state["step"] for _, items in calls for _, state, _, _ in items]
                self._counted = CountedStep(found_inf, counters)
            return loss
        group = processes.group_of(self._process_group)
        if self.on_nonfinite == "skip" or (self.on_nonfinite == "raise" and group is not None):
            if not nonfinite.all_finite(self, [item for _, items in calls for item in items], group):
                return loss
            _C.compact_adamw_step(calls, False)
        else:
            _C.compact_adamw_step(calls, self.on_nonfinite == "raise", capturable=self.capturable)
        return loss

    def _item(self, number: int, place: int) -> tuple[Tensor, dict[str, Any], str, int]:
        """(parameter, state, name, index over all groups), as the step takes it."""
        group = self.param_groups[number]
        param, names = group["params"][place], group.get("param_names")
        state = self.state[param]
        if not state:  # frozen until now
            state.update(self._new_state(param, group))
        index = place + sum(len(other["params"]) for other in self.param_groups[:number])
        return *local_parameter(param, state), names[place] if names else "", index

    def clipped_backward(self, backward: Callable[[], Any], max_norm: float) -> tuple[Any, Tensor]:
        """With fused_backward=True: clip by the exact norm of all gradients, at the price of a second pass.

        Calls `backward` (a function that runs forward and backward pass) twice from the same state of torch's
        generators (but buffers that a forward pass changes, such as BatchNorm's, change twice): the first
        pass measures each gradient and frees it, the second one updates with gradients times
        min(1, max_norm / (norm + 1e-6)), as clip_grad_norm_ and step() would. A gradient or a norm that is
        not finite raises, or skips the step, between the two, when nothing is changed. Call step() after it.

        Returns what the last call of `backward` returned, and the norm before.
        """
        if self._fused is None:
            raise RuntimeError("smet: clipped_backward() needs fused_backward=True; else clip_grad_norm_()")
        return self._fused.clipped(backward, max_norm)

    @property
    def fused_backward(self) -> bool:
        """Whether parameters are updated, and their gradients freed, during backward()."""
        return self._fused is not None

    @property
    def settled(self) -> bool:
        """Whether it is known that the last step happened: not always so under a GradScaler on a GPU."""
        return self._counted is None

    def settle(self) -> None:
        """Wait until it is known whether the device skipped the last step; if so, take its count back."""
        if self._counted is None:  # nothing is assigned: torch.compile of 2.11 cannot trace that here
            return
        counted, self._counted = self._counted, None
        if counted.settle():
            self._count_skipped("a GradScaler found NaN or infinity in a gradient")

    def _count_skipped(self, why: str) -> None:
        self.skipped_steps += 1
        _LOG.warning("step skipped: %s (%d skipped so far)", why, self.skipped_steps)

    # Saving, loading, copying

    def state_dict(self) -> dict[str, Any]:
        """As torch's. Tensors, numbers and strings only; a callable age_schedule is written as "callable"."""
        self.settle()
        state_dict = super().state_dict()
        for group in state_dict["param_groups"]:
            if callable(group.get("age_schedule")):
                group["age_schedule"] = adamw_state.CALLABLE
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the options and the state of `state_dict`, also of one saved by torch's AdamW.

        Parameters are matched by name where both sides have names, else by order. Tensors are copied into the
        existing state, which keeps its dtypes: `moments` stays as it is here, and moments of another format
        are converted, to nearest (to and from 8 bits by the layers' positions: load the model before);
        `master_weights` stays (where it differs, `stochastic_rounding` too), and masters that were not saved
        begin at the parameters. Raises ValueError naming what does not fit; nothing is changed then.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        self.plan_load(state_dict)()
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def plan_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        """The two halves of load_state_dict: checks everything now and raises, and returns what then copies.

        A checkpoint checks all that it restores before it changes any of it.
        """
        self.settle()  # what is on the way belongs to the counters as they are now
        saved_groups, saved_states = state_dict["param_groups"], dict(state_dict["state"])
        groups = adamw_state.load_groups(self.param_groups, saved_groups)
        plan = []
        for group, saved_group in zip(groups, saved_groups, strict=True):
            for saved_id, param, name in adamw_state.match_params(group, saved_group):
                saved = saved_states.pop(saved_id, None)
                step = adamw_state.check_saved_state(saved, param, name) if saved else 0
                plan.append((param, saved, step, group))
        if saved_states:
            raise ValueError(
                f"loaded state dict has state of parameter {next(iter(saved_states))!r}, which is in no group"
            )

        def carry_out() -> None:
            for param, saved, step, group in plan:
                if saved and not self.state[param]:
                    self.state[param] = self._new_state(param, group)
                if saved:
                    adamw_state.copy_state(saved, self.state[param], step, param)
                elif self.state[param]:
                    adamw_state.reset_state(self.state[param])
            if self.capturable:
                adamw_state.keep_learning_rates(self.param_groups, groups)
            self.__setstate__({"state": self.state, "param_groups": groups})
            if self._fused is not None:
                self._fused.forget()

        return carry_out

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        values = [(param, _C.values_info(param)) for group in self.param_groups for param in group["params"]]
        return {
            **super().__getstate__(),
            "on_nonfinite": self.on_nonfinite,
            "capturable": self.capturable,
            "skipped_steps": self.skipped_steps,
            "_process_group": self._process_group if isinstance(self._process_group, str) else None,
            "_fused_backward": self._fused is not None,
            "_values": [(param, info) for param, info in values if info is not None],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy holds copies of the parameters, which the library does not know as values yet.
        copied = state.pop("_values", ())
        for param, info in copied:
            if _C.values_info(param) is None:
                _C.register_values(param, *info)
        self._ranks = [info[3] for _, info in copied]  # alive here where no layer was copied with them
        fused = state.pop("_fused_backward", False)
        super().__setstate__(state)
        self.__dict__.setdefault("capturable", False)
        self.__dict__.setdefault("_step_supports_amp_scaling", self.capturable or self._on_gpu())
        self.defaults.setdefault("master_weights", False)
        self.defaults.pop("differentiable", None)  # torch puts it there for older pickles; we do not have it
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
        if fused:
            self._fuse()

    def __repr__(self) -> str:
        return adamw_state.with_densities(super().__repr__(), self.param_groups)
