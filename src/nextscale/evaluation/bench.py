"""What draws for the bars, and what judges what was drawn; and pictures of it, for the eye.

Whatever makes pictures of prompts may be judged: a model, or real drawings that show what the bars say of them. Shape
letters: ``S`` seeds, ``P`` prompts, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.evaluation.drawings import Drawings, Kin
from nextscale.evaluation.found import Copies, Found, Galleries, Retrieval, brought
from nextscale.evaluation.generated import draw_shown
from nextscale.evaluation.prompts import Prompts
from nextscale.evaluation.subject import Judge, Progress, Subject
from nextscale.measures.distances import features_of
from nextscale.measures.retrieval import Share
from nextscale.measures.tokenizer import BATCH, Step, encode_all, reconstructed, signed_batches
from nextscale.methods.refine import refined_plan
from nextscale.pictures import factor_for, grid
from nextscale.plan import Plan
from nextscale.results import to_pil
from nextscale.tokenizers.base import Tokenizer

SEEDS = 4
"""Seeds of every prompt."""
DRAWN, KEPT, REAL = "drawn", "reconstruction of the drawing", "the drawing itself"
KIN: Mapping[Kin, str] = {
    "style": "the same emoji in another style",
    "family": "another emoji of the family",
    "class": "another emoji of the class",
}
NO_STYLE, NO_TEXT = "without the style word", "empty prompt"
SHOWN, PER_ROW = 24, 2
"""Samples of a sheet, and in a row of it."""

Draw = Callable[[Prompts, Step], Tensor]
"""Pictures of prompts, uint8 (S P, 3, H, W): all with one seed after the other."""


@dataclass(frozen=True)
class Drawn:
    """Pictures of prompts, uint8 (S P, 3, H, W), and their features (S, P, D)."""

    prompts: Prompts
    pictures: Tensor
    features: Tensor


@dataclass(frozen=True)
class Sheet:
    """Some pictures, evenly spread over the prompts, each with its own drawing and the nearest one of its gallery
    beside it: pictures, own, nearest (N, 3, H, W) uint8, over the emoji that was asked for, the style and the place of
    the own drawing among the nearest ones, and the name of the nearest one.
    """

    pictures: Tensor
    own: Tensor
    nearest: Tensor
    labels: tuple[tuple[str, str, str], ...]

    def picture(self) -> Image.Image:
        """All of it on one page."""
        tiles = to_pil(torch.stack([self.pictures, self.own, self.nearest], 1).flatten(0, 1) / 255)
        labels = [label for three in self.labels for label in three]
        return grid(tiles, 3 * PER_ROW, factor_for(tiles[0]), labels)


@dataclass(frozen=True)
class Bench:
    """draw: see ``Draw``; tokenizer: whose reconstructions are what can be reached; judge: whose features tell."""

    draw: Draw
    tokenizer: Tokenizer
    judge: Judge
    galleries: Galleries
    show: Progress

    @classmethod
    def of(cls, draw: Draw, tokenizer: Tokenizer, judge: Judge, drawings: Drawings, show: Progress) -> Bench:
        """With the features of all drawings."""

        def batches(step: Step) -> Iterator[Tensor]:
            for rows in torch.arange(len(drawings)).split(BATCH):
                yield from signed_batches(drawings.pixels(rows), _device(judge))
                step(int(rows[-1]) + 1, len(drawings))

        with show("features of the drawings", "images") as step:
            features = _features(judge, batches(step))
        return cls(draw, tokenizer, judge, Galleries(drawings, features), show)

    @property
    def drawings(self) -> Drawings:
        return self.galleries.drawings

    @property
    def knows_styles(self) -> bool:
        """Whether the classifier knows the styles of the set."""
        return set(self.drawings.styles) <= set(self.judge.network.config.styles)

    def drawn(self, prompts: Prompts, title: str) -> Drawn:
        """Pictures of prompts, each with ``SEEDS`` seeds."""
        with self.show(f"drawing {title}", "images") as step:
            pictures = self.draw(prompts, step)
        features = _features(self.judge, signed_batches(pictures, _device(self.judge)))
        return Drawn(prompts, pictures, features.view(SEEDS, len(prompts), -1))

    def kept(self, rows: Sequence[int]) -> Tensor:
        """Features (1, P, D) of what the tokenizer keeps of drawings."""
        tokens = encode_all(self.tokenizer, self.drawings.pixels(torch.tensor(rows)))
        return _features(self.judge, reconstructed(self.tokenizer, tokens))[None]

    def retrieval(self, name: str, drawn: Drawn, others: Mapping[str, Tensor], copies: Copies | None) -> Retrieval:
        """What pictures are taken for, beside reconstructions and other real drawings.

        others: features (S, P, D) of further pictures, by what they are; copies: what tells near copies.
        """
        rows = drawn.prompts.rows
        pictures = {DRAWN: drawn.features, KEPT: self.kept(rows), REAL: self.galleries.features[list(rows)][None]}
        found = {who: self.found(features, rows, copies) for who, features in pictures.items()}
        for kind, who in KIN.items():
            features, some = self.galleries.controls(kind, rows, SEEDS)
            found |= {who: self.found(features, some, copies)} if some else {}
        found |= {who: self.found(features, rows, copies) for who, features in others.items()}
        near = None if copies is None else copies.near(drawn.features.flatten(0, 1))
        return Retrieval(
            name,
            len(rows),
            found,
            None if near is None else Share.of(near.copies.view(SEEDS, -1)),
            None if near is None else near.threshold / self.galleries.unit,
        )

    def found(self, features: Tensor, rows: Sequence[int], copies: Copies | None = None) -> Found:
        """What pictures (S, P, D) are taken for; rows: the right drawings."""
        found = self.galleries.found(features, rows, copies)
        styles = [self.drawings.records[row]["style"] for row in rows]
        return replace(found, style=self.named(features, styles))

    def named(self, features: Tensor, styles: Sequence[str]) -> Share | None:
        """How often the classifier names the styles (P) of pictures (S, P, D); None where it does not know the styles
        of the set.
        """
        network = self.judge.network
        known = network.config.styles
        if not self.knows_styles:
            return None
        with torch.no_grad():
            logits = network.named(features.flatten(0, 1).to(_device(self.judge))).styles
        said = logits.argmax(-1).cpu().view(features.shape[:2])
        return Share.of(said == torch.tensor([known.index(style) for style in styles]))

    def sheet(self, drawn: Drawn) -> Sheet:
        """Pictures of some of the prompts, none picked: each with one seed."""
        prompts = drawn.prompts
        count = min(SHOWN, len(prompts))
        asked = torch.arange(count) * len(prompts) // count
        some = torch.arange(count) % SEEDS * len(prompts) + asked
        rows = [prompts.rows[i] for i in asked.tolist()]
        at, nearest = self.galleries.nearest(drawn.features.flatten(0, 1)[some], rows)
        records = self.drawings.records
        labels = [
            (records[row]["name"], f"{records[row]['style']}, place {place + 1}", records[near]["name"])
            for row, place, near in zip(rows, at.tolist(), nearest.tolist(), strict=True)
        ]
        own = self.drawings.pixels(torch.tensor(rows))
        return Sheet(drawn.pictures[some], own, self.drawings.pixels(nearest), tuple(labels))


def drawn_by(subject: Subject) -> tuple[Draw, Plan]:
    """What a model draws that reads texts, by the plan of the sampling settings that were saved with it; picture i has
    seed i.
    """
    assert subject.model is not None
    assert subject.conditioner is not None
    plan = refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    reader = subject.conditioner

    def draw(prompts: Prompts, step: Step) -> Tensor:
        def shown(rows: Tensor) -> Features:
            texts = [prompts.texts[row % len(prompts)] for row in rows.tolist()]
            return reader.features(reader.resolve(prompt=texts, negative_prompt=prompts.negative))

        return draw_shown(subject, plan, shown, SEEDS * len(prompts), step)

    return draw, plan


def _features(judge: Judge, batches: Iterator[Tensor]) -> Tensor:
    """Features (N, D) of images (B, 3, H, W) in [-1, 1], brought to the size they are judged at."""
    return features_of(judge.network, map(brought, batches))


def _device(judge: Judge) -> torch.device:
    return next(judge.network.parameters()).device
