"""Editing through a pipeline: its laws for every class model, what it keeps, and how it is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.errors import InputError, NextscaleError, PlanError
from nextscale.given import GivenTokens
from nextscale.methods.paint import RULES, edit_mask, keep_masks, paint
from nextscale.pipeline import Pipeline
from nextscale.recipe import Recipe
from tests.makers import CLASS_MODELS, tiny_pipeline, tiny_pipeline_of_styles


def picture(width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


NOTHING, EVERYTHING = np.zeros((16, 16), dtype=bool), np.ones((16, 16), dtype=bool)


@pytest.fixture(params=CLASS_MODELS)
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline(CLASS_MODELS[request.param](), guidance_scale=2.0)


@pytest.fixture(scope="module")
def one() -> Pipeline:
    return tiny_pipeline(guidance_scale=2.0)


@pytest.mark.filterwarnings("ignore:the mask is empty")
@pytest.mark.parametrize("rule", RULES)
def test_all_kept_is_the_reconstruction(pipe: Pipeline, rule: str) -> None:
    result = pipe.edit(picture(), "face", mask_image=NOTHING, rule=rule, paste=False, seed=1)
    assert np.array_equal(pixels(result[0]), pixels(pipe.reconstruct(picture())[-1]))
    if rule != "canvases":
        assert all(map(torch.equal, result.tokens, pipe.encode(picture())))
    pasted = pipe.edit(picture(), "face", mask_image=NOTHING, rule=rule, seed=1)
    assert np.array_equal(pixels(pasted[0]), pixels(picture()))


@pytest.mark.parametrize("rule", ["cover", "canvases"])
def test_nothing_kept_is_a_plain_generation(pipe: Pipeline, rule: str) -> None:
    result = pipe.edit(picture(), ["face", "tool"], mask_image=EVERYTHING, rule=rule, seed=4)
    plain = pipe(["face", "tool"], seed=4)
    assert [pixels(a).tobytes() for a in result] == [pixels(b).tobytes() for b in plain]


def test_without_anything_asked_for_no_class_is_drawn(pipe: Pipeline) -> None:
    result, plain = pipe.edit(picture(), box=(0, 0, 16, 16), seed=4), pipe([None], seed=4, guidance_scale=1)
    assert np.array_equal(pixels(result[0]), pixels(plain[0]))
    assert result.plan.branches == ((),)


def test_the_official_rule_is_the_official_procedure(one: Pipeline) -> None:
    asked: dict[str, Any] = {"seed": 2, "guidance_scale": 4.0, "top_k": 9, "smooth": True}
    result = one.edit(picture(), [None], box=(4, 4, 8, 8), rule="official", paste=False, **asked)
    mask = edit_mask((4, 4), (0.25, 0.25, 0.75, 0.75))
    given = GivenTokens(one.encode(picture()), keep_masks(mask, one.tokenizer.schedule))
    plan = paint(one.plan(guidance_scale=4.0, top_k=9, smooth=True))
    official = one([None], seed=2, plan=plan, parts={"given": given})
    assert np.array_equal(pixels(result[0]), pixels(official[0]))
    assert torch.equal(result.tokens[0], given.tokens[0])


@pytest.mark.parametrize("size", [(16, 16), (50, 33), (9, 30), (1, 1)])
def test_every_unmasked_pixel_is_the_pictures_own(one: Pipeline, size: tuple[int, int]) -> None:
    image = picture(*size).convert("RGBA")
    image.putalpha(77)
    mask = np.random.default_rng(1).random((size[1], size[0])) > 0.7
    mask[0, 0] = True
    for edited in one.edit(image, "face", mask_image=mask, num_images=2, seed=1):
        assert edited.mode == "RGBA"
        assert edited.size == size
        assert np.array_equal(pixels(edited)[~mask], pixels(image)[~mask])
        assert (pixels(edited)[..., 3] == 77).all()


def test_outpainting_makes_the_picture_larger(one: Pipeline) -> None:
    (edited,) = one.edit(picture(), "face", outpaint={"left": 3, "top": 5}, seed=1)
    assert edited.size == (19, 21)
    assert np.array_equal(pixels(edited)[5:, 3:], pixels(picture()))
    assert len(np.unique(pixels(edited)[:5].reshape(-1, 3), axis=0)) > 20  # painted, not the edge that goes on


def test_what_is_masked_leaks_only_where_it_is_not_blanked(one: Pipeline) -> None:
    other = picture()
    other.paste((255, 0, 255), (4, 4, 12, 12))
    for asked, blanked in (
        ({"class_labels": "face"}, True),
        ({"class_labels": [None]}, False),
        ({}, False),
        ({"blank": True}, True),
        ({"class_labels": "face", "blank": False}, False),
        ({"class_labels": "face", "rule": "official"}, False),
        ({"class_labels": "face", "rule": "official", "blank": True}, True),
    ):
        drawn = [one.edit(image, box=(4, 4, 8, 8), seed=1, paste=False, **asked) for image in (picture(), other)]
        assert np.array_equal(pixels(drawn[0][0]), pixels(drawn[1][0])) == blanked
        assert drawn[0].recipe["edit"]["blank"] == blanked


def test_many_are_painted_in_turns_which_changes_none(one: Pipeline) -> None:
    asked: dict[str, Any] = {"class_labels": "face", "box": (4, 4, 12, 12)}
    many = one.edit(picture(), **asked, num_images=66, seed=0)
    assert len(many) == 66
    for i in (0, 63, 64, 65):
        assert np.array_equal(pixels(many[i]), pixels(one.edit(picture(), **asked, seed=i)[0]))


def test_an_edit_is_streamed_and_watched(one: Pipeline) -> None:
    asked: dict[str, Any] = {"box": (10, 10, 12, 12), "seed": 3, "num_images": 2}
    seen: list[int] = []
    result = one.edit(picture(40, 30), "face", **asked, callback_on_scale_end=lambda event: seen.append(event.k))
    events = list(one.stream_edit(picture(40, 30), "face", **asked))
    assert seen == [event.k for event in events] == [0, 1, 2, 3]
    shown = [[pixels(image).tobytes() for image in event.images()] for event in events]
    assert shown[-1] == [pixels(image).tobytes() for image in result]
    assert shown[0] != shown[-1]
    assert {image.size for event in events for image in event.images()} == {(40, 30)}
    with pytest.raises(InputError, match="output_type is 'np', and a stream has none; leave it out"):
        one.stream_edit(picture(), "face", box=(0, 0, 8, 8), output_type="np")


def test_other_outputs_have_the_pictures_size(one: Pipeline) -> None:
    asked: dict[str, Any] = {"class_labels": "face", "box": (2, 2, 9, 9), "seed": 3}
    image = picture(20, 18).convert("RGBA")
    wanted = pixels(one.edit(image, **asked)[0])
    assert np.array_equal(np.rint(one.edit(image, **asked, output_type="np").images[0] * 255), wanted)
    tensor = one.edit(image, **asked, output_type="pt").images
    assert tuple(tensor.shape) == (1, 4, 18, 20)
    assert tuple(one.edit(image, **asked, output_type="latent").images.shape) == (1, 8, 4, 4)


@pytest.mark.parametrize(
    "asked",
    [
        {"class_labels": "face", "box": (2, 3, 9, 9), "smooth": True},
        {"class_labels": ["face", "tool"], "outpaint": {"right": 4}, "rule": "canvases", "num_images": 2},
        {"class_labels": [None], "mask_image": np.arange(400).reshape(20, 20) % 3 > 0, "rule": "official"},
        {"box": (0, 0, 20, 20), "blank": True, "paste": False, "num_images": 3},
    ],
    ids=["box", "outpaint", "mask", "nothing"],
)
def test_a_recipe_repeats_an_edit_of_the_same_picture(one: Pipeline, asked: dict[str, Any], tmp_path: Path) -> None:
    image, mask = picture(20, 20), asked.get("mask_image")
    first = one.edit(image, **asked, seed=5)
    assert "not_repeatable" not in first.recipe
    assert len(json.dumps(first.recipe["edit"])) < 300  # digests, and no pixels
    image.save(tmp_path / "source.png")
    for i, file in enumerate(first.save(tmp_path / "edited")):
        (again,) = one.repeat(file, tmp_path / "source.png", mask)
        assert np.array_equal(pixels(again), pixels(first[i]))
    page = first.grid()
    page.save(tmp_path / "page.png")
    assert [pixels(a).tobytes() for a in one.repeat(tmp_path / "page.png", image, mask)] == [
        pixels(b).tobytes() for b in first
    ]


def test_a_recipe_is_repeated_with_what_it_names_alone(one: Pipeline, tmp_path: Path) -> None:
    mask = np.eye(16) > 0
    one.edit(picture(), "face", mask_image=mask, seed=1).save(tmp_path / "a.png")
    one.edit(picture(), "face", box=(0, 0, 9, 9), seed=1).save(tmp_path / "b.png")
    one("face", seed=1).save(tmp_path / "c.png")
    for name, given, sentence in (
        ("a", (), "the picture is an edited one; expected the picture that was edited, too"),
        ("a", (picture(),), "a mask was not given; expected the mask of the edit, too"),
        ("a", (picture(), mask.T[::-1]), "this is not the mask of the edit; expected one of the same pixels"),
        ("a", (picture().rotate(90), mask), "this is not the picture of the edit; expected one of the same pixels"),
        ("b", (picture(), mask), "a mask was given; expected no mask, since the recipe says it"),
        ("c", (picture(),), "the picture was drawn and not edited; leave the picture and the mask out: pipe.repeat"),
    ):
        with pytest.raises(InputError, match=sentence):
            one.repeat(tmp_path / f"{name}.png", *given)


def test_what_a_stranger_writes_of_an_edit_is_checked(one: Pipeline) -> None:
    recipe = one.edit(picture(), "face", box=(0, 0, 9, 9), seed=1).recipe_of(0)
    changed: Any
    for changed in ([], {"rule": "cover"}, {**recipe["edit"], "source": "x.png"}):
        with pytest.raises(InputError, match=r"the recipe has the edit .*; expected a table of blank, box, image"):
            Recipe.from_dict({**recipe, "edit": changed})
    for changed in ({"box": "x"}, {"rule": "soft"}, {"blank": 3}, {"paste": None}, {"outpaint": {"left": 10**9}}):
        given = {**recipe["edit"], **changed}
        if "outpaint" in changed:
            given.pop("box")
        with pytest.raises(NextscaleError):
            one.edit(**one.arguments_of(Recipe.from_dict({**recipe, "edit": given}), picture()))


@pytest.mark.parametrize(
    ("asked", "error", "sentence"),
    [
        ({"rule": "soft"}, InputError, "rule is 'soft'; expected one of cover, official, canvases"),
        ({"blank": 1}, InputError, "blank is 1; it must be True or False"),
        ({"paste": "no"}, InputError, "paste is 'no'; it must be True or False"),
        ({"guidance_scale": 2.0}, InputError, "guidance_scale is 2.0, but nothing says what to paint"),
        (
            {"style": "noto"},
            InputError,
            "style is 'noto', but nothing says what to paint; expected a class or words beside it, or no style",
        ),
        ({"negative_prompt": "red"}, InputError, "negative_prompt is 'red', but nothing says what to paint"),
        ({"labels": ["fish"]}, InputError, "there is no class 'fish'"),
        ({"strength": 0.5}, TypeError, "strength is 0.5"),
        ({"class_labels": 1, "parts": {"given": 1}}, PlanError, "parts has 'given', which an edit makes itself"),
    ],
)
def test_what_cannot_be_edited_is_refused(
    one: Pipeline, asked: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        one.edit(picture(), box=(0, 0, 9, 9), **asked)


def test_a_plan_that_keeps_other_things_is_refused(one: Pipeline) -> None:
    with pytest.raises(PlanError, match="the plan keeps a part, and an edit keeps the picture"):
        one.edit(picture(), "face", box=(0, 0, 9, 9), plan=one.plan().with_column(keep="mine"))


def test_styles_and_a_plan_go_through(one: Pipeline) -> None:
    styled = tiny_pipeline_of_styles(guidance_scale=2.0)
    result = styled.edit(picture(), "face", style="openmoji", box=(0, 0, 16, 16), seed=2)
    assert np.array_equal(pixels(result[0]), pixels(styled("face", style="openmoji", seed=2)[0]))
    result = one.edit(picture(), "face", box=(0, 0, 16, 16), seed=2, plan=one.plan(top_k=3).prefix(2))
    assert np.array_equal(pixels(result[0]), pixels(one("face", seed=2, plan=one.plan(top_k=3).prefix(2))[0]))


def test_a_part_without_a_name_is_not_repeatable_beside_an_edit(one: Pipeline) -> None:
    result = one.edit(picture(), "face", box=(0, 0, 9, 9), seed=2, parts={"mine": 1})
    assert "not_repeatable" in result.recipe
    again = one.edit(picture(), "face", box=(0, 0, 9, 9), generator=torch.Generator().manual_seed(1))
    assert "not_repeatable" in again.recipe
