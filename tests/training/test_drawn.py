"""Training on scales that every step draws: the draw itself, latents in place of tokens, the maps of a tokenizer's
step, and a run that goes on as if it had not been stopped.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule
from nextscale.training.objectives.direct import DirectObjective
from nextscale.training.objectives.drawn import DrawnData, ScalesSection
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.order import SampleNoise
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.training.tiny import TINY

PUBLISHED = ScaleSchedule.preset("256")
EMOJI = ScaleSchedule.of([1, 2, 3, 4, 6, 8])


def noise(step: int, batch: int = 1, part: slice = slice(None)) -> SampleNoise:
    return SampleNoise(1, step, batch, part)


def draws(section: ScalesSection, whole: ScaleSchedule, count: int) -> list[ScaleSchedule]:
    return [section.draw(whole, noise(step)) for step in range(count)]


def test_at_the_published_size_schedules_are_those_of_the_authors_code() -> None:
    """Shares that were counted over 200,000 draws of theirs."""
    found = draws(ScalesSection(), PUBLISHED, 2000)
    lengths, last = (Counter(values) for values in (map(len, found), (one.grid[0] for one in found)))
    for seen, wanted in ((lengths, {10: 0.049, 9: 0.476, 8: 0.393, 7: 0.066}), (last, {16: 0.666, 15: 0.137})):
        assert all(seen[value] / 2000 == pytest.approx(share, abs=0.04) for value, share in wanted.items())
    assert sum(one.tokens for one in found) / 2000 == pytest.approx(591, abs=8)
    assert max(one.tokens for one in found) == PUBLISHED.tokens == 680


@pytest.mark.parametrize("whole", [PUBLISHED, EMOJI, ScaleSchedule.of([1, 2, 4]), ScaleSchedule.of([1, 2])])
def test_the_papers_schedules_keep_the_first_and_the_last_scale(whole: ScaleSchedule) -> None:
    found = draws(ScalesSection(keep_last=True), whole, 200)
    assert {(one[0], one.grid) for one in found} == {((1, 1), whole.grid)}
    assert max(one.tokens for one in found) <= whole.tokens


def test_all_parts_of_a_step_draw_the_same_scales() -> None:
    whole = ScalesSection().draw(EMOJI, noise(7, 8))
    assert ScalesSection().draw(EMOJI, noise(7, 8, slice(4, 8))) == whole


def trainer(images: Path, direct: Path, output: Path) -> Trainer:
    return start(
        "flexvar", "flexvar-emoji", images, output, str(direct), [*TINY["flexvar"], "scales.tokens=null"], "cpu"
    )


def test_cached_latents_give_the_tokens_of_the_tokenizer(images: Path, direct: Path, tmp_path: Path) -> None:
    """On the scales of the step, and on the own ones where they are held out; latents are rounded to float16."""
    goal = trainer(images, direct, tmp_path / "run").objective
    assert isinstance(goal, GeneratorObjective)
    assert isinstance(goal.data, DrawnData)
    data, rows, schedules = goal.data, torch.arange(4), set()
    pixels = torch.from_numpy(data.images.read(rows).numpy()).float() / 127.5 - 1
    with torch.no_grad():
        latent = data.tokenizer.latent(pixels).half().float()
    for step in range(12):
        found = data.encoded(rows, torch.zeros(4), noise(step, 4))  # variant 0: copy 0, the images as they are
        wanted = data.tokenizer.encode(latent, found.canvas.schedule)
        assert all(torch.equal(a, b) for a, b in zip(found.tokens, wanted.tokens, strict=True))
        schedules.add(found.canvas.schedule)
    assert len(schedules) > 1
    assert {encoded.canvas.schedule for encoded, _ in data.heldout()} == {data.tokenizer.schedule}


@pytest.mark.parametrize("kind", ["tokenizer-direct", "flexvar"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(kind: str, images: Path, direct: Path, tmp_path: Path) -> None:
    def run(folder: str, steps: int) -> Trainer:
        frozen = str(direct) if kind == "flexvar" else None
        one = start(kind, f"{kind}-emoji", images, tmp_path / folder, frozen, [*TINY[kind], "schedule.steps=4"], "cpu")
        one.run(max_steps=steps)
        return one

    whole = run("whole", 4).objective.module.state_dict()
    run("parts", 2)
    parts = run("parts", 4).objective.module.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_tokenizers_step_decodes_drawn_maps_and_the_latents_own(images: Path, tmp_path: Path) -> None:
    """Each is a picture of its size, and every map adds to the loss."""
    goal = start("tokenizer-direct", "tokenizer-direct-emoji", images, tmp_path, None, TINY["tokenizer-direct"], "cpu")
    objective = goal.objective
    assert isinstance(objective, DirectObjective)
    maps = [objective.drawn(noise(step)) for step in range(20)]
    assert {len(one) for one in maps} == {3}
    assert {one.grid for one in maps} == {(4, 4)}
    assert {size for one in maps for size in one} == {(1, 1), (2, 2), (3, 3), (4, 4)}
    pictures, _, _ = objective.quantized(objective.module, torch.rand(2, 3, 16, 16), noise(3, 2))
    assert [tuple(one.shape[-2:]) for one in pictures] == [(4 * h, 4 * w) for h, w in objective.drawn(noise(3))]


def test_a_tokenizer_of_residuals_is_refused(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a ResidualTokenizer; expected one that encodes any scales on their own"):
        trainer(images, tokenizer, tmp_path / "run")
