"""Draw the picture that explains M-VAR: what each token reads, and what a generation remembers.

    python tools/picture_m_var.py docs/images/m-var.png

The two squares show which tokens attention reads on the first five scales of the 256 px schedule; the curves are the
memory that ``nextscale plan`` prices for one guided 1024 px image, VAR's cache in bfloat16, M-VAR's state in float32.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import default_plan
from nextscale.price import price
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

SHOWN, DEPTH, PIXELS = 5, 30, 1024
ATTENTION, STATE = "#3b6fb6", "#d1622b"


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
    """Memory after every scale of one guided image."""
    names = [f"{h}x{w}" for h, w in ScaleSchedule.preset(str(PIXELS))]
    curves = {"VAR, bfloat16 cache": (memory_curve("var"), ATTENTION)}
    curves["M-VAR, float32 state"] = (memory_curve("m-var"), STATE)
    for label, (mib, colour) in curves.items():
        axes.plot(mib, "o-", color=colour, label=label, markersize=4)
        axes.annotate(f"{max(mib):,.0f} MiB", (len(mib) - 1, max(mib)), (0, 7), textcoords="offset points", ha="right")
    axes.set_yscale("log")
    axes.set_ylim(1, 8000)
    axes.set_xticks(range(len(names)), names, rotation=60)
    axes.set_ylabel("memory of a generation, MiB")
    axes.set_title(f"{PIXELS} px, depth {DEPTH}, guidance on:\nremembered after each scale", fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def memory_curve(system: str) -> list[float]:
    """MiB after each scale, as ``nextscale plan SYSTEM-d30-1024`` prints them."""
    config = MVARConfig.published(DEPTH, PIXELS) if system == "m-var" else VARConfig.published(DEPTH, PIXELS)
    with torch.device("meta"):
        tokenizer = ResidualTokenizer(ResidualConfig(sizes=config.sizes))
        model = MVAR(config) if isinstance(config, MVARConfig) else VAR(config)
    lines = price(default_plan(model, guidance_scale=2.5), {"tokenizer": tokenizer, "model": model}, 1, 2).lines
    return [line.memory / 2**20 for line in lines if "x" in line.name]


if __name__ == "__main__":
    main()
