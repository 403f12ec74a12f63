# SPDX-License-Identifier: BSD-3-Clause
"""Steps under torch.amp.GradScaler of which the device decides whether they happen.

The kernels read `found_inf` themselves and write nothing where it is not 0. Ages and learning rates are
computed on the host, which therefore has to know, too: it counts the step, sends for the flag, and looks at
it when the next step begins. By then the device has had a whole forward and backward pass to deliver it, so
no step waits for work of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor


class CountedStep:
    """A step that was counted before it was known whether the device skipped it."""

    def __init__(self, found_inf: Tensor, counters: list[Tensor]) -> None:
        """found_inf: one element, on any device. counters: the `step` of each state, on the CPU."""
        self._counters = counters
        # A copy, since the scaler reuses its flag; from a GPU into pinned memory, without waiting.
        self._flag = found_inf.detach().to("cpu", non_blocking=True, copy=True)
        self._copied: torch.cuda.Event | None = None
        if found_inf.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(found_inf.device))

    def settle(self) -> bool:
        """Wait for the flag and take the count back if the step was skipped; say whether it was."""
        if self._copied is not None:
            self._copied.synchronize()
        if self._flag.item() == 0:
            return False
        for counter in self._counters:
            counter.sub_(1)
        return True
