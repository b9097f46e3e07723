"""The object users meet: its arguments, its outputs, its recipe, and saving and loading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nextscale
from nextscale.conditions.classes import ClassVocabulary, class_features
from nextscale.errors import CheckpointError, InputError, PlanError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.methods.paint import given_of, paint
from nextscale.pipeline import Pipeline, fit, load
from nextscale.plan import Plan
from nextscale.price import price
from nextscale.sampling import IndependentNoise
from tests.makers import CLASS_MODELS, CODES, STYLES, tiny_pipeline, tiny_pipeline_of_styles, tiny_tokenizer, tiny_var


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline(guidance_scale=2.0, top_k=20)


@pytest.fixture(scope="module")
def styled() -> Pipeline:
    return tiny_pipeline_of_styles(guidance_scale=2.0)


def test_images_per_label_and_seeds_that_count_up(pipe: Pipeline) -> None:
    result = pipe(["face", 3], num_images=2, seed=5)
    assert [image.size for image in result.images] == [(16, 16)] * 4
    assert result.recipe["entries"] == [{"class": "face"}] * 2 + [{"class": "food"}] * 2
    assert result.recipe["seeds"] == [5, 6, 7, 8]
    assert [tuple(t.shape) for t in result.tokens] == [(4, k, k) for k in (1, 2, 3, 4)]


def test_an_image_is_its_label_and_seed_alone(pipe: Pipeline) -> None:
    together = pipe(["face", "food", "tool"], seed=[9, 4, 1])
    alone = pipe("food", seed=4)
    assert all(torch.equal(a[1:2], b) for a, b in zip(together.tokens, alone.tokens, strict=True))
    assert np.array_equal(np.asarray(together.images[1]), np.asarray(alone.images[0]))


def test_a_list_of_seeds_has_one_per_image_in_the_order_of_the_images(pipe: Pipeline) -> None:
    seeds = [5, 0, 2**40, 5]
    result = pipe(["face", "food"], num_images=2, seed=seeds)
    assert result.recipe["seeds"] == seeds
    for i, (label, seed) in enumerate(zip(["face", "face", "food", "food"], seeds, strict=True)):
        assert np.array_equal(np.asarray(pipe(label, seed=seed).images[0]), np.asarray(result.images[i]))
    *_, last = pipe.stream(["face", "food"], num_images=2, seed=tuple(seeds))
    assert [image.tobytes() for image in last.images()] == [image.tobytes() for image in result.images]
    with pytest.raises(InputError, match="3 seeds were given for 4 images; give one seed, or one per image"):
        pipe(["face", "food"], num_images=2, seed=[1, 2, 3])


def test_a_recipe_repeats_the_picture(pipe: Pipeline) -> None:
    first = pipe(["face", "tool"], seed=3, temperature=0.9, smooth=True)
    recipe = json.loads(json.dumps(first.recipe_of(1)))
    again = pipe([recipe["entry"]["class"]], seed=[recipe["seed"]], plan=Plan.from_dict(recipe["plan"]))
    assert all(torch.equal(a[1:], b) for a, b in zip(first.tokens, again.tokens, strict=True))


def test_without_a_seed_every_call_differs_and_says_its_seed(pipe: Pipeline) -> None:
    a, b = pipe("face"), pipe("face")
    assert a.recipe["seeds"] != b.recipe["seeds"]


def test_official_noise_is_not_repeatable_by_recipe(pipe: Pipeline) -> None:
    result = pipe(["face", "food"], generator=torch.Generator().manual_seed(1))
    again = pipe(["face", "food"], generator=torch.Generator().manual_seed(1))
    assert "not_repeatable" in result.recipe
    assert all(torch.equal(a, b) for a, b in zip(result.tokens, again.tokens, strict=True))


@pytest.mark.parametrize("output_type", ["pt", "np", "latent"])
def test_output_types_agree(pipe: Pipeline, output_type: str) -> None:
    images = pipe("face", seed=1).images
    other = pipe("face", seed=1, output_type=output_type).images  # type: ignore[arg-type]
    if output_type == "latent":
        assert tuple(other.shape) == (1, 8, 4, 4)
        return
    array = other[0].permute(1, 2, 0).numpy() if output_type == "pt" else other[0]
    assert 0 <= array.min() <= array.max() <= 1
    assert np.array_equal(np.asarray(images[0]), np.round(array * 255).astype(np.uint8))


@pytest.mark.parametrize("output_type", ["pil", "pt", "np", "latent"])
def test_every_output_type_can_be_had_of_bfloat16_and_of_several_images(output_type: str) -> None:
    half = tiny_pipeline().to(torch.bfloat16)
    images = half("face", num_images=3, seed=1, output_type=output_type).images  # type: ignore[arg-type]
    shapes = {"pt": (3, 3, 16, 16), "np": (3, 16, 16, 3), "latent": (3, 8, 4, 4)}
    if output_type == "pil":
        assert [image.size for image in images] == [(16, 16)] * 3
    else:
        assert tuple(images.shape) == shapes[output_type]
        assert images.dtype == (np.float32 if output_type == "np" else torch.float32)


def test_a_stream_ends_where_a_call_ends(pipe: Pipeline) -> None:
    events = list(pipe.stream(["face"], seed=7))
    assert [event.k for event in events] == [0, 1, 2, 3]
    assert events[0].scales == 4
    assert np.array_equal(np.asarray(events[-1].images()[0]), np.asarray(pipe("face", seed=7).images[0]))


def test_a_callback_sees_every_scale_and_may_stop(pipe: Pipeline) -> None:
    seen: list[int] = []

    def watch(event: object) -> bool:
        seen.append(event.k)  # type: ignore[attr-defined]
        return event.k < 2  # type: ignore[attr-defined]

    result = pipe("face", seed=1, callback_on_scale_end=watch)
    assert seen == [0, 1, 2]
    assert len(result.tokens) == 3
    assert len(result.images) == 1


def test_many_images_are_drawn_in_turns(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pipe("face", num_images=5, seed=2)
    monkeypatch.setattr("nextscale.pipeline.BATCH", 2)
    turns = pipe("face", num_images=5, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(whole.tokens, turns.tokens, strict=True))


def test_what_is_given_of_many_images_is_that_of_each(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """More images than are drawn at once: each keeps its own tokens."""
    given = given_of(pipe.tokenizer, torch.rand(6, 3, 16, 16) * 2 - 1, torch.zeros(4, 4))
    assert isinstance(given, GivenTokens)
    monkeypatch.setattr("nextscale.pipeline.BATCH", 3)
    drawn = pipe([0] * 6, seed=1, plan=paint(pipe.plan()), parts={"given": given})
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(drawn.tokens, given.tokens, strict=True))


def test_numpy_seeds_are_seeds(pipe: Pipeline) -> None:
    one, several = np.int64(4), np.array([4, 9])
    assert pipe("face", seed=one).recipe["seeds"] == [4]  # type: ignore[arg-type]
    assert pipe(["face", "tool"], seed=several).recipe["seeds"] == [4, 9]  # type: ignore[arg-type]


def test_words_find_a_class(pipe: Pipeline) -> None:
    assert pipe(prompt="a face", seed=1).recipe["entries"] == [{"class": "face"}]


def test_a_style_draws_the_label_of_class_and_style(styled: Pipeline) -> None:
    """In every style the tokens are those the loop draws for the label style * 3 + class, and they differ."""
    drawn = []
    for i, style in enumerate(STYLES):
        result = styled("flag", style=style, seed=1)
        parts = {"tokenizer": styled.tokenizer, "model": styled.model}
        events = generate(styled.plan(), parts, class_features(torch.tensor([3 * i + 2])), IndependentNoise([1]))
        assert all(torch.equal(a, event.tokens) for a, event in zip(result.tokens, events, strict=True))
        assert result.recipe["entries"] == [{"class": "flag", "style": style}]
        drawn.append(torch.cat([maps.flatten() for maps in result.tokens]))
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_styles_of_a_batch_in_turns_and_in_a_stream_are_those_of_single_pictures(
    styled: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, styles = ["face", "face", "animal"], ["noto", "openmoji", "twemoji"]
    together = styled(labels, style=styles, seed=4)
    *_, last = styled.stream(labels, style=styles, seed=4)
    monkeypatch.setattr("nextscale.pipeline.BATCH", 2)
    turns = styled(labels, style=styles, seed=4)
    for i, (label, style) in enumerate(zip(labels, styles, strict=True)):
        alone = np.asarray(styled(label, style=style, seed=4 + i).images[0])
        for images in (together.images, turns.images, last.images()):
            assert np.array_equal(np.asarray(images[i]), alone)


def test_a_recipe_names_the_style_that_was_not_asked_for(styled: Pipeline) -> None:
    first = styled(["face", "flag"], seed=3)
    recipe = json.loads(json.dumps(first.recipe_of(1)))
    assert recipe["entry"] == {"class": "flag", "style": "noto"}
    again = styled([recipe["entry"]["class"]], style=recipe["entry"]["style"], seed=[recipe["seed"]])
    assert all(torch.equal(a[1:], b) for a, b in zip(first.tokens, again.tokens, strict=True))


def test_a_model_without_styles_has_none_in_its_recipe(pipe: Pipeline) -> None:
    assert pipe("face", seed=1).recipe_of(0)["entry"] == {"class": "face"}


def test_styles_are_saved_and_loaded(styled: Pipeline, tmp_path: Path) -> None:
    styled.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu", dtype="float32")
    assert again.vocabulary.styles == STYLES
    a, b = (p("flag", style="openmoji", seed=2) for p in (styled, again))
    assert np.array_equal(np.asarray(a.images[0]), np.asarray(b.images[0]))


def test_a_vocabulary_of_another_model_is_refused(styled: Pipeline, tmp_path: Path) -> None:
    three = ClassVocabulary(("animal", "face", "flag"))
    with pytest.raises(CheckpointError, match="3 labels were named for a model of 9"):
        Pipeline(tiny_tokenizer(), tiny_var(classes=9), three)
    styled.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "classes.json").write_text(json.dumps(three.to_dict()))
    with pytest.raises(CheckpointError, match=r"classes\.json: 3 labels were named for a model of 9"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("name", CLASS_MODELS)
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline(CLASS_MODELS[name](), top_k=7)
    pipe.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu", dtype="float32")
    assert again.defaults == {"top_k": 7}
    assert again.vocabulary == pipe.vocabulary
    assert again.name == "tiny"
    assert len(again.revision) == 12
    a, b = pipe(["face", 2], seed=1), again(["face", 2], seed=1)
    assert all(torch.equal(x, y) for x, y in zip(a.tokens, b.tokens, strict=True))


def test_bfloat16_weights_are_half_as_large_and_still_draw(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "full")
    pipe.save_pretrained(tmp_path / "half", torch.bfloat16)
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    half = load(tmp_path / "half", device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half("face", seed=1).images[0].size == (16, 16)


def test_a_pipeline_is_moved_and_cast_in_any_order() -> None:
    pipe = tiny_pipeline()
    asked: list[tuple[tuple[Any, ...], dict[str, Any], torch.dtype]] = [
        (("cpu", torch.bfloat16), {}, torch.bfloat16),
        ((torch.float32, torch.device("cpu")), {}, torch.float32),
        (("bfloat16",), {}, torch.bfloat16),
        (("cpu",), {}, torch.bfloat16),
        ((), {"dtype": "float32", "device": "cpu"}, torch.float32),
        ((), {}, torch.float32),
        (("torch.bfloat16", torch.device("cpu", 0)), {}, torch.bfloat16),
        (("cpu:0",), {"dtype": torch.float32}, torch.float32),
    ]
    for given, named, dtype in asked:
        assert pipe.to(*given, **named) is pipe
        assert {p.dtype for part in (pipe.model, pipe.tokenizer) for p in part.parameters()} == {dtype}
        assert pipe("face", seed=1).images[0].size == (16, 16)
    assert (pipe.device_reason, pipe.dtype_reason) == ("as asked", "as asked")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("cuda:99", torch.bfloat16), r"the device 'cuda:99' was asked for, but PyTorch .* finds \d+ CUDA devices"),
        ((99,), "the device 'cuda:99' was asked for"),
        (("gpu",), "there is no device 'gpu'; expected auto, cpu, cuda"),
        ((torch.int8,), "there is no dtype 'int8'; expected one of auto, float32, bfloat16, float16"),
        ((torch.float16,), "float16 was asked for on a CPU; expected float32 or bfloat16 there"),
        (("cpu", "cuda"), "'cpu' and 'cuda' were both given; expected one device"),
        ((True,), "there is no device 'True'"),
        ((torch.nn.Linear(500, 500),), "there is no device 'Linear"),
        (
            (torch.float32, "cpu", torch.bfloat16),
            "torch.float32 and torch.bfloat16 were both given; expected one dtype",
        ),
    ],
)
def test_what_a_pipeline_cannot_be_moved_to_leaves_it_where_it_is(given: tuple[Any, ...], sentence: str) -> None:
    pipe = tiny_pipeline()
    with pytest.raises(InputError, match=sentence):
        pipe.to(*given)
    assert (pipe.device.type, pipe.dtype, pipe.device_reason) == ("cpu", torch.float32, "as given")


@pytest.mark.skipif("not torch.cuda.is_available()", reason="there is no CUDA device here")
def test_a_pipeline_draws_on_a_gpu_in_bfloat16_and_comes_back() -> None:
    pipe = tiny_pipeline().to("cuda", torch.bfloat16)
    assert (pipe.device.type, pipe.dtype) == ("cuda", torch.bfloat16)
    assert pipe("face", seed=1).images[0].size == (16, 16)
    assert pipe.to(torch.float32, "cpu")("face", seed=1, output_type="pt").images.device.type == "cpu"


@pytest.mark.skipif("torch.cuda.is_available()", reason="there is a CUDA device here")
def test_without_a_gpu_one_sentence_says_so() -> None:
    with pytest.raises(InputError, match=r"'cuda' was asked for, but PyTorch .* finds 0 CUDA devices; expected one"):
        tiny_pipeline().to("cuda", torch.bfloat16)


def test_from_pretrained_is_load(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "saved")
    drawn = pipe("face", seed=1).images[0]
    assert nextscale.from_pretrained is nextscale.load is load
    for again in (
        nextscale.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32"),
        Pipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32"),
    ):
        assert np.array_equal(np.asarray(again("face", seed=1).images[0]), np.asarray(drawn))
    with pytest.raises(InputError, match=r"revision 'v1' .* was asked for; only models from the hub have one"):
        Pipeline.from_pretrained(tmp_path / "saved", revision="v1")


def test_reconstruction_shows_one_picture_per_scale(pipe: Pipeline) -> None:
    pictures = pipe.reconstruct(Image.new("RGB", (40, 30), "red"))
    assert [p.size for p in pictures] == [(16, 16)] * 4


def test_a_transparent_wide_picture_is_put_on_white_and_cropped() -> None:
    picture = Image.new("RGBA", (30, 10), (255, 0, 0, 0))
    assert np.unique(np.asarray(fit(picture, (10, 10)))).tolist() == [255]
    stripes = Image.new("RGB", (30, 10), "blue")
    stripes.paste((255, 0, 0), (10, 0, 20, 10))
    assert (np.asarray(fit(stripes, (10, 10))) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({}, InputError, "either class_labels or prompt"),
        ({"class_labels": "face", "prompt": "face"}, InputError, "either class_labels or prompt"),
        ({"class_labels": []}, InputError, "class_labels is empty"),
        ({"class_labels": "fase"}, InputError, "no class 'fase'.*face"),
        ({"class_labels": 5}, InputError, "5.*0 to 4"),
        (
            {"class_labels": "face", "num_images": 0},
            InputError,
            "num_images is 0; it must be a whole number of at least 1",
        ),
        ({"class_labels": "face", "seed": [1, 2]}, InputError, "2 seeds were given for 1 images"),
        ({"class_labels": "face", "seed": -4}, InputError, "seed of -4 is out of range"),
        ({"class_labels": "face", "seed": 1, "generator": torch.Generator()}, InputError, "seed and generator"),
        ({"class_labels": "face", "num_images": 1.5}, InputError, "num_images is 1.5"),
        ({"class_labels": "face", "temperature": "hot"}, InputError, "temperature is 'hot'; it must be a number"),
        ({"class_labels": "face", "seed": "x"}, InputError, "seed is 'x'; it must be a whole number"),
        ({"prompt": []}, InputError, "give some words"),
        ({"prompt": 3}, InputError, "prompt is 3; give some words"),
        ({"class_labels": "face", "guidance_scale": float("inf")}, PlanError, "guidance_scale is inf"),
        ({"class_labels": "face", "output_type": "jpg"}, InputError, "output_type is 'jpg'"),
        ({"class_labels": "face", "temperature": 0.0}, PlanError, "temperature is 0.0.*top_k=1"),
        ({"class_labels": "face", "top_p": 3.0}, PlanError, "top_p is 3.0"),
        ({"class_labels": "face", "top_k": CODES + 1}, PlanError, "top_k is 49, but the tokenizer has 48 codes"),
        ({"class_labels": "face", "style": "noto"}, InputError, "'noto' was asked for, but this model has no styles"),
    ],
)
def test_bad_arguments_get_one_sentence_from_a_call_and_from_a_stream_at_once(
    pipe: Pipeline, arguments: dict, error: type, sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        pipe(**arguments)
    if "output_type" not in arguments:
        with pytest.raises(error, match=sentence):
            pipe.stream(**arguments)


def test_a_whole_number_that_pytorch_cannot_hold_is_a_number_all_the_same(pipe: Pipeline) -> None:
    assert len(pipe([0], seed=1, temperature=10**30)) == 1


def test_top_k_may_be_as_many_as_there_are_codes(pipe: Pipeline) -> None:
    whole, off = pipe("face", seed=1, top_k=CODES), pipe("face", seed=1, top_k=0)
    assert all(torch.equal(a, b) for a, b in zip(whole.tokens, off.tokens, strict=True))


def test_a_plan_with_a_part_that_is_missing_is_refused_when_the_stream_is_made(pipe: Pipeline) -> None:
    with pytest.raises(PlanError, match="a part named 'refiner'"):
        pipe.stream("face", plan=pipe.plan().with_column(model="refiner"))


def test_a_plan_and_a_sampling_argument_contradict_each_other(pipe: Pipeline) -> None:
    with pytest.raises(PlanError, match="a plan was given together with top_k"):
        pipe("face", plan=pipe.plan(), top_k=3)


def test_an_unknown_model_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'nothing'"):
        load("nothing")
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "export" / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"it has no config\.json; what this run has trained is .*run/export$"):
        load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"is a folder but no checkpoint: it has no config.json"):
        load(tmp_path)


def test_a_call_that_a_callback_stops_is_stopped_as_a_whole(pipe: Pipeline) -> None:
    """Also where there are more images than are drawn in one turn otherwise."""
    seen: list[int] = []

    def stop(event: object) -> bool:
        seen.append(event.k)  # type: ignore[attr-defined]
        return len(seen) < 2

    result = pipe("face", num_images=65, seed=1, callback_on_scale_end=stop)
    assert seen == [0, 1]
    assert [len(maps) for maps in result.tokens] == [65, 65]
    assert len(result.images) == len(result.recipe["seeds"]) == 65
    assert result.recipe["not_repeatable"] == "a callback stopped it"


def test_what_a_callback_changed_is_not_said_to_be_repeatable(pipe: Pipeline) -> None:
    def blank(event: Any) -> Any:
        return replace(event.canvas, latent=event.canvas.latent * 0) if event.k == 3 else None

    changed = pipe("face", seed=1, callback_on_scale_end=blank)
    assert changed.recipe["not_repeatable"] == "a callback changed it"
    assert changed.images[0].tobytes() != pipe("face", seed=1).images[0].tobytes()
    watched = pipe("face", seed=1, callback_on_scale_end=lambda event: None)
    assert "not_repeatable" not in watched.recipe
    assert watched.images[0].tobytes() == pipe("face", seed=1).images[0].tobytes()


def test_a_picture_of_no_class_is_that_of_the_null_class(pipe: Pipeline) -> None:
    result = pipe([None, "face"], seed=[3, 3], guidance_scale=3.0)
    parts = {"tokenizer": pipe.tokenizer, "model": pipe.model}
    events = generate(pipe.plan(), parts, class_features(torch.tensor([5])), IndependentNoise([3]))
    assert all(torch.equal(a[:1], event.tokens) for a, event in zip(result.tokens, events, strict=True))
    assert result.recipe["entries"] == [{"class": None}, {"class": "face"}]
    assert not torch.equal(result.tokens[-1][0], result.tokens[-1][1])
    zero = [pipe(name, seed=3, guidance_scale=0).tokens for name in ("face", "food")]
    assert not all(torch.equal(a, b) for a, b in zip(*zero, strict=True))  # guidance 0 still knows the class


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"plan": {"rows": []}}, "plan is {'rows': .*; expected a Plan"),
        ({"plan": "fast"}, "plan is 'fast'; expected a Plan"),
        ({"parts": [1]}, r"parts is \[1\]; expected a table"),
        ({"callback_on_scale_end": 3}, "callback_on_scale_end is 3; expected a function"),
        ({"callback_on_scale_end": lambda: None}, r"callback_on_scale_end is .*; expected a function of an event"),
        ({"callback_on_scale_end": lambda pipe, step, t, kwargs: kwargs}, r"as in f\(event\)"),
        ({"output_type": []}, r"output_type is \[\]"),
    ],
)
def test_arguments_of_another_kind_are_named(pipe: Pipeline, arguments: dict, sentence: str) -> None:
    with pytest.raises((InputError, PlanError), match=sentence):
        pipe("face", **arguments)


def test_a_price_is_that_of_a_plan_and_a_number_of_images(pipe: Pipeline) -> None:
    with pytest.raises(PlanError, match="plan is 3; expected a Plan"):
        pipe.price(3)  # type: ignore[arg-type]
    for images in (0, 1.5, "2", True):
        with pytest.raises(InputError, match=r"images is .*; it must be a whole number of at least 1"):
            pipe.price(pipe.plan(), images)  # type: ignore[arg-type]
    other = tiny_var(shared_adaln=True)
    plan = replace(pipe.plan(), memories={}).with_column(model="other")
    found = pipe.price(plan, 2, {"other": other})
    assert found == price(plan, {"tokenizer": pipe.tokenizer, "model": pipe.model, "other": other}, 2)
