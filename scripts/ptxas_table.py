# SPDX-License-Identifier: BSD-3-Clause
"""Read what `ptxas -v` said into one table: registers, spilled bytes and shared memory of every kernel.

Usage: ptxas_table.py STEM.sm_XX.log ... Exit code 1 if a kernel spills or exceeds its registers.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MOST_REGISTERS = 64  # 1,024 resident threads per multiprocessor
EXCEPTIONS = {  # beginning of a kernel's name -> its own limit
    "adamw_step_kernel<F64": 80,  # one element a thread already; in 64 its division and root would spill
}

ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)a?'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


@dataclass
class Kernel:
    """One kernel on one architecture."""

    file: str
    symbol: str
    architecture: int
    registers: int = -1
    stack: int = 0
    spilled: int = 0
    shared: int = 0


def read(path: Path) -> list[Kernel]:
    """Return the kernels of one log."""
    kernels: list[Kernel] = []
    for line in path.read_text().splitlines():
        if found := ENTRY.search(line):
            kernels.append(Kernel(path.name.split(".")[0], found[1], int(found[2])))
        elif found := SPILL.search(line):
            kernels[-1].stack = int(found[1])
            kernels[-1].spilled = int(found[2]) + int(found[3])
        elif found := USED.search(line):
            kernels[-1].registers = int(found[1])
            kernels[-1].shared = int(found[2] or 0)
    return kernels


def demangle(symbols: list[str]) -> dict[str, str]:
    """Return readable names: no namespaces, no parameters."""
    names = subprocess.run(["c++filt"], input="\n".join(symbols), text=True, capture_output=True, check=True)
    return {s: shorten(n) for s, n in zip(symbols, names.stdout.splitlines(), strict=True)}


def shorten(name: str) -> str:
    """Return what is left without return type, namespaces and parameters: `expand_kernel<F32, 4>`."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    name = re.sub(r"\((?:[\w:]+)\)(?=\d)", "", name)  # the type of an enumerator or integer argument
    return re.sub(r"\b\w+::", "", name).split("(")[0]


def problem(kernel: Kernel, name: str) -> str | None:
    """Return what is wrong with a kernel."""
    limit = next((most for start, most in EXCEPTIONS.items() if name.startswith(start)), MOST_REGISTERS)
    if kernel.registers < 0:
        return f"{name} on sm_{kernel.architecture}: ptxas did not say how many registers it uses"
    if kernel.spilled:
        return f"{name} on sm_{kernel.architecture} spills: {kernel.spilled} bytes of stores and loads"
    if kernel.registers > limit:
        return f"{name} on sm_{kernel.architecture} uses {kernel.registers} registers; {limit} are allowed"
    return None


def main(paths: list[str]) -> int:
    """Print the table and the problems."""
    kernels = [kernel for path in sorted(paths) for kernel in read(Path(path))]
    if not kernels:
        print("smet: no kernel in any log", file=sys.stderr)
        return 1
    names = demangle(list(dict.fromkeys(kernel.symbol for kernel in kernels)))
    architectures = sorted({kernel.architecture for kernel in kernels})
    rows: dict[tuple[str, str], dict[int, Kernel]] = {}
    for kernel in kernels:
        rows.setdefault((kernel.file, kernel.symbol), {})[kernel.architecture] = kernel
    width = max(len(name) for name in names.values())
    columns = "".join(f"  {f'sm_{a}':>7}" for a in architectures)
    print(f"{'registers per thread':{width}}{columns}  spills  shared")
    for (_, symbol), row in rows.items():
        registers = "".join(f"  {row[a].registers if a in row else '-':>7}" for a in architectures)
        spilled = max(kernel.spilled for kernel in row.values())
        shared = max(kernel.shared for kernel in row.values())
        print(f"{names[symbol]:{width}}{registers}  {spilled:>6}  {shared:>6}")
    problems = [text for kernel in kernels if (text := problem(kernel, names[kernel.symbol]))]
    for text in problems:
        print(f"smet: {text}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
