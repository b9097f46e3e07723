"""Draw the memory of VAR and M-VAR against the number of pictures drawn together, weights and activations included.

    python tools/picture_memory.py docs/images/memory.png

The curves are the last lines of ``nextscale plan m-var-d30-1024 --against var-d30-1024``, in bfloat16: the
published depth 30 at 1024 px, and VAR at M-VAR's number of parameters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch

from nextscale.checkpoints.convert.var import SAMPLING
from nextscale.evaluation.footprint import BATCHES, Footprint, fewer_from, footprint, of_equal_size
from nextscale.models.base import NextScaleModel
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import default_plan
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

DEPTH, PIXELS = 30, 1024
ATTENTION, STATE, EQUAL = "#3b6fb6", "#d1622b", "#7a9cc9"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    found = footprints()
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for one, colour, line in zip(found, (STATE, ATTENTION, EQUAL), ("o-", "o-", "o--"), strict=True):
        gib = [one.total(images) / 2**30 for images in BATCHES]
        axes.plot(
            BATCHES, gib, line, color=colour, markersize=4, label=f"{one.name}, {one.parameters / 1e9:.1f} billion"
        )
        axes.annotate(f"{gib[-1]:.0f} GiB", (BATCHES[-1], gib[-1]), (6, -3), textcoords="offset points", color=colour)
    less = fewer_from(*found[:2])
    assert less is not None
    axes.axvline(less[1], color="0.6", linewidth=0.8, linestyle=":")
    axes.annotate(f"from {less[1]} pictures on\nM-VAR needs less", (less[1], 3), (5, 0), textcoords="offset points")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlim(0.9, 52)
    axes.set_ylim(2.5, 256)
    axes.set_xticks(BATCHES, [str(images) for images in BATCHES])
    axes.set_yticks([4, 8, 16, 32, 64, 128], ["4", "8", "16", "32", "64", "128"])
    axes.set_xlabel("pictures drawn together")
    axes.set_ylabel("memory in all, GiB")
    axes.set_title(f"{PIXELS} px with guidance, bfloat16: weights, cache, activations", fontsize=10)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.picture, dpi=100)


def footprints() -> tuple[Footprint, Footprint, Footprint]:
    """M-VAR, VAR, and a VAR with M-VAR's number of parameters."""
    with torch.device("meta"):
        m_var, var = MVAR(MVARConfig.published(DEPTH, PIXELS)), VAR(VARConfig.published(DEPTH, PIXELS))
    found = of_equal_size(var, sum(p.numel() for p in m_var.parameters()))
    assert found is not None
    equal, words = found
    return priced("M-VAR-d30", m_var), priced("VAR-d30", var), priced(f"VAR {words}", equal)


def priced(name: str, model: NextScaleModel) -> Footprint:
    """One model's footprint with VAR's tokenizer and the published sampling."""
    with torch.device("meta"):
        tokenizer = ResidualTokenizer(ResidualConfig(sizes=model.schedule.sizes))
    plan = default_plan(model, **SAMPLING)  # type: ignore[arg-type]
    parts = {"tokenizer": tokenizer, "model": model}
    return footprint(name, plan, parts, torch.device("cpu"), torch.bfloat16)


if __name__ == "__main__":
    main()
