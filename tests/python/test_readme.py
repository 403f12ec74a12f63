# SPDX-License-Identifier: BSD-3-Clause
"""The README shows the examples as they are; Python's runs here, C++'s in test_consumer.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {"python": "examples/python/minimal.py", "cpp": "examples/cpp/minimal.cpp"}


def marked_part(path):
    """The lines between [readme] and [/readme], without their common indent."""
    text = (ROOT / path).read_text()
    lines = re.search(r"\[readme\]\n(.*?)\n *(?://|#) \[/readme\]", text, re.S).group(1).splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return [line[indent:] for line in lines]


@pytest.mark.parametrize("language", EXAMPLES)
def test_readme_shows_the_example(language):
    blocks = re.findall(rf"```{language}\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    assert marked_part(EXAMPLES[language]) == blocks[0].splitlines()


def losses(output):
    found = [float(value) for value in re.findall(r"step \d+  loss ([\d.]+)", output)]
    assert len(found) == 6
    return found


def test_python_example_learns():
    done = subprocess.run(
        [sys.executable, ROOT / EXAMPLES["python"]], capture_output=True, text=True, check=True, timeout=120
    )
    first, *_, last = losses(done.stdout)
    assert last < first
    assert "density" in done.stdout
