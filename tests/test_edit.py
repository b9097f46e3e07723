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
from nextscale.methods.first_scales import first_scales
from nextscale.methods.paint import RULES, cover_masks, edit_mask, keep_masks, paint
from nextscale.pipeline import Pipeline
from nextscale.recipe import Recipe
from tests.makers import (
    CLASS_MODELS,
    FREE_CLASS_MODELS,
    tiny_flexvar,
    tiny_hmar,
    tiny_pipeline,
    tiny_pipeline_of_styles,
)


def picture(width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


NOTHING, EVERYTHING = np.zeros((16, 16), dtype=bool), np.ones((16, 16), dtype=bool)


@pytest.fixture(params=CLASS_MODELS | FREE_CLASS_MODELS)
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline((CLASS_MODELS | FREE_CLASS_MODELS)[request.param](), guidance_scale=2.0)


@pytest.fixture(scope="module")
def one() -> Pipeline:
    return tiny_pipeline(guidance_scale=2.0)


@pytest.fixture(scope="module")
def free() -> Pipeline:
    """Of any size, trained on pictures of 16x16 pixels, four to a token."""
    return tiny_pipeline(tiny_flexvar(), guidance_scale=2.0)


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


def test_tokens_that_are_kept_stay_so_in_every_pass() -> None:
    """They are what a later pass is told, and no pass draws them anew, however unlikely they are."""
    masked = tiny_pipeline(tiny_hmar(2), guidance_scale=2.0)
    passes: list[tuple[int, Any]] = []
    embed = masked.model.embed

    def watched(inputs: Any, k: int, condition: Any, schedule: Any, again: Any = None) -> Any:
        passes.append((k, again))
        return embed(inputs, k, condition, schedule, again)

    masked.model.embed = watched  # type: ignore[method-assign]
    asked: dict[str, Any] = {"box": (6, 6, 10, 10), "blank": False, "refine": "1,3;1,1,2,5;1,2,4,9"}
    result = masked.edit(picture(), "face", **asked, num_images=4, seed=1)
    own = masked.encode(picture())
    mask = torch.zeros(16, 16)
    mask[6:, 6:] = 1
    kept = cover_masks(mask, result.plan.schedule)
    assert [int(one.sum()) for one in kept] == [1, 3, 5, 8]
    later = [(k, again) for k, again in passes if again is not None]
    assert [k for k, _ in later] == [1, 2, 2, 2, 3, 3, 3]
    for k, again in later:
        assert torch.equal(again.tokens[:, kept[k]], own[k][:, kept[k]].expand(4, -1))
        assert not again.masked.view(again.tokens.shape)[:, kept[k]].any()
        assert again.masked.any()
    for k in (1, 2, 3):
        assert torch.equal(result.tokens[k][:, kept[k]], own[k][:, kept[k]].expand(4, -1))
        assert not torch.equal(result.tokens[k][:, ~kept[k]], own[k][:, ~kept[k]].expand(4, -1))


@pytest.mark.parametrize(
    ("size", "asked", "grid"),
    [
        ((16, 16), {}, (4, 4)),
        ((31, 17), {}, (4, 8)),
        ((3, 9), {}, (2, 1)),
        ((16, 16), {"steps": 3}, (4, 4)),
        ((90, 60), {}, (5, 8)),  # at most twice the sides that were trained
        ((31, 17), {"size": (16, 16)}, (4, 4)),
        ((31, 17), {"scales": "1,3"}, (3, 3)),
    ],
)
def test_a_model_of_any_size_paints_at_the_size_nearest_to_the_picture(
    free: Pipeline, size: tuple[int, int], asked: dict[str, Any], grid: tuple[int, int]
) -> None:
    result = free.edit(picture(*size), "face", box=(0, 0, 3, 3), seed=1, **asked)
    assert result.plan.schedule.grid == grid
    assert len(result.plan.rows) == asked.get("steps", len(result.plan.rows))
    assert result[0].size == size


def test_a_model_of_any_size_sees_the_whole_picture(free: Pipeline, one: Pipeline) -> None:
    """A small box is painted by others in a small part of the picture."""
    for pipe, whole in ((free, True), (one, False)):
        (edited,) = pipe.edit(picture(31, 17), "face", box=(0, 0, 3, 3), paste=False, seed=1)
        changed = pixels(edited) != pixels(picture(31, 17))
        assert changed[:3, :3].any()
        assert bool(changed[10:, 20:].any()) is whole


def test_a_canvas_is_expanded_around_the_picture(free: Pipeline) -> None:
    result = free.edit(picture(), "face", outpaint={"left": 8, "right": 8}, seed=1)
    assert result.plan.schedule.grid == (4, 8)
    assert np.array_equal(pixels(result[0])[:, 8:24], pixels(picture()))
    seen = Image.fromarray(np.pad(pixels(picture()), ((0, 0), (8, 8), (0, 0)), mode="edge"))
    whole = free.encode(seen, result.plan.schedule)[-1]
    assert torch.equal(result.tokens[-1][..., 2:6], whole[..., 2:6])
    assert not torch.equal(result.tokens[-1], whole)


@pytest.mark.parametrize(
    ("size", "asked", "scales", "start"),
    [
        ((16, 16), {}, "1 2 3 4 5 6 8", (4, 4)),
        ((31, 17), {}, "1 1x2 1x3 2x4 2x5 3x6 4x8", (3, 6)),  # what is drawn is at most 32 pixels long
        ((20, 12), {"steps": 5}, "1 1x2 2x3 3x5 5x8", (3, 5)),
        ((8, 8), {"size": (16, 24)}, "1 1x2 2x3 3x4 4x6", (1, 2)),
        ((18, 18), {"scales": "1,3,4,5,9"}, "1 3 4 5 9", (5, 5)),
        ((17, 17), {"scales": "1,3,4,5,9"}, "1 3 4 5 9", (4, 4)),
        ((2, 2), {"scales": "3,4"}, "3 4", (3, 3)),  # one at least is the picture's
        ((16, 16), {"size": "16x16"}, "1 2 3 4", (3, 3)),  # and one at least is drawn
        ((16, 16), {"start_scale": 2}, "1 2 3 4 5 6 8", (2, 2)),
        ((16, 16), {"start_scale": "6x6"}, "1 2 3 4 5 6 8", (6, 6)),
        ((16, 16), {"scales": "2,3,3,4", "start_scale": 3}, "2 3 3 4", (3, 3)),
    ],
)
def test_a_refined_picture_has_its_own_maps_up_to_a_scale_in_the_middle(
    free: Pipeline, size: tuple[int, int], asked: dict[str, Any], scales: str, start: tuple[int, int]
) -> None:
    result = free.edit(picture(*size), "face", refine_image=True, num_images=2, seed=1, **asked)
    sizes = result.plan.schedule.sizes
    count = len(sizes) - sizes[::-1].index(start)
    assert str(result.plan.schedule) == scales
    assert result.recipe["edit"]["start_scale"] == list(start)
    assert result[0].size == (4 * sizes[-1][1], 4 * sizes[-1][0])
    for k, (one, other) in enumerate(result.tokens):
        assert torch.equal(one, other) == (k < count) or one.numel() < 4
    kept = result.plan.schedule.prefix(count)
    if size in {(16, 16), (18, 18), (2, 2)}:  # of others a line or two are cut off
        assert all(map(torch.equal, (one[:1] for one in result.tokens[:count]), free.encode(picture(*size), kept)))


def test_what_is_drawn_goes_on_from_the_picture_s_maps(free: Pipeline) -> None:
    """It is what a generation draws that has these maps, and another picture gives another one."""
    asked: dict[str, Any] = {"refine_image": True, "seed": 3}
    result = free.edit(picture(), "face", **asked)
    given = GivenTokens.whole(free.encode(picture()))
    plan = first_scales(free.plan(size=(32, 32)), 4)
    assert np.array_equal(pixels(result[0]), pixels(free("face", plan=plan, seed=3, parts={"given": given})[0]))
    other = free.edit(picture().rotate(90), "face", **asked)
    assert not torch.equal(result.tokens[-1], other.tokens[-1])
    nothing = free.edit(picture(), **asked)
    assert nothing.plan.branches == ((),)


def test_a_refined_picture_is_the_middle_of_one_of_another_shape(free: Pipeline) -> None:
    wide = picture(40, 16)
    cropped, asked = wide.crop((12, 0, 28, 16)), dict[str, Any](refine_image=True, size=(32, 32), seed=3)
    assert np.array_equal(pixels(free.edit(wide, "face", **asked)[0]), pixels(free.edit(cropped, "face", **asked)[0]))


def test_a_refinement_is_streamed_and_repeated(free: Pipeline, tmp_path: Path) -> None:
    asked = dict[str, Any](refine_image=True, size=(16, 24), steps=6, start_scale=(2, 3), num_images=2, seed=5)
    image = picture(20, 12).convert("RGBA")
    image.putalpha(0)
    result = free.edit(image, ["face", "tool"], **asked)
    assert result[0].mode == "RGB"  # transparency is put on white
    *_, last = free.stream_edit(image, ["face", "tool"], **asked)
    assert [pixels(a).tobytes() for a in last.images()] == [pixels(b).tobytes() for b in result]
    for i, file in enumerate(result.save(tmp_path)):
        assert np.array_equal(pixels(free.repeat(file, image)[0]), pixels(result[i]))
    for given, sentence in (
        ((), "the picture is an edited one"),
        ((picture(),), "this is not the picture of the edit"),
        ((image, NOTHING), "a mask was given; expected no mask"),
    ):
        with pytest.raises(InputError, match=sentence):
            free.repeat(file, *given)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"refine_image": 1}, "refine_image is 1; it must be True or False"),
        ({"box": (0, 0, 9, 9)}, "box and refine_image were given; expected one of them"),
        ({"rule": "official"}, "rule is 'official', but refine_image masks nothing; leave rule out"),
        ({"blank": True}, "blank is True, but refine_image masks nothing; leave blank out"),
        ({"paste": False}, "paste is False, but refine_image masks nothing; leave paste out"),
        ({"start_scale": 7}, "start_scale is 7; expected one of the scales before the last, 1 2 3 4 5 6, of which 6x6"),
        ({"start_scale": 8}, "start_scale is 8; expected .*, of which 6x6 is the nearest"),
        ({"start_scale": "1x2"}, "start_scale is '1x2'; expected .*, of which 1x1 is the nearest"),
        ({"start_scale": 0.5}, "start_scale is 0.5; expected the side, or height and width, of a map in tokens"),
        ({"refine_image": False, "box": (0, 0, 9, 9), "start_scale": 2}, "start_scale is 2, which is where refine"),
        ({"scales": [8]}, "refine_image keeps a scale and draws another, and the plan has one scale; expected"),
        ({"steps": 9}, "steps is 9; expected at most 8, the most scales that this model draws 32x32 pixels by"),
        ({"size": (30, 30)}, "the nearest that this model draws is 32x32"),
    ],
)
def test_what_cannot_be_refined_is_refused(free: Pipeline, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        free.edit(picture(), "face", **{"refine_image": True, **asked})


def test_models_whose_maps_add_up_refine_no_picture(one: Pipeline) -> None:
    with pytest.raises(InputError, match="the maps of this model add up to a picture; expected a model whose every"):
        one.edit(picture(), "face", refine_image=True)
