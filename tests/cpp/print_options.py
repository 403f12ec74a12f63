# SPDX-License-Identifier: BSD-3-Clause
"""Writes a C++ program that prints the default of every option in the public headers, as JSON.

The options are read from the headers, so a new one needs no line here: TORCH_ARG(type, name) and shorthand
setters of a struct called ...Options, or its plain fields. tests/python/test_api_parity.py compares them with
Python's.
Usage: print_options.py INCLUDE_FOLDER OUTPUT
"""

import re
import sys
from pathlib import Path

# How to make an object that has no default constructor.
ARGUMENTS = {"SparseLinearOptions": "(1, 1)"}
# Setters that stand for a field of another option.
SHORTHANDS = {name: f"age_schedule().{name}" for name in ("warmup", "boost", "boost_tau")}


def option_structs(text: str) -> dict[str, str]:
    """Name of each struct called ...Options -> its body."""
    structs = {}
    for match in re.finditer(r"^struct (\w+Options)\b[^;{]*\{\n(.*?)^\};", text, re.S | re.M):
        structs[match[1]] = re.sub(r"//[^\n]*", "", match[2])
    return structs


def getters(name: str, body: str) -> dict[str, str]:
    """Option -> expression on an object `o` that gives its value."""
    found = {option: f"o.{option}()" for option in re.findall(r"TORCH_ARG\([^;]*?,\s*(\w+)\)", body)}
    for option in re.findall(rf"{name}& (\w+)\(", body):
        found[option] = f"o.{SHORTHANDS[option]}" if option in SHORTHANDS else f"o.{option}()"
    if not found:  # a plain struct
        fields = re.findall(r"^  [\w:<>, *&()]+ (\w+)(?: = [^;]+)?;", body, re.M)
        found = {field: f"o.{field}" for field in fields}
    return found


def program(include: Path) -> str:
    """The source text."""
    lines = []
    for header in sorted(include.glob("*.h")):
        for name, body in option_structs(header.read_text()).items():
            lines.append(f'  begin("{name}");\n  {{\n    const smet::{name} o{ARGUMENTS.get(name, "{}")};')
            lines += [f'    print("{option}", {get});' for option, get in getters(name, body).items()]
            lines.append("  }\n  end();")
    return '#include "tests/cpp/print_options.h"\n\nint main() {\n' + "\n".join(lines) + "\n  finish();\n}\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(program(Path(sys.argv[1])))
