# SPDX-License-Identifier: BSD-3-Clause
"""Every algorithm of the table against nn.Linear, forward + backward, over tokens and densities.

The figures beside the rule of `auto` in src/ops/algorithm_table.cpp. Rounds of dense and sparse alternate in
one process; a line gives minimum / median ratios of each shape.

    python benchmarks/algorithm_crossover.py --tokens 1 8 32 64 128 512 --density .75 .5 .25 .05
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import smet


def train(layer: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> float:
    """Seconds of one forward and backward."""
    x.grad = None
    layer.zero_grad()
    begin = time.perf_counter()
    layer(x).backward(dy)
    return time.perf_counter() - begin


def compare(out: int, in_: int, density: float, tokens: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Ratio of the minima and of the medians to nn.Linear, per algorithm."""
    x, dy = torch.randn(tokens, in_, requires_grad=True), torch.randn(tokens, out)
    dense = torch.nn.Linear(in_, out, bias=False)
    layers = {
        name: smet.SparseLinear(in_, out, density=density, bias=False, algorithm=name)
        for name in smet._C.algorithm_names("cpu")
    }
    times: dict[str, list[float]] = {name: [] for name in ("dense", *layers)}
    for _ in range(rounds + 1):  # the first one warms up
        times["dense"].append(train(dense, x, dy))
        for name, layer in layers.items():
            times[name].append(train(layer, x, dy))
    base = times.pop("dense")[1:]
    return {
        name: (min(t[1:]) / min(base), statistics.median(t[1:]) / statistics.median(base))
        for name, t in times.items()
    }


def main() -> None:
    """Print one line per number of tokens, density and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512])
    parser.add_argument("--density", type=float, nargs="+", default=[0.75, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01])
    parser.add_argument("--shapes", nargs="+", default=["2048x768", "768x768"], help="OUTxIN")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for tokens in args.tokens:
        for density in args.density:
            rows = [
                compare(*map(int, shape.split("x")), density, tokens, args.rounds) for shape in args.shapes
            ]
            for name in rows[0]:
                ratios = "  ".join(f"{row[name][0]:.3f}/{row[name][1]:.3f}" for row in rows)
                middle = statistics.median(row[name][0] for row in rows)
                print(
                    f"T {tokens:5d}  d {density:<5} {name:12s} {ratios}  median of minima {middle:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
