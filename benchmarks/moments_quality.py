# SPDX-License-Identifier: BSD-3-Clause
"""Held-out bits per byte of the demo's sparse run by the format of Adam's moments, over seeds.

    python benchmarks/moments_quality.py --out runs/moments [--moments fp32 bf16 8bit] [--seeds 0 1 2]

Each run is kept in its folder and not repeated. A format costs quality if its mean over the seeds is further
from fp32's than .5 %; the spread of the seeds says what that is worth.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from smet._text import text_table
from smet.train.data import load_data
from smet.train.demo import PRESET, SMET_LR
from smet.train.run import pretrain

ALLOWED = 0.005


def finished(folder: Path) -> bool:
    """Whether the run was made, and to its end."""
    summary = folder / "summary.json"
    return summary.is_file() and not json.loads(summary.read_text())["interrupted"]


def main() -> int:
    """Make what is missing, then print the table; 1 where a format is off by more than .5 %."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--moments", nargs="+", default=["fp32", "bf16", "8bit"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=PRESET.steps)
    options = parser.parse_args()
    bits: dict[str, list[float]] = {}
    tokens = None
    for seed in options.seeds:
        for moments in options.moments:
            folder = options.out / f"{moments}-{seed}"
            if not finished(folder):
                config = replace(
                    PRESET,
                    method="smet",
                    density=0.25,
                    lr=SMET_LR,
                    moments=moments,
                    seed=seed,
                    steps=options.steps,
                    eval_every=0,
                    sample_tokens=0,
                    picture=False,
                    print_every=100,
                    out=str(folder),
                    overwrite=True,
                )
                tokens = tokens or load_data(config, options.out, None)
                pretrain(config, tokens)
            summary = json.loads((folder / "summary.json").read_text())
            bits.setdefault(moments, []).append(summary["val_bits_per_byte"])
    reference = statistics.fmean(bits[options.moments[0]])
    rows, worst = [], 0.0
    for moments, values in bits.items():
        off = statistics.fmean(values) / reference - 1
        worst = max(worst, abs(off))
        rows.append(
            [moments, *(f"{value:.4f}" for value in values), f"{statistics.fmean(values):.4f}", f"{off:+.2%}"]
        )
    header = ("moments", *(f"seed {seed}" for seed in options.seeds), "mean", f"against {options.moments[0]}")
    print("\n".join(text_table(header, rows)))
    return int(worst > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main())
