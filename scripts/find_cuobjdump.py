# SPDX-License-Identifier: BSD-3-Clause
"""Print the path of the cuobjdump that torch's dependency triton brings; exit code 1 where there is none."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.find_spec("triton")
folders = list(spec.submodule_search_locations or []) if spec else []
found = [path for folder in folders for path in Path(folder).glob("backends/nvidia/bin/cuobjdump")]
if not found:
    sys.exit(1)
print(found[0])
