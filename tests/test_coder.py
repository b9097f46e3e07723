"""Pictures to tokens and back: exact, one by one or several, and what is neither is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.errors import InputError
from nextscale.pipeline import Pipeline
from tests.makers import CODES, tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def picture(colour: str = "blue") -> Image.Image:
    image = Image.new("RGB", (40, 30), "red")
    image.paste(colour, (3, 3, 25, 20))
    return image


def test_decoding_tokens_gives_what_reconstruct_ends_with(pipe: Pipeline) -> None:
    tokens, steps = pipe.encode(picture()), pipe.reconstruct(picture())
    assert [(tuple(t.shape), t.dtype) for t in tokens] == [((1, k, k), torch.int64) for k in (1, 2, 3, 4)]
    for k in range(4):
        assert pipe.decode(tokens[: k + 1])[0].tobytes() == steps[k].tobytes()


@pytest.mark.parametrize("schedule", [5, "3:2", [1, 2]])
def test_what_is_no_schedule_is_refused(pipe: Pipeline, schedule: Any) -> None:
    with pytest.raises(InputError, match=r"schedule is .*; expected that of a plan, as in pipe.plan\(\).schedule"):
        pipe.encode(picture(), schedule)


def test_a_picture_has_the_same_tokens_and_pixels_in_any_company(pipe: Pipeline) -> None:
    several = pipe.encode([picture("green"), picture(), picture("white")])
    alone = pipe.encode(picture())
    assert all(torch.equal(a[1:2], b) for a, b in zip(several, alone, strict=True))
    assert pipe.decode(several)[1].tobytes() == pipe.decode(alone)[0].tobytes()


def test_pictures_may_be_files_and_arrays(pipe: Pipeline, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    wanted = pipe.encode(picture())
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(picture())):
        assert all(torch.equal(a, b) for a, b in zip(pipe.encode(given), wanted, strict=True))


def test_tokens_of_a_drawn_picture_draw_it(pipe: Pipeline) -> None:
    result = pipe(["face", "food"], seed=1)
    assert [image.tobytes() for image in pipe.decode(result.tokens)] == [image.tobytes() for image in result]


def test_tokens_may_be_changed_in_place(pipe: Pipeline) -> None:
    tokens = pipe.encode(picture())
    tokens[0][0, 0, 0] = (tokens[0][0, 0, 0] + 1) % CODES
    assert pipe.decode(tokens)[0].tobytes() != pipe.reconstruct(picture())[-1].tobytes()


def test_tokens_may_be_arrays_lists_and_of_one_picture(pipe: Pipeline) -> None:
    tokens = pipe.encode(picture())
    wanted = pipe.decode(tokens)[0].tobytes()
    for given in ([t[0] for t in tokens], [t.numpy() for t in tokens], [t.tolist() for t in tokens], tuple(tokens)):
        assert pipe.decode(given)[0].tobytes() == wanted
    assert pipe.decode(tokens, "np").shape == (1, 16, 16, 3)
    assert tuple(pipe.decode(tokens, "latent").shape) == (1, 8, 4, 4)


MAPS = [torch.zeros(1, k, k, dtype=torch.long) for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (3, "tokens are 3, and there are 4 scales"),
        ([], r"tokens are \[\]"),
        (MAPS[0], "tokens are tensor"),
        ([*MAPS, MAPS[-1]], "tokens are 5 maps, and there are 4 scales"),
        (MAPS[::-1], r"scale 0 have the shape \(1, 4, 4\); expected \(B, 1, 1\)"),
        ([t.float() for t in MAPS], "scale 0 are of the type torch.float32"),
        ([t.bool() for t in MAPS], "scale 0 are of the type torch.bool"),
        ([MAPS[0], MAPS[1] + CODES], f"scale 1 go from {CODES} to {CODES}; expected 0 to {CODES - 1}"),
        ([MAPS[0] - 1], "scale 0 go from -1 to -1"),
        (["a"], "scale 0 are 'a'"),
        ([t.to_sparse() for t in MAPS], "scale 0 are tensor"),
        ([t.to("meta") for t in MAPS], "scale 0 are tensor"),
        ([[[1], [2, 3]]], r"scale 0 are \[\[1\], \[2, 3\]\]"),
        ([MAPS[0], MAPS[1].repeat(2, 1, 1)], "the maps hold 1, 2 pictures"),
        ([MAPS[0][:0]], r"scale 0 have the shape \(0, 1, 1\)"),
        ({"scale_0": MAPS[0]}, "tokens are {'scale_0'"),
    ],
)
def test_what_is_no_tokens_is_refused(pipe: Pipeline, tokens: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        pipe.decode(tokens)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "a picture is 3; expected a PIL image"),
        ([], "there is no picture in the list|a picture is"),
        (np.zeros((4, 4, 3)), r"an array \(4, 4, 3\) of float64"),
        (np.zeros((4, 4), np.uint8), r"an array \(4, 4\) of uint8"),
        (torch.zeros(3, 4, 4), r"an array \(3, 4, 4\) of torch.float32"),
        (Image.new("RGB", (0, 3)), "0x3 pixels"),
        ("no-such.png", "there is no file no-such.png"),
    ],
)
def test_what_is_no_picture_is_refused(pipe: Pipeline, given: Any, sentence: str) -> None:
    for call in (pipe.encode, pipe.reconstruct):
        with pytest.raises(InputError, match=sentence):
            call(given)
