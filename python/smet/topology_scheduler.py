# SPDX-License-Identifier: BSD-3-Clause
"""TopologyScheduler: which weights exist changes every `interval` optimizer steps."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smet import _C, _processes
from smet._ddp import keep_positions_local
from smet._sharded import check_not_sharded
from smet._topology_agreement import check_equal, share_candidates
from smet.convert import sparse_layers
from smet.sparse_linear import SparseLinear

TopologyUpdate = _C.TopologyUpdate
LayerUpdate = _C.LayerUpdate
TopologyContext = _C.TopologyContext

_NOT_MOMENTS = frozenset({"step", "cohort", "births"})  # entries of an optimizer's state handled by name


class TopologyScheduler:
    """Prunes and regrows the weights of every sparse layer of `model` while it trains.

        loss.backward(); opt.step(); lr_scheduler.step(); topo.step(); opt.zero_grad()

    At every t = optimizer steps done with t % interval == 0 and t < stop, in each layer of n weights:
    k = min(floor(f(t) * n), inactive positions) weights with the lowest prune scores go, and k positions that
    were inactive before take their place with value 0, moments 0 and a new cohort. Survivors keep value,
    moments and gradient bit for bit; parameters, shapes and addresses stay. The result is a function of
    (seed, layer name, update number, weights) alone: not of threads, ranks, devices or torch's generators.

    f(t) goes from `fraction` to `final_fraction` over total_steps by `fraction_schedule`: "cosine",
    "constant", "linear" or "wsd" (constant for 90 %, then linear).

    Args:
        model: holds SparseLinear layers. One whose values do not require a gradient is left alone.
        opt: the optimizer of these layers. Its state of shape [n] moves with the values; with CompactAdamW
            newborns get their own age. None: no state to move.
        interval: optimizer steps between two updates.
        stop: where updates end: a float is a fraction of total_steps, an int a step.
        total_steps: optimizer steps of the whole run.
        prune: "magnitude" (|w|), "magnitude_gradient" (|w g|), "random", or callable(context) -> floating
            tensor [n] of scores, the smallest pruned first (NaN before all, ties by position).
        grow: "random" (uniform), "gradient" (largest |dW| of the last backward pass), or callable(context, k)
            -> int64 tensor of k unique inactive flat positions row * in_features + column. A context has
            name, values, grad, cohort, mask, positions, step, update, key, out_features, in_features.
        seed: of everything random, 0 to 2^63 - 1.
        track_explored: keep one bit per position to report which fraction was ever active.
        process_group: data-parallel processes whose topologies are compared by hash at every update:
            "default" (torch.distributed's default group, where there is one), a group, or None. The topology
            itself needs no communication, but for grow="gradient", where the candidates of the group's first
            process count.

    Raises TypeError or ValueError naming what is wrong; nothing is changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        opt: torch.optim.Optimizer | None = None,
        *,
        interval: int = 100,
        fraction: float = 0.2,
        final_fraction: float = 0.005,
        fraction_schedule: str = "cosine",
        stop: float | int = 0.75,
        total_steps: int,
        prune: str | Callable[[TopologyContext], Tensor] = "magnitude",
        grow: str | Callable[[TopologyContext, int], Tensor] = "random",
        seed: int = 0,
        track_explored: bool = False,
        process_group: Any = "default",
    ) -> None:
        self._layers = dict(_unique(sparse_layers(_checked_model(model))))
        check_not_sharded(model)
        keep_positions_local(model)
        self._opt, self._process_group = opt, process_group
        _check_optimizer(opt, self._layers, prune)
        options = {
            "interval": _integer("interval", interval),
            "fraction": _number("fraction", fraction),
            "final_fraction": _number("final_fraction", final_fraction),
            "fraction_schedule": fraction_schedule,
            "stop": stop if isinstance(stop, int) and not isinstance(stop, bool) else _number("stop", stop),
            "total_steps": _integer("total_steps", total_steps),
            "prune": prune,
            "grow": grow,
            "seed": _integer("seed", seed),
            "track_explored": bool(track_explored),
        }
        if not isinstance(fraction_schedule, str):
            raise TypeError(f"smet: fraction_schedule is {fraction_schedule!r}; expected a name")
        views = [self._view(name) for name in self._layers]
        self._engine = _C.TopologyEngine(options, views, self._optimizer_step())
        self.last_update: TopologyUpdate | None = None
        self._armed = False
        self._provisional = False  # the last count is of a step that the device may have skipped
        self._arm()

    # The run

    @torch.no_grad()
    def step(self) -> TopologyUpdate | None:
        """Counts one optimizer step and, when it is due, updates the topology.

        Call it after opt.step() and before opt.zero_grad(). Where the optimizer has a step counter that did
        not move since the last call (a GradScaler skipped the step), nothing is counted. Where a GPU decides
        that (CompactAdamW), or has the counter (capturable=True), only a call on which an update is due waits
        to know, and takes back what did not happen. Returns what the update did, or None. An exception, also
        one raised by a callable criterion, leaves every layer, the optimizer and this scheduler as they were.
        In data-parallel training every process calls it; an update that fails on one of them raises on all,
        with that rank's error, and a RuntimeError after the update says that their topologies differ.
        """
        on_device = bool(getattr(self._opt, "capturable", False))
        optimizer_step = self._engine.expected_step() if on_device else self._optimizer_step()
        if self._engine.due() and not self._engine.stalled(optimizer_step):
            self._settle_optimizer()
            counted, optimizer_step = optimizer_step, self._optimizer_step()
            if on_device and (optimizer_step or 0) < (counted or 0):  # skipped on the device
                self._engine.advance(counted)
                self._engine.settle(optimizer_step)
                self._arm()
                return None
        self._provisional = on_device or not getattr(self._opt, "settled", True)
        if self._engine.stalled(optimizer_step):
            return None
        update = None
        if self._engine.due():
            group = _processes.group_of(self._process_group)
            share_candidates((layer.grow_candidates for layer in self._layers.values()), group)
            views = [self._view(name) for name, layer in self._layers.items() if layer.values.requires_grad]
            update = _processes.together(lambda: self._engine.update(views, optimizer_step), group)
            self.last_update = update
            check_equal(update, group)
        else:
            self._engine.advance(optimizer_step)
        self._arm()
        return update

    @property
    def steps(self) -> int:
        """Optimizer steps counted so far, t."""
        self._settle()
        return self._engine.steps

    @property
    def updates(self) -> int:
        """Topology updates so far."""
        return self._engine.updates

    def fraction_at(self, step: int) -> float:
        """f(step), the fraction of a layer's weights that an update at this step replaces."""
        return self._engine.fraction_at(step)

    def hash(self) -> int:
        """64-bit hash of all layers' positions: equal on all ranks that agree."""
        return _C.topology_hash([self._view(name) for name in self._layers])

    def ages(self, name: str) -> dict[int, int]:
        """Age of weights (updates received since grown) -> how many, for the layer `name`.

        Initial weights, and those so old that their cohort id was needed again, count as old as the layer.
        Raises KeyError for an unknown layer, ValueError when the optimizer keeps no cohorts.
        """
        if name not in self._layers:
            raise KeyError(f"no sparse layer '{name}'; there are: {', '.join(self._layers)}")
        self._settle()
        return _C.age_histogram(self._view(name))

    # Saving and loading

    def state_dict(self) -> dict[str, Any]:
        """Counters, options and what is remembered per layer: numbers, strings and tensors."""
        self._settle()
        return self._engine.state_dict()

    def check_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises what `load_state_dict` would, and changes nothing."""
        self._engine.check_state_dict(state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken.

        Raises ValueError naming the option or layer in which the saved scheduler differs from this one;
        nothing is changed then. Positions belong to the model's state and ages to the optimizer's.
        """
        self._engine.load_state_dict(state_dict)
        self.last_update, self._provisional = None, False
        self._arm()

    def __repr__(self) -> str:
        state = self.state_dict()
        config = ", ".join(f"{name}={value!r}" for name, value in state["config"].items())
        counts = f"layers={len(self._layers)}, steps={self.steps}, updates={self.updates}"
        return f"TopologyScheduler({config}, {counts})"

    # What the engine sees

    def _view(self, name: str) -> _C.LayerView:
        layer = self._layers[name]
        if layer.values.is_meta:
            raise ValueError(
                f"smet: layer '{name}' is on the meta device; move the model with to_empty() before building "
                "a TopologyScheduler"
            )
        state = self._state(layer)
        return _C.LayerView(
            name=name,
            values=layer.values,
            mask=layer.mask,
            rank=layer.rank,
            cols=layer.in_features,
            grad=layer.values.grad,
            moments=[
                value
                for key, value in state.items()
                if key not in _NOT_MOMENTS and isinstance(value, Tensor) and value.shape == layer.values.shape
            ],
            cohort=state.get("cohort"),
            births=state.get("births"),
            state_step=int(state.get("step", 0)),
            grow_candidates=layer.grow_candidates,
        )

    def _state(self, layer: SparseLinear) -> dict[str, Any]:
        if self._opt is None:
            return {}
        state: dict[str, Any] = self._opt.state.get(layer.values, {})
        return state

    def _optimizer_step(self) -> int | None:
        states = (self._state(layer) for layer in self._layers.values())
        return max((int(state["step"]) for state in states if "step" in state), default=None)

    def _settle_optimizer(self) -> None:
        if (settle := getattr(self._opt, "settle", None)) is not None:
            settle()

    def _settle(self) -> None:
        """Takes the last count back if its step turns out to have been skipped."""
        if self._provisional:
            self._settle_optimizer()
            self._engine.settle(self._optimizer_step())
            self._provisional = False

    def _arm(self) -> None:
        """Asks the layers to record growth candidates in the backward passes before an update step."""
        armed = self._engine.needs_candidates and self._engine.due()
        if not armed and not self._armed:
            return
        self._armed = armed
        for name, layer in self._layers.items():
            wanted = self._engine.candidates_wanted(self._view(name)) if layer.values.requires_grad else 0
            layer.grow_candidates = (
                torch.full((wanted,), -1, dtype=torch.int64, device=layer.values.device) if wanted else None
            )


