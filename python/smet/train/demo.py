# SPDX-License-Identifier: BSD-3-Clause
"""`smet demo`: one model dense and at density .25, from the same weights on the same batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from smet._text import format_bytes, text_table
from smet.train.config import PretrainConfig
from smet.train.data import load_data
from smet.train.log import write_json
from smet.train.models import load_model_config
from smet.train.plots import draw_runs
from smet.train.run import RunResult, pretrain
from smet.train.spikes import Spikes, paired_jumps, spikes

PRESET = PretrainConfig(
    model="9m",
    vocab=2048,
    seq=128,
    batch=16,
    steps=400,
    interval=40,  # seven updates before the topology stands at step 300
    eval_every=100,
    eval_bytes=131072,
    max_bytes=6_000_000,
    print_every=20,
    sample_tokens=60,
)
# Held-out bits per byte of this preset (Python 3.11's library, seed 0, one run each on one thread) over the
# learning rate of all parameters together:
#          1e-3    2e-3    4e-3    8e-3
#   dense  1.9081  1.8055  1.9588  -
#   smet   -       1.6764  1.6220  1.6527
DENSE_LR = 2e-3
SMET_LR = 4e-3


def demo(out: str, data: str | None, steps: int | None, seed: int, device: str = "auto") -> int:
    """Both runs; returns the exit code."""
    folder = Path(out)
    common = replace(PRESET, data=data, seed=seed, steps=steps or PRESET.steps, device=device, overwrite=True)
    dense_config = replace(common, method="dense", interval=None, lr=DENSE_LR, out=str(folder / "dense"))
    smet_config = replace(common, method="smet", density=0.25, lr=SMET_LR, out=str(folder / "smet"))
    vocab = getattr(load_model_config(common), "vocab_size", None)
    tokens = load_data(common, folder, vocab)
    results = []
    for config in (dense_config, smet_config):
        result = pretrain(config, tokens)
        if result.exit_code:
            return result.exit_code
        results.append(result)
        print(flush=True)
    draw_runs([result.folder for result in results], folder / "demo.png")
    table = compare(*results)
    (folder / "table.txt").write_text(table + "\n", encoding="utf-8")
    write_json(folder / "summary.json", {result.folder.name: result.summary for result in results})
    print(table)
    print(f"picture: {folder / 'demo.png'}")
    return 0


def compare(dense: RunResult, smet: RunResult) -> str:
    """The table. The jump of the dense run, which has no updates, at the same steps is what noise gives."""
    window = smet.summary["config"]["interval"]
    a, b = dense.summary, smet.summary
    own = spikes(smet.losses, smet.updates, window)
    control = spikes(dense.losses, smet.updates, window)
    paired = paired_jumps(smet.losses, dense.losses, smet.updates)
    measured, formula = b["sparse_layer_bytes"], b["sparse_layer_bytes_formula"]
    layers_dense = sum(a["state_bytes"][kind] - b["state_bytes"][kind] for kind in _DENSE_KINDS)
    rows = [
        ["held-out bits per byte", f"{a['val_bits_per_byte']:.4f}", f"{b['val_bits_per_byte']:.4f}"],
        ["held-out loss, nats per token", f"{a['val_loss']:.4f}", f"{b['val_loss']:.4f}"],
        [f"loss jump at {len(own.values)} updates, mean", _with_error(control), _with_error(own)],
        ["loss jump, largest", _number(control.largest), _number(own.largest)],
        ["jump of smet - dense, mean", "", _with_error(paired)],
        ["seconds per step", f"{a['seconds_per_step']:.3f}", f"{b['seconds_per_step']:.3f}"],
        ["learning rate", f"{a['config']['lr']:g}", f"{b['config']['lr']:g}"],
        ["weights", f"{a['parameters']:,}", f"{b['parameters']:,}"],
        ["projections: weights, gradients, state, index", format_bytes(layers_dense), format_bytes(measured)],
        ["  by the formula", format_bytes(b["sparse_layer_bytes_dense_adamw"]), format_bytes(formula)],
        ["  of dense AdamW", "1.000", f"{measured / layers_dense:.3f}"],
        ["whole model", format_bytes(a["state_bytes_total"]), format_bytes(b["state_bytes_total"])],
    ]
    return "\n".join(text_table(("", "dense", f"smet, density {b['density']:g}"), rows))


_DENSE_KINDS = ("dense_weights", "dense_gradients", "dense_moments")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _with_error(found: Spikes) -> str:
    return _number(found.mean) + ("" if found.error is None else f" +- {found.error:.4f}")
