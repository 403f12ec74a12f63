# SPDX-License-Identifier: BSD-3-Clause
"""SparseLinear: a linear layer of which only the active weights exist."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smet import _C, _packing

_OPS = torch.ops.smet


class SparseLinear(nn.Module):
    """y = x W^T + b, where W [out_features, in_features] is zero outside its active positions.

    Tensors (one format on every device and in every file):
        values  Parameter [n], the active weights, row-major by position; `.grad` has the same shape
        mask    int32 [out, ceil(in / 32)], bit c % 32 of word c / 32 is 1 where (row, c) is active
        rank    int32 [out, ceil(in / 1024)], index into values of each 1,024-column segment's first weight;
                derived from mask, not saved
        bias    Parameter [out] or None

    n = round(density * out * in). Positions and initial values are drawn by a counter-based generator from
    (seed, name, position), never from torch's global one: layers of one model need different names or seeds
    (`sparsify_` names them), or they start alike. Values start as nn.Linear's do, uniform within
    1 / sqrt(in_features), or normal with standard deviation `init_std` (the bias is then 0);
    `init_scale="fan_in"` multiplies the values by 1 / sqrt(density).

    Input [..., in_features] of values' dtype (float32, float64, bfloat16, float16; the reduced ones compute
    in float32 on a CPU), any leading dimensions, also none or empty ones. `algorithm` is a row of the
    algorithm table, or "auto". ValueError or TypeError says which argument is wrong.
    """

    values: nn.Parameter
    mask: Tensor
    rank: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        density: float = 0.25,
        algorithm: str = "auto",
        seed: int = 0,
        name: str = "",
        init_std: float | None = None,
        init_scale: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _packing.check_init(init_std, init_scale, name)
        n = _C.active_count(density, out_features, in_features)
        self.in_features, self.out_features = in_features, out_features
        self.algorithm, self.seed, self.name, self.origin = algorithm, seed, name, "linear"
        self.init_std, self.init_scale = init_std, init_scale
        self.grow_candidates: Tensor | None = None
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise TypeError(f"smet: layer '{name}': dtype is {dtype}; expected a floating one")
        self._allocate(n, bias, device, dtype)
        self.reset_parameters()

    def _allocate(self, n: int, bias: bool, device: Any, dtype: torch.dtype) -> None:
        words, segments = (
            _packing.words_per_row(self.in_features),
            _packing.segments_per_row(self.in_features),
        )
        self.values = nn.Parameter(torch.empty(n, device=device, dtype=dtype))
        self.register_buffer("mask", torch.empty(self.out_features, words, device=device, dtype=torch.int32))
        rank = torch.empty(self.out_features, segments, device=device, dtype=torch.int32)
        self.register_buffer("rank", rank, persistent=False)
        new_bias = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", new_bias)
        self._register()

    def _register(self) -> None:
        _C.register_values(self.values, self.out_features, self.in_features, self.name, self.rank)

    # Size and text

    @property
    def nnz(self) -> int:
        """Number of active weights, n."""
        return self.values.numel()

    @property
    def density(self) -> float:
        """n / (out_features * in_features)."""
        return self.nnz / max(1, self.out_features * self.in_features)

    def extra_repr(self) -> str:
        """Arguments, as in nn.Linear's, with the exact density."""
        text = f"in_features={self.in_features}, out_features={self.out_features}, "
        text += f"bias={self.bias is not None}, density={self.density:.4g}"
        return text if self.algorithm == "auto" else f"{text}, algorithm={self.algorithm}"

    def __getattr__(self, name: str) -> Any:
        """As torch's; for `weight`, which T5 and Mamba read but no sparse layer has, it says what to do."""
        if name != "weight":
            return super().__getattr__(name)
        layer = self.__dict__.get("name", "")
        pattern = f"*.{layer.rpartition('.')[2]}" if "." in layer else layer
        raise AttributeError(
            f"smet: layer '{layer}' is sparse and has no attribute 'weight'; its active weights are .values, "
            "and dense_weight() builds the matrix. Where the model's own code reads .weight, keep the layer "
            f"dense: sparsify_(model, ..., skip=(*smet.SKIP, '{pattern}'))"
        )

    # Initialisation

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw positions, values and bias again from (seed, name). On the meta device nothing happens."""
        if self.values.is_meta:
            return
        mask = _C.draw_initial_mask(self.out_features, self.in_features, self.nnz, self.seed, self.name)
        self.set_mask(mask)
        self.reset_values()
        if self.bias is not None:
            _C.fill_initial_bias(self.bias, self.in_features, self.seed, self.name, self.init_std)

    @torch.no_grad()
    def reset_values(self) -> None:
        """Draw the values at the present positions again."""
        _C.fill_initial_values(
            self.values,
            self.mask,
            self.rank,
            self.in_features,
            self.seed,
            self.name,
            self.init_std,
            self.init_scale == "fan_in",
        )

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Take the packed positions `mask` (exactly n of them), in place; values are left as they are."""
        problem = _packing.mask_problem(mask, self.out_features, self.in_features, self.nnz)
        if problem:
            raise ValueError(f"smet: layer '{self.name}': mask {problem}")
        rank = _OPS.mask_rank(mask.contiguous(), self.in_features)
        self.mask.copy_(mask)
        self.rank.copy_(rank)

    # Computation

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b, shape [..., out_features]."""
        if input.dim() == 0 or input.size(-1) != self.in_features:
            raise ValueError(
                f"smet: layer '{self.name}': input has shape {tuple(input.shape)}; "
                f"expected a last dimension of {self.in_features}"
            )
        output: Tensor = _OPS.sparse_linear(
            input, self.values, self.mask, self.rank, self.bias, self.algorithm
        )
        if self.grow_candidates is not None and output.requires_grad:
            output.register_hook(self._recorder(input.detach(), self.grow_candidates))  # type: ignore[no-untyped-call]
        return output

    def _recorder(self, input: Tensor, candidates: Tensor) -> Callable[[Tensor], None]:
        """A hook on the output that writes the inactive positions of largest |dW| to `candidates`."""

        def record(grad_output: Tensor) -> None:
            with torch.no_grad():
                _OPS.grad_topk_(candidates, grad_output, input.to(grad_output.dtype), self.mask)

        return record

    def dense_weight(self) -> Tensor:
        """W as a dense [out_features, in_features] tensor; differentiable with respect to values."""
        weight: Tensor = _OPS.expand(self.values, self.mask, self.rank, self.in_features)
        return weight

    # Dense layers

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls,
        source: nn.Module | Tensor,
        density: float | None = None,
        *,
        mask: Tensor | None = None,
        select: str = "random",
        algorithm: str = "auto",
        seed: int = 0,
        name: str = "",
        init_std: float | None = None,
        init_scale: str | None = None,
    ) -> SparseLinear:
        """Make a layer from an nn.Linear, a transformers Conv1D or a weight [out, in].

        Positions: `mask` (bool [out, in], or packed int32), else `density` of them, drawn by (seed, name)
        with select="random" or the largest |w| with "magnitude" (equal ones: the larger flat position).
        Values are the given weights there, or fresh ones when `init_std` is given, when the source is on the
        meta device (nothing dense is allocated, and the layer is on meta too) or never otherwise; times
        1 / sqrt(density) with init_scale="fan_in". Device, dtype, requires_grad and training mode are kept.
        """
        weight, bias, origin = _packing.dense_parts(source)
        out_features, in_features = weight.shape
        _packing.check_init(init_std, init_scale, name)
        if (density is None) == (mask is None):
            raise ValueError(f"smet: layer '{name}': give either density or mask")
        packed = None
        if mask is not None:
            if weight.is_meta:
                raise ValueError(
                    f"smet: layer '{name}': a layer on the meta device cannot take a mask; its positions are "
                    "drawn from (seed, name) when it leaves that device"
                )
            packed = _packing.packed_mask(mask, out_features, in_features, name)
            density = _packing.active_positions(packed) / max(1, out_features * in_features)
        elif select == "magnitude":
            assert density is not None
            n = _C.active_count(density, out_features, in_features)
            packed = _packing.magnitude_mask(weight, n, name)
        elif select != "random":
            raise ValueError(f"smet: select is '{select}'; expected 'random' or 'magnitude'")
        layer = cls.__new__(cls)
        assert density is not None
        layer.__init__(  # type: ignore[misc]
            in_features,
            out_features,
            bias is not None,
            density=density,
            algorithm=algorithm,
            seed=seed,
            name=name,
            init_std=init_std,
            init_scale=init_scale,
            device="meta",
            dtype=weight.dtype,
        )
        layer.origin = origin
        layer._take(source, weight, bias, packed)
        return layer

    def _take(
        self, source: nn.Module | Tensor, weight: Tensor, bias: Tensor | None, packed: Tensor | None
    ) -> None:
        """Positions, values and bias from a dense layer; self is still on the meta device."""
        if isinstance(source, nn.Module):
            self.training = source.training
        self.values.requires_grad_(weight.requires_grad)
        if self.bias is not None and bias is not None:
            self.bias.requires_grad_(bias.requires_grad)
        if weight.is_meta:
            return
        self._materialize(weight.device)
        if packed is None:
            packed = _C.draw_initial_mask(self.out_features, self.in_features, self.nnz, self.seed, self.name)
        self.set_mask(packed)
        if self.init_std is not None:
            self.reset_values()
        else:
            values = _OPS.gather(weight.detach(), self.mask, self.rank, self.nnz)
            scale = 1 / math.sqrt(self.density) if self.init_scale == "fan_in" and self.nnz else 1.0
            self.values.copy_(values * scale if scale != 1.0 else values)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    @torch.no_grad()
    def to_dense(self) -> nn.Module:
        """Build the nn.Linear (or Conv1D, where the layer came from one) of the same function."""
        return _packing.dense_layer(self)

    # What torch does to modules

    def _materialize(self, device: torch.device) -> None:
        super()._apply(lambda tensor: torch.empty_like(tensor, device=device))  # type: ignore[no-untyped-call]
        self._register()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SparseLinear:
        """As torch's; a layer that leaves the meta device (`to_empty`) draws its positions and values."""
        mask, rank, was_meta = self.mask, self.rank, self.values.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Module.type() and C++-style casts convert every tensor; positions are integers whatever happens.
        if self.mask.dtype != torch.int32:
            self.mask = mask.to(self.mask.device)
            self.rank = rank.to(self.mask.device)
        self._register()
        if was_meta:
            self.reset_parameters()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *rest: Any
    ) -> None:
        error_msgs: list[str] = rest[-1]
        mask = state_dict.get(prefix + "mask")
        if mask is not None:
            values = state_dict.get(prefix + "values")
            n = self.nnz if values is None else values.numel()
            problem = _packing.mask_problem(mask, self.out_features, self.in_features, n)
            if not problem and n != self.nnz:
                problem = f"has {n} active weights; this layer has {self.nnz}. Build it with the same density"
            if problem:  # nothing of this layer is loaded; load_state_dict raises at its end
                error_msgs.append(f'"{prefix}mask" {problem}')
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *rest)
        if not self.mask.is_meta and mask is not None:
            with torch.no_grad():
                rank = _OPS.mask_rank(self.mask, self.in_features)
                if self.rank.device == rank.device:
                    self.rank.copy_(rank)
                else:
                    self.rank = rank
        self._register()
