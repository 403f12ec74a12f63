# SPDX-License-Identifier: BSD-3-Clause
"""Time of an optimizer step per weight, against torch's fused AdamW on as many weights.

The rows are run in turn, so that a change of the machine's speed meets all of them; one line each:
    what | weights | ns per weight: min, median | x torch fused (medians)
Usage: python benchmarks/adamw_step.py [--weights 8000000] [--layers 24] [--threads 2] [--dtype float32]
"""

import argparse
import statistics
import time

import torch

from smet import _C, CompactAdamW

DENSITY = 4  # one in so many positions is active


def layers_of(args, *, packed):
    """Equal layers with gradients; `packed` ones are known as values of density 1/4."""
    n = args.weights // args.layers
    params = []
    for index in range(args.layers):
        p = torch.nn.Parameter(torch.randn(n).to(getattr(torch, args.dtype)))
        p.grad = torch.randn_like(p)
        if packed:
            _C.register_values(p, DENSITY, n, f"layer{index}")
        params.append(p)
    return params


def compact(args, cohorts, **options):
    """CompactAdamW late in a run: `cohorts` birth ids, mixed through every layer."""
    params = layers_of(args, packed=True)
    opt = CompactAdamW(params, **options)
    for p in params:
        state = opt.state[p]
        state["step"].fill_(1000)
        for cohort in range(1, cohorts):
            state["births"][cohort] = 3 * cohort
            state["cohort"][cohort :: 2 * cohorts] = cohort
    return opt


def main():
    """Run the rows in turn and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=8_000_000)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {
        "torch AdamW fused": torch.optim.AdamW(layers_of(args, packed=False), fused=True),
        "torch AdamW foreach": torch.optim.AdamW(layers_of(args, packed=False), foreach=True),
        "CompactAdamW dense": CompactAdamW(layers_of(args, packed=False)),
        "CompactAdamW dense, no check": CompactAdamW(layers_of(args, packed=False), on_nonfinite="ignore"),
        "CompactAdamW 1 cohort": compact(args, 1),
        "CompactAdamW 40 cohorts": compact(args, 40),
        "CompactAdamW 40 cohorts, no check": compact(args, 40, on_nonfinite="ignore"),
    }
    times = {name: [] for name in rows}
    for round_ in range(args.rounds + 2):
        for name, opt in rows.items():
            start = time.perf_counter()
            opt.step()
            if round_ >= 2:
                times[name].append((time.perf_counter() - start) / args.weights * 1e9)
    fused = statistics.median(times["torch AdamW fused"])
    print(
        f"{args.layers} layers, {args.weights} weights, {args.dtype}, {args.threads} threads, ns per weight"
    )
    print(f"{'':36s} {'min':>7s} {'median':>7s} {'x fused':>7s}")
    for name, each in times.items():
        median = statistics.median(each)
        print(f"{name:36s} {min(each):7.3f} {median:7.3f} {median / fused:7.2f}")


if __name__ == "__main__":
    main()
