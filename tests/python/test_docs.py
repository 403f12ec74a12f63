# SPDX-License-Identifier: BSD-3-Clause
"""What `make docs` rests on: comments as Doxygen sees them, the count, and the picture of the method."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pyplot = pytest.importorskip("matplotlib.pyplot")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
from header_comments import filtered  # noqa: E402
from python_symbols import python_symbols  # noqa: E402

HEADER = """// SPDX-License-Identifier: BSD-3-Clause
// About the file.
#pragma once

// Adds <a> and b:
//   c = a + b
// exactly.
int add(int a,
        int b);
int twice(int a);

int alone();  // behind, and
              // more
struct S {
  // For both.
  int x;
  int y;

  int z;
};
"""


def test_comments_reach_what_they_stand_at():
    lines = filtered(HEADER).splitlines()
    assert len(lines) == len(HEADER.splitlines())
    assert lines[0] == r"/** \file" and lines[1] == " About the file. */"
    assert lines[4:7] == [r"/** Adds \<a\> and b: \verbatim", "   c = a + b", r" \endverbatim exactly. */"]
    assert lines[7:9] == ["int add(int a,", "        int b);"]
    assert lines[9].startswith("/** Adds") and lines[9].endswith("int twice(int a);")
    assert lines[11:13] == ["int alone();  ///< behind, and", "///< more"]
    assert lines[14:17] == ["/** For both. */", "  int x;", "/** For both. */   int y;"]
    assert lines[18] == "  int z;"


def test_every_header_keeps_its_lines():
    for path in (ROOT / "include" / "smet").glob("*.h"):
        text = path.read_text()
        assert len(filtered(text).splitlines()) == len(text.splitlines()), path.name


def test_every_public_symbol_of_python_is_documented():
    symbols = python_symbols()
    assert len(symbols) > 60
    assert [name for name, documented in symbols.items() if not documented] == []


def test_the_picture_of_the_method_is_what_the_library_draws(tmp_path):
    path = tmp_path / "method.png"
    subprocess.run([sys.executable, ROOT / "docs" / "draw_method.py", path], check=True, timeout=120)
    drawn, kept = (pyplot.imread(file) for file in (path, ROOT / "docs" / "pictures" / "method.png"))
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.01  # letters differ between versions of matplotlib
