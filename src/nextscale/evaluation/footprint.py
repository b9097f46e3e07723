"""Memory of generators against the number of pictures drawn together: weights once, and what every picture adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nextscale.evaluation.columns import aligned
from nextscale.models.base import NextScaleModel
from nextscale.models.class_transformer import ClassTransformer, ClassTransformerConfig
from nextscale.plan import Plan
from nextscale.price import price
from nextscale.rehearse import Rehearsal, rehearse

BATCHES = (1, 2, 4, 8, 16, 32)
MOST = 10_000
"""Pictures up to which two models are compared."""
ALIKE = 0.05
"""Parameters that differ by no larger share count as equal."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one generator. parameters: of the transformer; flops: of one picture; weights: of all parts; cache: what
    one picture remembers of earlier scales; one: the rehearsal of one picture.
    """

    name: str
    parameters: int
    flops: int
    weights: int
    cache: int
    one: Rehearsal

    def total(self, images: int) -> int:
        """The most bytes that drawing ``images`` pictures together needs, weights and decoding included."""
        decoding = self.one.decoding + (images - 1) * self.one.decoding_more
        return self.weights + max(images * self.one.drawing, decoding)

    def to_dict(self, batches: Sequence[int]) -> dict[str, Any]:
        """JSON-able, in bytes."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "flops": self.flops,
            "weights": self.weights,
            "cache": self.cache,
            "activations": self.one.drawing - self.cache,
            "decoding": self.one.decoding,
            "total": {str(images): self.total(images) for images in batches},
        }


def footprint(name: str, plan: Plan, parts: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Footprint:
    """What ``plan`` needs on ``device`` in ``dtype``; ``parts`` are on the meta device, and are cast."""
    for part in parts.values():
        part.to(dtype)
    priced = price(plan, parts, 1, dtype.itemsize)
    parameters = sum(p.numel() for p in parts["model"].parameters())
    one = rehearse(plan, parts, 1, device)
    return Footprint(name, parameters, priced.flops, priced.weights, priced.memory, one)


def fewer_from(a: Footprint, b: Footprint) -> tuple[Footprint, int] | None:
    """Which of two needs less memory for many pictures, and from how many on; None where they need the same."""
    less, more = (a, b) if a.total(MOST) < b.total(MOST) else (b, a)
    if less.total(MOST) == more.total(MOST):
        return None
    return less, 1 + max((n for n in range(1, MOST) if less.total(n) >= more.total(n)), default=0)


def of_equal_size(model: NextScaleModel, parameters: int) -> tuple[NextScaleModel, str] | None:
    """The same kind of network with about as many parameters, on the meta device, and how it differs, in words.

    Depth and width grow together, heads keep their width; the published sizes are of one such family. None where
    none comes nearer, or where a model has no depth and width.
    """
    if not isinstance(model, ClassTransformer) or abs(_count(model) / parameters - 1) <= ALIKE:
        return None
    config = model.config
    guess = round(config.depth * (parameters / _count(model)) ** (1 / 3))
    found = [_scaled(model, depth) for depth in range(max(1, guess - 1), guess + 2)]
    best = min(found, key=lambda other: abs(_count(other) - parameters))
    if best.config.depth == config.depth:
        return None
    return best, f"of depth {best.config.depth} and width {best.config.width}"


def _scaled(model: ClassTransformer, depth: int) -> ClassTransformer:
    """The same network at another depth, its width in proportion."""
    config: ClassTransformerConfig = model.config
    head = config.width // config.heads
    heads = max(1, round(config.heads * depth / config.depth))
    with torch.device("meta"):
        return type(model)(replace(config, depth=depth, width=head * heads, heads=heads))


def _count(model: NextScaleModel) -> int:
    return sum(p.numel() for p in model.parameters())


def footprint_text(footprints: Sequence[Footprint], batches: Sequence[int] = BATCHES) -> str:
    """The footprints as a table for people, and from how many pictures on the first needs less than each other."""

    def row(name: str, values: Sequence[float]) -> tuple[str, ...]:
        return (name, *(f"{value:,.1f}" for value in values))

    def mib(values: Sequence[int]) -> list[float]:
        return [value / 2**20 for value in values]

    rows: list[tuple[str, ...]] = [("MiB", *(f.name for f in footprints))]
    rows.append(row("parameters, million", [f.parameters / 1e6 for f in footprints]))
    rows.append(row("GFLOPs of one picture", [f.flops / 1e9 for f in footprints]))
    rows.append(row("weights", mib([f.weights for f in footprints])))
    rows.append(row("cache of one picture", mib([f.cache for f in footprints])))
    rows.append(row("activations of one picture", mib([f.one.drawing - f.cache for f in footprints])))
    rows.append(row("decoding of one picture", mib([f.one.decoding for f in footprints])))
    for images in batches:
        name = f"in all, {images} picture{'s' if images > 1 else ''}"
        rows.append(row(name, mib([f.total(images) for f in footprints])))
    return "\n".join([aligned(rows), "", *(_verdict(footprints[0], other) for other in footprints[1:])])


def _verdict(a: Footprint, b: Footprint) -> str:
    found = fewer_from(a, b)
    if found is None:
        return f"{a.name} and {b.name} need the same memory"
    less, start = found
    more = b if less is a else a
    when = "for any number of pictures" if start == 1 else f"from {start} pictures on"
    return f"{less.name} needs less memory than {more.name} {when}"
