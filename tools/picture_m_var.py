"""Draw the picture that explains M-VAR: what each token reads, and what a generation remembers.

    python tools/picture_m_var.py docs/images/m-var.png

The two squares show which tokens attention reads on the first five scales of the 256 px schedule; the bars are the
memory that ``nextscale plan m-var-d30-1024 --against var-d30-1024`` prints for one guided 1024 px image and for eight.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from picture_memory import ATTENTION, DEPTH, PIXELS, STATE, footprints

from nextscale.scales import ScaleSchedule

SHOWN = 5
WEIGHTS, CACHE, REST = "0.75", "#3b6fb6", "#a9c4e4"
PARTS = ("weights", "cache or state", "activations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    figure, (var, m_var, memory) = plt.subplots(1, 3, figsize=(12.6, 4.3), width_ratios=(1, 1, 1.2))
    schedule = ScaleSchedule.preset("256").prefix(SHOWN)
    draw_reads(var, schedule, own_scale_only=False)
    var.set_title("VAR: attention over\nall scales so far", fontsize=11)
    draw_reads(m_var, schedule, own_scale_only=True)
    m_var.set_title("M-VAR: attention inside a scale,\nMamba-2 carries a state across", fontsize=11)
    draw_memory(memory)
    figure.tight_layout(w_pad=2.5)
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.picture, dpi=110)


def draw_reads(axes: Axes, schedule: ScaleSchedule, own_scale_only: bool) -> None:
    """A square whose rows are the tokens that read and whose columns are those that are read by attention."""
    scale = np.repeat(np.arange(len(schedule)), schedule.lengths)
    reads = scale[:, None] == scale if own_scale_only else scale[:, None] >= scale
    picture = np.ones((*reads.shape, 3))
    picture[reads] = mpl.colors.to_rgb(ATTENTION)
    tokens = schedule.tokens
    axes.imshow(picture, extent=(0, tokens, tokens, 0), interpolation="nearest")
    for start, length in zip(schedule.offsets, schedule.lengths, strict=False):
        axes.add_patch(Rectangle((0, start), tokens, length, fill=False, linewidth=0.4, edgecolor="0.6"))
    if own_scale_only:
        middles = [start + length / 2 for start, length in zip(schedule.offsets, schedule.lengths, strict=False)]
        for here, there in pairwise(middles):
            axes.add_patch(FancyArrowPatch((here, here), (there, there), mutation_scale=13, linewidth=2, color=STATE))
    axes.set_xticks([])
    middle = [start + length / 2 for start, length in zip(schedule.offsets, schedule.lengths, strict=False)]
    axes.set_yticks(middle[1:], [f"{h}x{w}" for h, w in schedule][1:])
    axes.tick_params(length=0)
    axes.set_xlabel("tokens that are read")
    axes.set_ylabel("tokens of a scale")


def draw_memory(axes: Axes) -> None:
    """What one and eight guided images need in all: weights, what is remembered, and everything else at the peak."""
    m_var, var, _ = footprints()
    names, lefts = [], []
    for i, (one, images) in enumerate((one, images) for images in (1, 8) for one in (var, m_var)):
        left = i + 0.4 * (images > 1)
        shares = (one.weights, images * one.cache, one.total(images) - one.weights - images * one.cache)
        bottom = 0.0
        for share, colour, name in zip((s / 2**30 for s in shares), (WEIGHTS, CACHE, REST), PARTS, strict=True):
            axes.bar(left, share, 0.75, bottom, color=colour, label=name if i == 0 else None)
            bottom += share
        axes.annotate(f"{bottom:.1f}", (left, bottom), (0, 3), textcoords="offset points", ha="center")
        names.append(f"{one.name.removesuffix('-d30')}\n{images} image{'s' if images > 1 else ''}")
        lefts.append(left)
    axes.set_xticks(lefts, names, fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("memory in all, GiB")
    axes.set_title(f"{PIXELS} px, depth {DEPTH}, guidance on,\nbfloat16: memory at the peak", fontsize=11)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
