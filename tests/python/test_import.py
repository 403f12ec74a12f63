# SPDX-License-Identifier: BSD-3-Clause
"""`import smet` and `import torch` in either order, each in a fresh interpreter."""

import subprocess
import sys

import pytest

REGISTERED = "assert torch.ops.smet.expand.default"
PROGRAMS = {
    "smet first": f"import smet, torch; {REGISTERED}",
    "torch first": f"import torch, smet; {REGISTERED}",
    "torch probed in between": "import smet, importlib.util; assert importlib.util.find_spec('torch'); "
    f"import torch; {REGISTERED}",
    "a submodule of torch first": f"import smet, torch.nn; {REGISTERED}",
    "through a name of smet": f"import smet; smet.SparseLinear; import torch; {REGISTERED}",
    "fakes too": "import smet, torch; x = torch.empty(3, 1, dtype=torch.int32, device='meta'); "
    "assert torch.ops.smet.mask_rank(x, 5).shape == (3, 1)",
    "the hook goes away": "import smet, sys; import torch; "
    "assert not any(type(finder).__module__ == 'smet' for finder in sys.meta_path)",
    "torch stays unloaded": "import smet, smet.cli, sys; assert 'torch' not in sys.modules",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_operators_are_registered_in_either_order(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_torch_that_fails_to_import_says_so_itself(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no such library')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import smet; import torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: no such library"
