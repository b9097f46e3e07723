"""A contest as pictures: quality against time and against what is remembered; and pictures beside the plain model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image

from nextscale.evaluation.contest import Contest, Sheet, Standing
from nextscale.evaluation.curves import as_image, check_curves
from nextscale.pictures import factor_for, grid
from nextscale.results import to_pil

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN, PER_ROW = 16, 8
"""Pictures of a sheet, and how many stand beside each other."""
MARKS = {"plain": "*", "method": "o", "model": "s", "control": "D"}
Value = Callable[[Standing], float]


class Quality(NamedTuple):
    """What a panel has upwards: its title, whose it is, the number and its standard error."""

    title: str
    rows: Sequence[Standing]
    value: Value
    error: Value


def sheet(name: str, pictures: Sheet) -> Image.Image:
    """Pictures of the plain model, and under each what ``name`` drew with the same seed: evenly spread, none picked."""
    count = min(SHOWN, len(pictures.plain))
    rows = torch.arange(count) * len(pictures.plain) // count
    tiles, labels = list[Image.Image](), list[str]()
    for some in rows.split(PER_ROW):
        tiles += to_pil(torch.cat([pictures.plain[some], pictures.drawn[some]]) / 255)
        labels += [f"plain: {pictures.asked[row]}" for row in some.tolist()] + [name] * len(some)
    return grid(tiles, min(PER_ROW, count), factor_for(tiles[0], 128), labels)


def pareto(c: Contest) -> Image.Image:
    """How often the class is named, and held-out loss, against time and live bytes: up and left is better. A grey line
    goes through the rows that no other one beats in both; a dotted one joins the plain model and its controls.

    Raises ``InputError`` where matplotlib is missing.
    """
    check_curves()
    from matplotlib.figure import Figure

    of_tokens = [row for row in c.rows if row.loss is not None and (row is c.rows[0] or row.more is not None)]
    kinds = [Quality("held-out loss, less is better and up", of_tokens, lambda row: -(row.loss or 0), lambda row: 0)]
    if c.real is not None:
        named = {row.name: row.seen.classes for row in c.rows if row.seen is not None}
        value, error = (lambda row: 100 * named[row.name].value), (lambda row: 100 * named[row.name].error)
        kinds.insert(0, Quality("class named, %", c.rows, value, error))
    costs: tuple[tuple[str, Value], ...] = (
        ("milliseconds per picture, pixels included", lambda row: 1000 * row.cost.seconds),
        (f"live MiB of {c.settings['batch']} pictures, at the most", lambda row: row.cost.most / 2**20),
    )
    figure = Figure(figsize=(11, 4.2 * len(kinds) + 0.9), layout="constrained")
    panels = figure.subplots(len(kinds), 2, squeeze=False)
    for line, quality in zip(panels, kinds, strict=True):
        for panel, (caption, cost) in zip(line, costs, strict=True):
            _draw(panel, c, cost, quality)
            panel.set_xlabel(caption)
            panel.set_ylabel(quality.title)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return as_image(figure)


def _draw(panel: Axes, c: Contest, cost: Value, quality: Quality) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    points = {row.name: (cost(row), quality.value(row)) for row in quality.rows}
    for row in quality.rows:
        look: dict[str, Any] = {"linestyle": "", "markersize": 9, "capsize": 3, "marker": MARKS[row.kind]}
        look["color"] = colormaps["tab20"](c.rows.index(row) % 20)
        panel.errorbar(*points[row.name], quality.error(row) or None, label=row.name, **look)
    panel.plot(*zip(*unbeaten(list(points.values())), strict=True), color="grey", linewidth=1, alpha=0.6, zorder=0)
    plain = sorted(points[row.name] for row in quality.rows if row.kind in ("plain", "control"))
    if len(plain) > 1:
        panel.plot(*zip(*plain, strict=True), color="black", linestyle=":", linewidth=1, zorder=0)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):.4g}"))
    most = max(x for x, _ in points.values())
    panel.set_xlim(-0.04 * most, 1.08 * most)
    panel.grid(alpha=0.3)


def unbeaten(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, quality) those that no other one beats in both, the cheapest first.

    >>> unbeaten([(3, 9), (1, 5), (2, 4), (2, 6)])
    [(1, 5), (2, 6), (3, 9)]
    """
    found = list[tuple[float, float]]()
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or quality > found[-1][1]:
            found.append((cost, quality))
    return found
