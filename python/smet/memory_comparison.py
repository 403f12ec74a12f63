# SPDX-License-Identifier: BSD-3-Clause
"""Training state of one model under several optimizers: formulas with their source; nothing is allocated.

Weights and gradients in two bytes (bfloat16), everything beside them as its source has it:

    AdamW           2 + 2 + 4 + 4 bytes per weight: moments in float32
    8-bit Adam      2 + 2 + 2 * (1 + 4 / 2048): one float32 scale for each block of 2,048 moments
                    (Dettmers et al. 2022, arXiv 2110.02861, section 2)
    GaLore          of a matrix m x n, m <= n, rank r: moments 2 n r and a projection m r instead of 2 m n
                    (Zhao et al. 2024, arXiv 2403.03507, table 1); here r = hidden / 4, moments in float32 or
                    8 bits, the projection in bfloat16. Embeddings, head and norms have plain moments.
    smet            (2 w + 2 m + 1) d + 0.129 per position, see smet.estimate

"layer by layer": gradients that live for one parameter only (GaLore, section 4.3; smet --fused-backward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smet._memory_peak import Run
from smet._text import format_bytes, text_table
from smet.llama_sizes import LlamaSize
from smet.memory_estimate import Estimate

_PARTS = ("weights", "gradients", "optimizer state", "index")
_EIGHT_BIT = 1 + 4 / 2048
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#555555")


@dataclass(frozen=True)
class Row:
    """Bytes by part, in the order of `_PARTS`."""

    name: str
    parts: tuple[float, float, float, float]

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts)


def comparison(size: LlamaSize, estimates: Sequence[Estimate]) -> list[Row]:
    """Dense AdamW, 8-bit Adam, GaLore, then ours with gradients that live for one parameter each."""
    dense = 2 * size.vocab * size.hidden + (2 * size.layers + 1) * size.hidden
    shapes = 4 * [(size.hidden, size.hidden)] + 3 * [(size.hidden, size.intermediate)]
    weights = dense + size.layers * sum(m * n for m, n in shapes)
    rank = size.hidden // 4
    low_rank = size.layers * sum(2 * max(m, n) * rank for m, n in shapes)  # moments
    projection = size.layers * sum(min(m, n) * rank for m, n in shapes)
    largest = size.vocab * size.hidden

    def galore(bytes_per_moment: float) -> float:
        return bytes_per_moment * (low_rank + 2 * dense) + 2 * projection

    rows = [
        Row("dense AdamW", (2 * weights, 2 * weights, 8 * weights, 0)),
        Row("8-bit Adam", (2 * weights, 2 * weights, 2 * _EIGHT_BIT * weights, 0)),
        Row("GaLore, rank 1/4", (2 * weights, 2 * weights, galore(4), 0)),
        Row("8-bit GaLore, rank 1/4, layer by layer", (2 * weights, 2 * largest, galore(_EIGHT_BIT), 0)),
    ]
    for estimate in estimates:
        kinds = estimate.by_kind
        state = kinds["moments"] + kinds["cohorts"] + kinds["dense_moments"] + kinds["other"]
        parts = (kinds["weights"] + kinds["dense_weights"], estimate.largest.gradient, state, kinds["index"])
        rows.append(Row(f"smet, density {estimate.density:.2f}, {estimate.moments} moments", parts))
    return rows


def comparison_table(rows: Sequence[Row], estimates: Sequence[Estimate], run: Run) -> str:
    """One line each; for ours also the predicted peak of the whole process."""
    peaks = [estimate.peak(run) for estimate in estimates]
    last = [""] * (len(rows) - len(peaks)) + [format_bytes(peak.total) if peak else "" for peak in peaks]
    lines = [
        [
            row.name,
            *map(format_bytes, row.parts),
            format_bytes(row.total),
            f"{row.total / rows[0].total:.3f}",
            peak,
        ]
        for row, peak in zip(rows, last, strict=True)
    ]
    header = ("", *_PARTS, "state", "of dense", "peak")
    return "\n".join(text_table(header, lines))


def draw_comparison(rows: Sequence[Row], title: str, picture: Path) -> None:
    """Stacked bars, one for each row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.4), layout="constrained")
    names = [row.name for row in rows]
    left = [0.0] * len(rows)
    for number, (part, colour) in enumerate(zip(_PARTS, _COLOURS, strict=True)):
        widths = [row.parts[number] / 1e9 for row in rows]
        axis.barh(names, widths, left=left, color=colour, label=part)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axis.text(total, place, f" {total:.1f}", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel("GB of training state, before activations")
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(picture, dpi=130)
    plt.close(figure)
