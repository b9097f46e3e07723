"""How well a model paints in pictures: what it leaves as it was, what is seen in the whole, whether the border shows.

Shape letters: ``N`` drawings, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.call import GIVEN
from nextscale.conditions.base import Features
from nextscale.data.emoji_reader import families_of
from nextscale.data.images import ImageData
from nextscale.edit import kept_of, window_of
from nextscale.errors import InputError
from nextscale.evaluation.generated import balanced_rows
from nextscale.evaluation.subject import Judge, Progress, Sample, Subject, class_ids
from nextscale.generate import generate
from nextscale.measures.distances import named_by
from nextscale.measures.painting import Mean, psnr_outside, steps
from nextscale.measures.tokenizer import BATCH, Step, reconstructed, signed_batches, silent
from nextscale.methods.paint import paint
from nextscale.methods.refine import refined_plan
from nextscale.pictures import factor_for, grid
from nextscale.region import Region, region_of
from nextscale.results import decode, to_pil
from nextscale.sampling import IndependentNoise

PAINTED, SHOWN, PER_ROW = 200, 24, 3
"""Drawings that are painted in; of these, drawings in a picture, and in a row of it."""
PSNR_BAR = 0.5
"""How many dB outside the mask painting may cost, against the reconstruction."""
GREY = 127
DRAWING, RECONSTRUCTION, PAINTED_IN, UNPASTED = "drawing", "reconstruction", "painted", "painted, without paste"
CONTROLS = {
    "white box": lambda region, pixels: 255,
    "box of the mean colour": lambda region, pixels: pixels.mean((0, 1)).round(),
    "box filled smoothly": lambda region, pixels: region.cut((0, 0, *region.size), region.size, True)[0],
}
"""What stands in the box instead of what was painted; the last is what the model sees of it."""
BEATEN = tuple(CONTROLS)[:2]
"""Controls that must be beaten."""
Hits = Callable[[Tensor], Tensor]
"""Of pictures (N, 3, H, W), one of each drawing: whether its class is recognised, (N,) bool."""


@dataclass(frozen=True)
class BoxesReport:
    """What is measured for one sort of boxes; numbers by what is in the pictures.

    masked: share of the pixels; outside: PSNR in dB over the other pixels, of what is drawn without paste and of the
    reconstruction, and the difference; recognised: how often the classifier names the class; above: how much more often
    in painted drawings (with paste) than in each control, paired; seams: steps from pixel to pixel across the border by
    those inside. Nothing is recognised where no classifier can judge.
    """

    name: str
    masked: float
    outside: Mean
    outside_reconstruction: Mean
    outside_difference: Mean
    recognised: dict[str, Mean]
    above: dict[str, Mean]
    seams: dict[str, Mean]


@dataclass(frozen=True)
class PaintingReport:
    """What :func:`judge_painting` measures. Drawing i is painted in with seed i and the ``sampling`` settings.

    unjudged: why no class is recognised, where none is.
    """

    source: Sample
    sampling: dict[str, Any]
    boxes: tuple[BoxesReport, ...]
    unjudged: str

    def bars(self) -> list[tuple[str, float, float]]:
        """Names, values and what these should at least be: controls are beaten by two standard errors."""
        found = []
        for one in self.boxes:
            found.append((f"{one.name}: PSNR outside, difference, dB", one.outside_difference.value, -PSNR_BAR))
            for name in BEATEN if one.above else ():
                above = one.above[name]
                found.append((f"{one.name}: class recognised, above a {name}", above.value, 2 * above.error))
        return found


@dataclass(frozen=True)
class PaintedPictures:
    """What pictures are made of: for every sort of boxes, drawings, the same masked, and painted in both ways, each
    uint8 (N, 3, H, W); asked: what each was asked for.
    """

    boxes: dict[str, tuple[Tensor, ...]]
    asked: tuple[str, ...]

    def sheets(self) -> dict[str, Image.Image]:
        """A picture for every sort of boxes: drawings evenly spread over all, none picked."""
        count = min(SHOWN, len(self.asked))
        rows = torch.arange(count) * len(self.asked) // count
        labels = [text for row in rows.tolist() for text in (self.asked[row], "masked", "painted", "without paste")]
        sheets = {}
        for name, columns in self.boxes.items():
            tiles = to_pil(torch.stack([column[rows] for column in columns], 1).flatten(0, 1) / 255)
            columns_in_all = PER_ROW * len(columns)
            sheets[f"painting, {name}"] = grid(tiles, columns_in_all, factor_for(tiles[0], 128), labels)
        return sheets


def judge_painting(
    subject: Subject,
    judge: Judge | None,
    folder: Path | str,
    data: ImageData,
    tokens: Sequence[Tensor],
    shown: Callable[[Tensor], Features],
    show: Progress,
) -> tuple[PaintingReport, PaintedPictures]:
    """Paint a box of ``PAINTED`` drawings of ``data`` anew, as what they are, and hold them against what they were.

    tokens: of all of ``data``, one map per scale; shown: see ``Subject.shown``.
    """
    rows = balanced_rows(data.labels * max(1, len(data.styles)) + data.style_labels, min(PAINTED, len(data)))
    drawings, all_families = data.read(rows), families_of(folder, data)
    families = [all_families[row] for row in rows.tolist()]
    hits, unjudged = _hits(judge, data, rows)
    again = torch.cat(
        [_bytes((one + 1) / 2) for one in reconstructed(subject.tokenizer, [maps[rows] for maps in tokens])]
    )
    reports, pictures = list[BoxesReport](), dict[str, tuple[Tensor, ...]]()
    for name, boxes in boxes_of(data.resolution, len(rows)).items():
        regions = [_region(drawing, box) for drawing, box in zip(drawings, boxes, strict=True)]
        with show(f"painting, {name}", "images") as step:
            pasted, unpasted = paint_in(subject, regions, lambda at: shown(rows[at]), step)
        masks = torch.from_numpy(np.stack([region.mask for region in regions]))
        found = {DRAWING: drawings, RECONSTRUCTION: again, PAINTED_IN: pasted, UNPASTED: unpasted}
        reports.append(_measured(name, found, masks, regions, families, hits))
        masked = torch.where(masks[:, None], torch.tensor(GREY, dtype=torch.uint8), drawings)
        pictures[name] = (drawings, masked, pasted, unpasted)
    asked = tuple(data.classes[int(data.labels[row])] for row in rows.tolist())
    report = PaintingReport(Sample.of(data, len(rows)), dict(subject.defaults), tuple(reports), unjudged)
    return report, PaintedPictures(pictures, asked)


def boxes_of(side: int, count: int) -> dict[str, list[list[int]]]:
    """Sorts of boxes, x, y, width and height in pixels, ``count`` of each in pictures of ``side``: in the centre, half
    as wide and high as the picture; and anywhere in it, width and height from a quarter to three quarters, all sizes
    and then all places alike, the same ones every time.
    """
    noise = torch.Generator().manual_seed(0)
    sizes = torch.randint(-(-side // 4), side * 3 // 4 + 1, (count, 2), generator=noise)
    corners = (torch.rand(count, 2, generator=noise, dtype=torch.float64) * (side - sizes + 1)).long()
    return {
        "centre box": [[side // 4, side // 4, side // 2, side // 2]] * count,
        "random boxes": torch.cat([corners, sizes], 1).tolist(),
    }


def paint_in(
    subject: Subject, regions: Sequence[Region], shown: Callable[[Tensor], Features], step: Step = silent
) -> tuple[Tensor, Tensor]:
    """Pictures that are painted in, with and without paste, uint8 (N, 3, H, W): picture i has seed i, and what is
    masked is hidden from the model, as ``pipe.edit`` has it by default. shown: what pictures (B,) are to show.
    """
    assert subject.model is not None
    plan = refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    parts = {"tokenizer": subject.tokenizer, "model": subject.model}
    device = next(subject.model.parameters()).device
    painted: dict[bool, list[Tensor]] = {True: [], False: []}
    for start in range(0, len(regions), BATCH):
        batch = regions[start : start + BATCH]
        at = torch.arange(start, start + len(batch))
        kept = {GIVEN: kept_of(subject.tokenizer, batch, plan.schedule)}
        *_, last = generate(paint(plan, GIVEN), parts | kept, shown(at).to(device), IndependentNoise(at.tolist()))
        windows = [window_of(subject.tokenizer, region, plan.schedule) for region in batch]
        new = list(zip(batch, windows, to_pil(decode(subject.tokenizer, last.canvas)), strict=True))
        for paste, whole in painted.items():
            whole += [_pixels(region.put_back(one, window, paste)) for region, window, one in new]
        step(start + len(batch), len(regions))
    return torch.stack(painted[True]), torch.stack(painted[False])


def _hits(judge: Judge | None, data: ImageData, rows: Tensor) -> tuple[Hits | None, str]:
    """What tells of pictures of these rows whether their class is recognised; None, and why, where nothing can."""
    if judge is None:
        return None, "no classifier is at hand"
    try:
        known = class_ids(data.classes, judge.network.config.names, "the classifier")[data.labels[rows]]
    except InputError as error:
        return None, str(error)
    network = judge.network
    device = next(network.parameters()).device
    return lambda pictures: named_by(network, signed_batches(pictures, device)).classes == known, ""


def _measured(
    name: str,
    found: dict[str, Tensor],
    masks: Tensor,
    regions: Sequence[Region],
    families: Sequence[str],
    hits: Hits | None,
) -> BoxesReport:
    drawings = found[DRAWING]
    outside = {one: psnr_outside(found[one], drawings, masks) for one in (UNPASTED, RECONSTRUCTION)}
    recognised, above = {}, {}
    if hits is not None:
        filled = {control: torch.stack([_filled(region, control) for region in regions]) for control in CONTROLS}
        hit = {one: hits(pictures).double() for one, pictures in (found | filled).items()}
        recognised = {one: Mean.of(values, families) for one, values in hit.items()}
        above = {control: Mean.of(hit[PAINTED_IN] - hit[control], families) for control in CONTROLS}
    return BoxesReport(
        name=name,
        masked=float(masks.double().mean()),
        outside=Mean.of(outside[UNPASTED], families),
        outside_reconstruction=Mean.of(outside[RECONSTRUCTION], families),
        outside_difference=Mean.of(outside[UNPASTED] - outside[RECONSTRUCTION], families),
        recognised=recognised,
        above=above,
        seams={one: Mean.ratio(*steps(pictures, masks), families) for one, pictures in found.items()},
    )


def _region(drawing: Tensor, box: Sequence[int]) -> Region:
    return region_of(drawing.permute(1, 2, 0).numpy(), box=box)


def _filled(region: Region, control: str) -> Tensor:
    """A picture (3, H, W) uint8 with something else in its box."""
    pixels = np.array(region.picture)
    other = np.broadcast_to(np.asarray(CONTROLS[control](region, pixels)), pixels.shape)
    return _pixels(np.where(region.mask[..., None], other, pixels).astype(np.uint8))


def _pixels(picture: Image.Image | np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as a PNG would hold them, uint8 on the CPU."""
    return (images * 255).round().clamp(0, 255).byte().cpu()
