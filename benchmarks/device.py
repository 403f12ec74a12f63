# SPDX-License-Identifier: BSD-3-Clause
"""Kernels, layer and optimizer on a device against torch's dense ones: one table each.

    python benchmarks/device.py --device cuda            # what scripts/gpu_day.sh runs
    python benchmarks/device.py --device cuda --check    # small shapes, results compared
    python benchmarks/device.py --device cpu --check     # that the script itself works

Times are medians of rounds that alternate between the sides, after a warm-up, the cache flushed before each.
"""

import argparse
import statistics
import time

import torch

import smet
from smet.device_bounds import GPUS

GIGA = 1e9


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--check", action="store_true", help="small shapes, one round, compare results")
    parser.add_argument("--rounds", type=int, default=30)
    peaks = ", ".join(f"{gpu.name}: {gpu.bandwidth / GIGA:.0f}" for gpu in GPUS.values())
    parser.add_argument("--bandwidth", type=float, default=3350.0, help=f"peak in GB/s ({peaks})")
    return parser.parse_args()


class Clock:
    """Median seconds of several functions, their rounds interleaved."""

    def __init__(self, args):
        self.cuda = args.device == "cuda"
        self.rounds = 1 if args.check else args.rounds
        self.flush = torch.empty(1 if args.check else 64 << 20, dtype=torch.float32, device=args.device)

    def once(self, function):
        """Seconds of one call, after the cache is flushed."""
        self.flush.zero_()
        if not self.cuda:
            begin = time.perf_counter()
            function()
            return time.perf_counter() - begin
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def __call__(self, *functions):
        """One median for each function."""
        for function in functions:
            function()
        times = [[self.once(function) for function in functions] for _ in range(self.rounds)]
        return [statistics.median(column) for column in zip(*times, strict=True)]


def random_layer(rows, cols, density, dtype, device):
    """Values, mask and ranks of a layer with randomly placed weights."""
    ops = torch.ops.smet
    empty = torch.zeros(rows, (cols + 31) // 32, dtype=torch.int32)
    n = round(density * rows * cols)
    mask = ops.draw_positions(empty, cols, n, 1).to(device)
    values = torch.randn(n, dtype=dtype, device=device)
    return values, mask, ops.mask_rank(mask, cols)


def kernels(args, clock, rows, cols, dtype):
    """Bytes that must move against the peak bandwidth."""
    ops = torch.ops.smet
    print(f"\n{'kernel':<8} density  us        GB/s   of peak     {rows} x {cols} {dtype}")
    for density in (0.5, 0.25, 0.1, 0.05, 0.01):
        values, mask, rank = random_layer(rows, cols, density, dtype, args.device)
        dense = ops.expand(values, mask, rank, cols)
        if args.check:
            torch.testing.assert_close(ops.gather(dense, mask, rank, len(values)), values, rtol=0, atol=0)
        moved = (values.nbytes + dense.nbytes + mask.nbytes + rank.nbytes) / GIGA
        times = clock(
            lambda v=values, m=mask, r=rank: ops.expand(v, m, r, cols),
            lambda d=dense, v=values, m=mask, r=rank: ops.gather(d, m, r, len(v)),
        )
        for name, seconds in zip(("expand", "gather"), times, strict=True):
            rate = moved / seconds
            print(f"{name:<8} {density:<7}  {seconds * 1e6:<8.1f}  {rate:<6.0f} {rate / args.bandwidth:.2f}")


def layer(args, clock, rows, cols, token_counts, dtype):
    """Forward and both gradients against the dense products; cuSPARSE's forward beside it, where it is."""
    ops = torch.ops.smet
    cusparse = "cusparse" in smet._C.algorithm_names(args.device)
    print(f"\ntokens  density  dense us  sparse us  ratio  cusparse forward us     {rows} x {cols} {dtype}")
    for tokens in token_counts:
        x = torch.randn(tokens, cols, dtype=dtype, device=args.device)
        dy = torch.randn(tokens, rows, dtype=dtype, device=args.device)
        for density in (0.5, 0.25, 0.1, 0.05, 0.01):
            values, mask, rank = random_layer(rows, cols, density, dtype, args.device)
            w = ops.expand(values, mask, rank, cols)

            def dense_step(x=x, dy=dy, w=w):
                return x @ w.t(), dy @ w, dy.t() @ x

            def sparse_step(x=x, dy=dy, v=values, m=mask, r=rank):
                return ops.sparse_linear(x, v, m, r), *ops.sparse_linear_backward(dy, x, v, m, r)

            if args.check:
                y, dx, dw = dense_step()
                close = {"rtol": 2e-2, "atol": 1e-2 * cols**0.5}
                got_y, got_dx, got_dw = sparse_step()
                torch.testing.assert_close(got_y, y, **close)
                torch.testing.assert_close(got_dx, dx, **close)
                torch.testing.assert_close(
                    got_dw, ops.gather(dw.contiguous(), mask, rank, len(values)), **close
                )
            sides = [dense_step, sparse_step]
            if cusparse:
                sides.append(
                    lambda x=x, v=values, m=mask, r=rank: ops.sparse_linear(x, v, m, r, None, "cusparse")
                )
                if args.check:
                    torch.testing.assert_close(sides[-1](), y, **close)
            dense, sparse, *spmm = clock(*sides)
            print(
                f"{tokens:<7} {density:<7}  {dense * 1e6:<8.0f}  {sparse * 1e6:<9.0f}  "
                f"{sparse / dense:<5.2f}  {spmm[0] * 1e6 if spmm else float('nan'):.0f}"
            )


def optimizer(args, clock, weights, dtype):
    """One step per active weight against torch's fused AdamW per weight."""
    fused = args.device == "cuda" or dtype == torch.float32
    dense = torch.nn.Parameter(torch.randn(weights, dtype=dtype, device=args.device))
    dense.grad = torch.randn_like(dense)
    theirs = torch.optim.AdamW([dense], lr=1e-3, fused=fused)
    packed = torch.nn.Parameter(dense.detach().clone())
    packed.grad = dense.grad.clone()
    ours = smet.CompactAdamW([packed], lr=1e-3)
    a, b = clock(theirs.step, ours.step)
    print(f"\nAdamW, {weights} weights of {dtype}: torch fused {a * 1e6:.0f} us, smet {b * 1e6:.0f} us")


def main():
    """Print the three tables."""
    args = arguments()
    torch.manual_seed(0)
    clock = Clock(args)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    rows, cols = (70, 1061) if args.check else (4096, 11008)
    kernels(args, clock, rows, cols, dtype)
    layer(args, clock, rows, cols, [33] if args.check else [2048, 4096, 8192, 16384], dtype)
    optimizer(args, clock, 5000 if args.check else 100_000_000, dtype)


if __name__ == "__main__":
    main()
