# SPDX-License-Identifier: BSD-3-Clause
from contextlib import contextmanager

import pytest
import torch


def _cuda_reason():
    if not torch.cuda.is_available():
        return "no CUDA device"
    import smet

    if not smet._C.algorithm_names("cuda"):
        return "a CPU build of smet"
    return None


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every device that the library may run on."""
    if request.param == "cuda" and (reason := _cuda_reason()):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def threads():
    """`with threads(n):` runs torch with n intra-op threads."""

    @contextmanager
    def use(count):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return use


@pytest.fixture
def one_thread(threads):
    """For thousands of tiny operations: waking threads would take most of the time."""
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)
