"""The table of docs/backbones.md: what models of different systems draw at one small size, held against one another.

    python tools/backbones.py MODEL MODEL ... --data emoji-64 --images 500 --out pictures

A MODEL is a bundled one or a checkpoint folder that draws classes. A model that is free in its scales has a row for
each of ``SHAPES``, one that goes over a scale again for each of ``REFINEMENTS``, any other has one. Image i of every
row has seed i and shows what held-out image i of the same evenly spaced ones shows; a judge sees all of them at the
size of the data, brought to it by area. Every row's first ``SHOWN`` of them, evenly spaced and not picked, become one
picture in the folder. The table is printed as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nextscale import load
from nextscale.checkpoints.load import checkpoint_folder, revision
from nextscale.checkpoints.store import load_component
from nextscale.conditions.classes import class_features
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData
from nextscale.errors import InputError, PlanError
from nextscale.evaluation.compare import GUIDANCE, IMAGES, same_weights
from nextscale.evaluation.footprint import footprint
from nextscale.evaluation.generated import (
    DrawnImages,
    GeneratedReport,
    Originals,
    draw_like,
    judge_drawn,
    label_name,
)
from nextscale.evaluation.speed import Contestant, Speed, generation_speeds
from nextscale.evaluation.subject import Judge, Subject, no_progress, square_resolution
from nextscale.features.classifier import Classifier
from nextscale.files import check_writable
from nextscale.measures.generator import score_generator
from nextscale.measures.recognition import Ratio
from nextscale.measures.tokenizer import encode_all
from nextscale.methods.refine import PAPER, parsed, refined_plan
from nextscale.pictures import factor_for, grid, save_png
from nextscale.plan import Plan
from nextscale.results import to_pil

SHAPES = (((1, 1), (4, 6, 8)), ((3 / 4, 3 / 4), (6,)), ((3 / 2, 1), (6,)), ((2, 2), (10, 12)))
"""Height and width in trained sides, and the numbers of steps."""
REFINEMENTS = ("none", "1,3", PAPER, f"{PAPER};1,2,3,4,6")
"""Passes over 2x2, over 2x2 and 3x3, and over 4x4 as well: 0, 1, 4 and 8 more than scales."""
SHOWN = 12
COLUMNS = ("model", "pixels", "steps", "extra passes", "held-out loss", "class", "style", "near copies", "images/s")
COLUMNS += ("of matmul peak", f"MiB for {IMAGES}")


@dataclass(frozen=True)
class Row:
    """One line of the table. subject: with the settings it draws by; loss: in nats per token, None where tokens are
    others than the first model's; bytes: of drawing ``IMAGES`` pictures together, weights included.
    """

    subject: Subject
    plan: Plan
    loss: float | None
    judged: GeneratedReport
    speed: Speed
    bytes: int

    @property
    def name(self) -> str:
        """Of its picture."""
        steps = f"{len(self.plan.rows)} steps, {self.extra} extra"
        return f"{self.subject.name.replace('/', '-')}, {self.cells[1]}, {steps}"

    @property
    def extra(self) -> int:
        """Passes beside the first over each scale."""
        return sum(len(row.passes) - 1 for row in self.plan.rows if row.passes)

    @property
    def cells(self) -> tuple[str, ...]:
        h, w = self.subject.tokenizer.pixels(self.plan.schedule)
        copies = self.judged.copies
        return (
            self.subject.name,
            f"{h}x{w}",
            str(len(self.plan.rows)),
            str(self.extra),
            "" if self.loss is None else f"{self.loss:.3f}",
            _ratio(self.judged.class_ratio),
            _ratio(self.judged.style_ratio),
            f"{100 * copies.value:.1f} ± {100 * copies.error:.1f} %",
            f"{self.speed.images_per_second:.2f}",
            f"{100 * self.speed.peak_share:.0f} %",
            f"{self.bytes / 2**20:.0f}",
        )


def settings_of(subject: Subject) -> list[dict[str, Any]]:
    """What a subject's rows ask for, beside its own settings."""
    model, side, stride = subject.model, square_resolution(subject.tokenizer), subject.tokenizer.stride
    assert model is not None
    if model.has_passes:
        return [{"refine": refine} for refine in REFINEMENTS if len(parsed(refine)) < len(model.schedule)]
    try:
        model.schedule_of((2 * side // stride, side // stride))
    except PlanError:
        return [{}]
    return [{"size": (round(h * side), round(w * side)), "steps": n} for (h, w), many in SHAPES for n in many]


def measure(
    subjects: Sequence[Subject], judge: Judge, folder: Path, count: int, rounds: int, out: Path
) -> tuple[ImageData, list[Row]]:
    """Draw, judge and race all rows of models of classes; their pictures are written into ``out``."""
    resolution = square_resolution(subjects[0].tokenizer)
    heldout, train = (load_data(folder, resolution, split) for split in ("heldout", "train"))
    asked = [replace(one, defaults={**one.defaults, **more}) for one in subjects for more in settings_of(one)]
    plans = [plan_of(one, **one.defaults) for one in asked]
    raced = [plan_of(one, **{**_shape(one), "guidance_scale": GUIDANCE}) for one in asked]
    losses = heldout_losses(subjects, heldout)
    originals, judged = Originals.of(judge, folder, heldout, train), list[GeneratedReport]()
    speeds = generation_speeds([_contestant(one, plan) for one, plan in zip(asked, raced, strict=True)], rounds)
    rows = list[Row]()
    for one, plan, race, speed in zip(asked, plans, raced, speeds, strict=True):
        drawn = draw_like(one, heldout, count, no_progress)
        judged = judge_drawn(one, drawn, originals, no_progress)[0]
        row = Row(one, plan, losses[one.revision], judged, speed, memory(one, race))
        save_png(sheet(drawn, one, heldout), out / f"{row.name}.png", overwrite=True)
        print(" | ".join(row.cells), flush=True)
        rows.append(row)
    return heldout, rows


def plan_of(subject: Subject, **sampling: Any) -> Plan:
    """How a subject draws with these settings."""
    assert subject.model is not None
    return refined_plan(subject.model, subject.tokenizer.stride, **sampling)


def _shape(subject: Subject) -> dict[str, Any]:
    """Of its settings those that say what is computed."""
    return {name: subject.defaults[name] for name in ("size", "steps", "refine") if name in subject.defaults}


def _contestant(subject: Subject, plan: Plan) -> Contestant:
    assert subject.model is not None
    weight = next(subject.model.parameters())
    labels = torch.arange(IMAGES) % subject.model.reads["class"]
    return Contestant(subject.tokenizer, subject.model, plan, class_features(labels).to(weight.device))


def heldout_losses(subjects: Sequence[Subject], heldout: ImageData) -> dict[str, float | None]:
    """By the subjects' revisions; None where tokens are others than the first one's."""
    first, found = subjects[0].tokenizer, dict[str, float | None]()
    tokens = encode_all(first, heldout)
    for one in subjects:
        assert one.model is not None
        same = one.tokenizer is first or same_weights(one.tokenizer, first)
        scores = score_generator(one.model, one.tokenizer, tokens, one.shown(heldout)) if same else None
        found[one.revision] = None if scores is None else scores.total.loss
    return found


def memory(subject: Subject, plan: Plan) -> int:
    """The most bytes that ``IMAGES`` pictures drawn together need; see ``footprint``."""
    assert subject.model is not None
    weight = next(subject.model.parameters())
    parts = {"tokenizer": subject.tokenizer, "model": subject.model}
    meta = {name: deepcopy(part).to("meta") for name, part in parts.items()}
    return footprint(subject.name, plan, meta, weight.device, weight.dtype).total(IMAGES)


def sheet(drawn: DrawnImages, subject: Subject, heldout: ImageData) -> Any:
    """Some of what was drawn, at its own size, over what was asked for and its seed."""
    assert subject.vocabulary is not None
    count = min(SHOWN, len(drawn.rows))
    seeds = torch.arange(count) * len(drawn.rows) // count
    tiles = to_pil(drawn.images[seeds] / 255)
    names = [label_name(heldout, int(row), bool(subject.vocabulary.styles)) for row in drawn.rows[seeds]]
    labels = [f"{name}, seed {seed}" for name, seed in zip(names, seeds.tolist(), strict=True)]
    return grid(tiles, count, factor_for(tiles[0], 128), labels)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} ± {ratio.error:.2f}"


def read(name: str) -> Subject:
    """A model of classes, by name or folder."""
    pipe = load(name)
    found = Subject(pipe.name, pipe.revision, pipe.tokenizer, pipe.model, pipe.conditioner, pipe.defaults)
    if found.vocabulary is None:
        raise InputError(f"{found.name} reads no classes; expected models of classes, which a classifier can judge")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="an emoji set, or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--images", type=int, default=500, help="drawn and judged in every row")
    parser.add_argument("--rounds", type=int, default=7, help="of the race, in which all rows take turns")
    parser.add_argument("--classifier", default="classifier")
    given = parser.parse_args()
    check_writable(given.out)
    network = load_component(checkpoint_folder(given.classifier), "classifier")
    assert isinstance(network, Classifier)
    judge = Judge(given.classifier, revision(checkpoint_folder(given.classifier)), network)
    subjects = [read(name) for name in given.models]
    heldout, rows = measure(subjects, judge, given.data, given.images, given.rounds, given.out)
    weight = next(subjects[0].tokenizer.parameters())
    models = ", ".join(f"{one.name} (revision {one.revision})" for one in subjects)
    print(
        f"\n{models}; {given.images} images a row, seeds 0 to {given.images - 1}; {given.data}: {len(heldout)} held-out"
        f" images, data {heldout.hash[:12]}; judged by {judge.name}, revision {judge.revision}; "
        f"{str(weight.dtype).removeprefix('torch.')} on {weight.device}, {torch.get_num_threads()} threads\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
