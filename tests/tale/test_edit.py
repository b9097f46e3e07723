"""A text model of several ratios paints in pictures, by a canvas of any kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale import systems
from nextscale.pipeline import Pipeline
from tests.tale.test_ratios import new_pipe, picture
from tests.tale.test_tale import LINE


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, LINE))


@pytest.fixture(params=["direct", "residual"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return new_pipe(request.param)


def sized(pipe: Pipeline, h: int, w: int) -> Image.Image:
    """A picture of so many tokens."""
    return picture(w * pipe.tokenizer.stride, h * pipe.tokenizer.stride)


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("grid", [(4, 6), (4, 4), (6, 4)])
def test_a_picture_of_one_of_its_sizes_is_seen_whole(pipe: Pipeline, grid: tuple[int, int], tmp_path: Path) -> None:
    image = sized(pipe, *grid)
    box = (0, 0, image.width // 2, image.height)
    result = pipe.edit(image, prompt="ab", negative_prompt="d", box=box, blank=False, seed=1)
    assert result.plan.schedule.grid == grid
    assert not same(result[0], image)
    half, given = grid[1] // 2, pipe.encode(image, result.plan.schedule)[-1]
    assert torch.equal(result.tokens[-1][:, :, half:], given[:, :, half:])
    (saved,) = result.save(tmp_path / "edited.png")
    assert same(pipe.repeat(saved, image)[0], result[0])


@pytest.mark.filterwarnings("ignore:the mask is empty")
def test_the_laws_hold_in_every_shape(pipe: Pipeline) -> None:
    image = sized(pipe, 4, 6)
    nothing = np.zeros((image.height, image.width))
    kept = pipe.edit(image, prompt="ab", mask_image=nothing, paste=False, seed=1)
    assert same(kept[0], pipe.reconstruct(image)[-1])
    drawn = pipe.edit(image, prompt="ab", mask_image=nothing + 1, seed=1)
    assert same(drawn[0], pipe(prompt="ab", ratio="3:2", seed=1)[0])


def test_the_shape_is_that_of_what_is_masked_unless_one_is_asked_for(pipe: Pipeline) -> None:
    image = sized(pipe, 20, 20)
    tall = (5, 5, image.width // 10, image.height // 5)
    assert pipe.edit(image, prompt="ab", box=tall, seed=1).plan.schedule.grid == (6, 4)
    assert pipe.edit(image, prompt="ab", box=tall, seed=1, ratio="1:1").plan.schedule.grid == (4, 4)
    large = pipe.edit(image, prompt="ab", box=tall, seed=1, pixels=54 * pipe.tokenizer.stride**2)
    assert large.plan.schedule.grid == (9, 6)
    assert large[0].size == image.size


def test_nothing_in_particular_is_asked_for_without_words(pipe: Pipeline) -> None:
    image = sized(pipe, 4, 4)
    assert pipe.edit(image, box=(0, 0, 8, 8), seed=1).recipe["entries"] == [{}]
