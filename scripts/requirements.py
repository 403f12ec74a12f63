# SPDX-License-Identifier: BSD-3-Clause
"""Print what pyproject.toml requires for building, training, testing and linting, one requirement a line."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import pip._vendor.tomli as tomllib

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
extras = project["project"]["optional-dependencies"]
requirements = project["build-system"]["requires"] + project["project"]["dependencies"]
for extra in ("train", "hf", "test", "lint", "docs"):
    requirements += extras[extra]
print("\n".join(dict.fromkeys(r.replace(" ", "") for r in requirements)))
