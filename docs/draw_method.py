# SPDX-License-Identifier: BSD-3-Clause
"""Draw docs/pictures/method.png with the library itself: an update, the steps of newborns, the schedule.

python docs/draw_method.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

import smet
from smet import _packing

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

SIZE, UPDATES = 24, 300
GREY, RED, GREEN, BLUE = "#b8b8b8", "#c44e52", "#55a868", "#4c72b0"


def one_update() -> np.ndarray:
    """Positions of a layer around one update: 0 inactive, 1 kept, 2 pruned, 3 grown."""
    layer = smet.SparseLinear(SIZE, SIZE, bias=False, density=0.25, seed=1, name="layer")
    topology = smet.TopologyScheduler(layer, interval=1, fraction=0.25, total_steps=10, seed=1)
    before = _packing.unpack(layer.mask.clone(), SIZE)
    topology.step()
    after = _packing.unpack(layer.mask, SIZE)
    return (before & after).int().add(2 * (before & ~after).int()).add(3 * (~before & after).int()).numpy()


def newborn_steps(local_age: bool, warmup: float) -> list[float]:
    """|step| / lr of a newborn weight under a gradient of constant size, grown late in a run."""
    layer = smet.SparseLinear(8, 8, bias=False, density=0.5, name="layer")
    opt = smet.CompactAdamW(
        layer, lr=1e-3, weight_decay=0.0, density_scaling=0.0, local_age=local_age, warmup=warmup
    )
    born = 8_000
    topology = smet.TopologyScheduler(
        layer, opt, interval=born, fraction=0.25, stop=1.0, total_steps=2 * born
    )
    sizes = []
    for step in range(born + UPDATES):
        before = layer.values.detach().clone()
        layer.values.grad = torch.ones_like(layer.values)
        opt.step()
        if step >= born:
            newborn = opt.state[layer.values]["cohort"] != 0
            sizes.append(float((layer.values.detach() - before)[newborn].abs().mean()) / 1e-3)
        topology.step()
    return sizes


def draw(path: Path) -> None:
    """Three panels."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")

    left.imshow(one_update(), cmap=ListedColormap(["white", GREY, RED, GREEN]), vmin=0, vmax=3)
    left.set(xticks=[], yticks=[], title="one update of a layer, density .25", xlabel="in", ylabel="out")
    for spine in left.spines.values():
        spine.set_visible(True)
    for colour, label in (
        (GREY, "kept, bit for bit"),
        (RED, "pruned: smallest |w|"),
        (GREEN, "grown, from 0"),
    ):
        left.plot([], [], "s", color=colour, label=label)
    left.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False, fontsize=7, columnspacing=1
    )

    ages = range(1, UPDATES + 1)
    middle.plot(ages, newborn_steps(False, 0), color=RED, label="corrected by the global step")
    middle.plot(ages, newborn_steps(True, 0), color=GREY, label="by the weight's own age")
    middle.plot(ages, newborn_steps(True, 100), color=GREEN, label="own age, warm-up over 100")
    middle.set(title="step of a newborn / lr, constant gradient", xlabel="age, updates", ylim=(0, 7))
    middle.legend(frameon=False, fontsize=7)

    total = 20_000
    layer = smet.SparseLinear(8, 8, name="layer")
    steps = np.arange(0, total + 1, 100)
    for schedule, colour in (("cosine", BLUE), ("linear", GREY), ("wsd", GREEN)):
        topology = smet.TopologyScheduler(layer, total_steps=total, fraction_schedule=schedule)
        right.plot(
            steps / total, [topology.fraction_at(int(step)) for step in steps], color=colour, label=schedule
        )
    right.axvline(0.75, color="black", linewidth=0.6, linestyle=":")
    right.text(0.74, 0.2, "stop", ha="right", va="top", fontsize=7)
    right.set(
        title="fraction f(t) replaced by an update", xlabel="t / total_steps", ylim=(0, 0.21), xlim=(0, 1)
    )
    right.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures" / "method.png")
