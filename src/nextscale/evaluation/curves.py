"""Curves as pictures, drawn by matplotlib (extra ``train``) without a screen.

Matplotlib is imported only where something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nextscale.errors import InputError, missing
from nextscale.evaluation.runs import HELD_OUT, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("loss", "loss"),
    ("loss of a tokenizer", "loss of a tokenizer"),
    ("accuracy", "accuracy"),
    ("psnr", "PSNR, dB"),
    ("perplexity", "perplexity of the codebook"),
    ("perplexity_0", "perplexity of the coarsest scale"),
    ("bit_entropy", "entropy of a bit, in bits"),
    ("bit_entropy_0", "the same at the coarsest scale"),
    ("lr", "learning rate"),
)
"""What is drawn of a log: the number's name, and what its panel is called."""
DOTS_PER_INCH = 120
MANY = 60
"""Held-out points from which on they are no longer marked one by one."""


def check_curves() -> None:
    """Raises ``InputError`` where matplotlib is not installed; call before work is done for a picture."""
    if find_spec("matplotlib") is None:
        raise InputError(missing("matplotlib", "a picture of curves"))


def curves(runs: Sequence[Run]) -> Image.Image:
    """The curves of all runs in one picture, a panel for each number that any of them logged.

    One colour per run; training is drawn thin and pale, held-out numbers strong. Raises ``InputError`` where
    matplotlib is missing, or nothing that has a panel was logged.
    """
    check_curves()
    from matplotlib.figure import Figure

    kinds = ("train", HELD_OUT)
    shown = [panel for panel in PANELS if any(_curve(run, kind, panel[0]) for run in runs for kind in kinds)]
    if not shown:
        expected = ", ".join(name for name, _ in PANELS if " " not in name)
        raise InputError(f"the logs hold nothing to draw; expected one of {expected}")
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (name, title) in zip(panels, shown, strict=False):
        for i, run in enumerate(runs):
            _draw_run(panel, run, name, f"C{i % 10}")
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    for panel in panels[len(shown) :]:
        panel.axis("off")
    _legend(figure, runs)
    return as_image(figure)


def distribution_curves(titles: Sequence[str], values: Sequence[np.ndarray], mark: float, caption: str) -> Image.Image:
    """The share of each title's ``values`` (N,) that lie at or below every distance; ``mark``: a distance to point at.

    Raises ``InputError`` where matplotlib is missing.
    """
    check_curves()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for title, distances in zip(titles, values, strict=True):
        x = np.sort(distances)
        panel.step(x, np.arange(1, len(x) + 1) / len(x), where="post", label=title)
    panel.axvline(mark, color="black", linestyle=":", linewidth=1, label="near copies lie left of this")
    panel.set_xlabel(caption)
    panel.set_ylabel("share of the images at most this far")
    panel.set_ylim(0, 1.02)
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right")
    return as_image(figure)


def _curve(run: Run, kind: str, name: str) -> list[tuple[int, float]]:
    """Of a panel. A tokenizer's loss is on another scale than a generator's, so that it has a panel of its own."""
    logged = name.removesuffix(" of a tokenizer")
    of_tokenizer = bool(run.curve("train", "l2"))
    return [] if logged == "loss" and of_tokenizer == (name == "loss") else run.curve(kind, logged)


def _draw_run(panel: Axes, run: Run, name: str, colour: str) -> None:
    training, held_out = _curve(run, "train", name), _curve(run, HELD_OUT, name)
    if training:
        panel.plot(*zip(*training, strict=True), color=colour, linewidth=0.8, alpha=0.6 if held_out else 1.0)
    if held_out:
        marker = "o" if len(held_out) < MANY else ""
        panel.plot(*zip(*held_out, strict=True), color=colour, linewidth=2, marker=marker, markersize=4)


def _legend(figure: Figure, runs: Sequence[Run]) -> None:
    """Below the panels: the colour of every run, and what strong and pale lines mean."""
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=f"C{i % 10}", linewidth=2, label=run.name) for i, run in enumerate(runs)]
    entries.append(Line2D([], [], color="grey", linewidth=0.8, alpha=0.6, label="training"))
    entries.append(Line2D([], [], color="grey", linewidth=2, marker="o", markersize=4, label="held-out"))
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 4))


def as_image(figure: Figure) -> Image.Image:
    """What was drawn on a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
