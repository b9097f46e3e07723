"""Calls as users of other libraries type them: they work where they mean the same, else one sentence says what does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextscale import habits
from nextscale.errors import InputError, NextscaleError
from nextscale.pipeline import Pipeline, load
from tests.makers import tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.mark.parametrize(
    ("arguments", "images"),
    [
        ({"num_images_per_prompt": 2}, 2),
        ({"num_images_per_prompt": None}, 1),
        ({"negative_prompt": None}, 1),
        ({"negative_prompt": ""}, 1),
        ({"height": 16, "width": 16}, 1),
        ({"height": np.int64(16), "width": 16.0}, 1),
        ({"return_dict": True}, 1),
        ({"eta": 0.0, "latents": None, "callback": None, "callback_steps": 1}, 1),
        ({"cross_attention_kwargs": {}}, 1),
        ({"more_smooth": True, "topk": 5}, 1),
        ({"guidance": 2}, 1),
        ({"num_images": None}, 1),
        ({"num_inference_steps": 4}, 1),
        ({"size": [16, 16], "negative_prompt": [""]}, 1),
    ],
)
def test_what_means_the_same_is_taken(pipe: Pipeline, arguments: dict[str, Any], images: int) -> None:
    assert len(pipe("face", seed=1, **arguments).images) == images
    *_, last = pipe.stream("face", seed=1, **arguments)
    assert len(last.images()) == images


def test_a_translated_argument_draws_what_ours_draws(pipe: Pipeline) -> None:
    ours = pipe("face", num_images=2, seed=3, smooth=True, top_k=4)
    theirs = pipe(label="face", num_images_per_prompt=2, seeds=3, more_smooth=True, topk=4)
    assert ours.recipe == theirs.recipe
    assert all(torch.equal(a, b) for a, b in zip(ours.tokens, theirs.tokens, strict=True))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"negative_prompt": "blurry"}, "negative_prompt is 'blurry'; .*guidance_scale"),
        ({"height": 512}, "height is 512; this model draws 16x16 pixels"),
        ({"width": 8}, "width is 8; this model draws 16x16 pixels"),
        ({"num_inference_steps": 20}, r"one step per scale, 4 here; plan=pipe.plan\(\).prefix\(n\)"),
        ({"callback_on_step_end": print}, "callback_on_scale_end"),
        ({"callback": print}, "callback_on_scale_end"),
        ({"return_dict": False}, "return_dict is False; .*result.images"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, "noise comes from seed, or from generator"),
        ({"prompt_embeds": torch.zeros(1, 4)}, "name the class with class_labels or prompt"),
        ({"eta": 0.3}, "eta is 0.3"),
        ({"image": object()}, "pipe.edit"),
        ({"cfg": 1.5}, r"guidance_scale=1\+t"),
        ({"mix": {"face": 0.5, "food": 0.5}}, "mixing of classes is not possible yet"),
        ({"class_weights": {"face": 0.5}}, "mixing of classes is not possible yet"),
        ({"unconditional": True}, r"class_labels=\[None\]"),
        ({"guidence_scale": 3}, "no argument 'guidence_scale'; did you mean guidance_scale"),
        ({"num_image": 3}, "no argument 'num_image'; did you mean num_images"),
        ({"wibble": 3}, "no argument 'wibble'; expected class_labels, prompt"),
        (
            {"num_images": 2, "num_images_per_prompt": 3},
            "were both given, and mean the same; expected num_images alone",
        ),
        ({"num_samples": 2, "num_images_per_prompt": 3}, "were both given"),
        ({"latents": "x" * 10_000}, r"latents is 'x{79}\.\.\. \(10002 characters\);"),
    ],
)
def test_what_means_something_else_is_answered_in_one_sentence(
    pipe: Pipeline, arguments: dict[str, Any], sentence: str
) -> None:
    """As a TypeError too, which is what a call with a wrong keyword raises everywhere."""
    for call in (pipe, pipe.stream):
        with pytest.raises(InputError, match=sentence) as caught:
            call("face", seed=1, **arguments)
        assert isinstance(caught.value, TypeError)
        assert "\n" not in str(caught.value)


def test_every_habit_names_an_argument_or_says_something() -> None:
    """Each table: a single word must be an argument of its function, and a phrase can be written out."""
    tables: list[tuple[Mapping[str, habits.Habit], Callable[..., Any]]]
    tables = [(habits.CALL, Pipeline.__call__), (habits.LOAD, load), (habits.TO, Pipeline.to)]
    for table, function in tables:
        own = set(inspect.signature(function).parameters)
        assert own.isdisjoint(table)
        for name, (here, _, _) in table.items():
            assert here in own if here.isidentifier() else here.format(scales=1, height=2, width=3) != name


def test_help_shows_our_arguments_by_name() -> None:
    named = list(inspect.signature(Pipeline.__call__).parameters)
    assert named[:3] == ["self", "class_labels", "prompt"]
    assert {"seed", "num_images", "guidance_scale", "callback_on_scale_end", "plan"} <= set(named)


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "float32", "use_safetensors": True, "low_cpu_mem_usage": False}, torch.float32),
        ({"dtype": "float32", "safety_checker": None, "local_files_only": False, "device": None}, torch.float32),
    ],
)
def test_load_takes_what_from_pretrained_takes_elsewhere(saved: Path, arguments: dict[str, Any], dtype: Any) -> None:
    for read in (load, Pipeline.from_pretrained):
        pipe = read(saved, **({"device_map": "cpu"} | arguments if "device" not in arguments else arguments))
        assert pipe.dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"torch_dtype": torch.float16, "device_map": "cpu"}, "float16 was asked for on a CPU"),
        ({"torch_dtype": "float32", "dtype": "float32"}, "were both given, and mean the same; expected dtype alone"),
        ({"device_map": "balanced"}, "there is no device 'balanced'"),
        ({"use_safetensors": False}, "weights are safetensors files"),
        ({"variant": "fp16"}, "dtype says how"),
        ({"subfolder": "unet"}, "name a folder itself"),
        ({"local_files_only": True}, "HF_HUB_OFFLINE=1"),
        ({"cache_dir": "/x"}, "NEXTSCALE_CACHE"),
        ({"trust_remote_code": True}, "no code is ever loaded"),
        ({"tokenizer": 3}, "pipe.tokenizer"),
        ({"revison": "main"}, "did you mean revision"),
    ],
)
def test_load_answers_in_one_sentence(saved: Path, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load(saved, **arguments)


@pytest.mark.parametrize("name", [None, "", 3, b"x", ["emoji"]])
def test_a_model_needs_a_name(name: Any) -> None:
    with pytest.raises(InputError, match=r"the model's name is .*; expected a bundled model, a folder or org/name"):
        load(name)


def test_a_token_is_never_shown(saved: Path) -> None:
    for name in ("token", "use_auth_token"):
        asked: dict[str, Any] = {name: "hf_secret"}
        with pytest.raises(
            InputError, match=f"{name} is not read here; set the environment variable HF_TOKEN"
        ) as caught:
            load(saved, **asked)
        assert "hf_secret" not in str(caught.value)


def test_a_name_too_long_for_a_file_is_no_model() -> None:
    with pytest.raises(NextscaleError, match="there is no model"):
        load("x" * 5000)


def test_a_plan_is_asked_for_in_other_words_too(pipe: Pipeline) -> None:
    assert pipe.plan(topk=3) == pipe.plan(top_k=3)
    with pytest.raises(InputError, match="no argument 'top_q'; did you mean top_"):
        pipe.plan(top_q=1)


def test_a_pipeline_is_moved_in_other_words_too(pipe: Pipeline) -> None:
    assert pipe.to(torch_dtype=torch.float32, non_blocking=True) is pipe
    with pytest.raises(InputError, match="no argument 'foo'; expected device, dtype"):
        pipe.to("cpu", foo=1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("enable_model_cpu_offload", r"pipe.to\(device, dtype\)"),
        ("enable_attention_slicing", "nothing to switch on"),
        ("disable_xformers", "nothing to switch off"),
        ("unet", "pipe.model"),
        ("vae", "pipe.tokenizer"),
        ("scheduler", r"pipe.plan\(\)"),
        ("cuda", r"pipe.to\('cuda'\)"),
        ("class_names", "pipe.vocabulary.names"),
    ],
)
def test_what_other_pipelines_have_is_not_there_and_says_where_it_is(pipe: Pipeline, name: str, sentence: str) -> None:
    assert not hasattr(pipe, name)
    with pytest.raises(NextscaleError, match=sentence):
        getattr(pipe, name)


def test_any_other_attribute_is_missing_as_anywhere(pipe: Pipeline) -> None:
    with pytest.raises(AttributeError, match="a pipeline has no wibble"):
        pipe.wibble  # type: ignore[attr-defined]  # noqa: B018


def test_the_parts_have_names(pipe: Pipeline) -> None:
    assert pipe.components == {"tokenizer": pipe.tokenizer, "model": pipe.model, "conditioner": pipe.vocabulary}
    assert Pipeline(**pipe.components).components == pipe.components


def test_a_pipeline_says_in_a_line_what_it_is(pipe: Pipeline) -> None:
    assert repr(pipe) == (
        "<Pipeline 'tiny': VAR of 0.1 M parameters, 5 classes, 4 scales to 16x16 pixels, float32 on cpu>"
    )