# Checks


def _checked_model(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"smet: model is a {type(model).__name__}; expected a torch.nn.Module")
    return model


def _unique(layers: Any) -> Any:
    seen = set()
    for name, layer in layers:
        if name in seen:
            raise ValueError(
                f"smet: two sparse layers have the canonical name '{name}'; expected unique names, since "
                "they key the random choices"
            )
        seen.add(name)
        yield name, layer


def _check_optimizer(opt: Any, layers: dict[str, SparseLinear], prune: Any) -> None:
    if opt is None:
        return
    if prune == "magnitude_gradient" and getattr(opt, "fused_backward", False):
        raise ValueError(
            'smet: prune is "magnitude_gradient", but the optimizer has fused_backward=True, which frees '
            "every gradient before an update could look at it; use another criterion, or fused_backward=False"
        )
    if not hasattr(opt, "param_groups") or not hasattr(opt, "state"):
        raise TypeError(f"smet: opt is a {type(opt).__name__}; expected a torch.optim.Optimizer or None")
    held = {id(param) for group in opt.param_groups for param in group["params"]}
    for name, layer in layers.items():
        if layer.values.requires_grad and id(layer.values) not in held:
            raise ValueError(
                f"smet: the optimizer does not hold the values of layer '{name}'; build it from this model's "
                "parameters, after sparsify_"
            )


def _integer(option: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"smet: {option} is {value!r}; expected an integer")
    result = operator.index(value)
    if not -(2**63) <= result < 2**63:
        raise ValueError(f"smet: {option} is {value!r}; expected an integer below 2^63")
    return result


def _number(option: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"smet: {option} is {value!r}; expected a number")
    return float(value)
