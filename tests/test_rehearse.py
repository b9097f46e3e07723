"""A rehearsal foretells the bytes that PyTorch's own allocator really hands out, without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

import nextscale
import nextscale.rehearse
from nextscale.generate import generate
from nextscale.layers.rope import rotary_table
from nextscale.models.base import NextScaleModel
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import Plan, default_plan
from nextscale.rehearse import Rehearsal, rehearse
from nextscale.results import decode
from nextscale.sampling import IndependentNoise, Uniform
from nextscale.state import ScaleEvent
from nextscale.tokenizers.base import Tokenizer
from tests.makers import CODE_DIM, CODES, MODELS, SIZES, few, tiny_tokenizer, tokenizer_of
from tests.test_price import METHODS, possible

CPU = torch.device("cpu")
TOKENIZER = tiny_tokenizer()


def on_meta(tokenizer: Tokenizer, model: NextScaleModel) -> dict[str, Any]:
    return {"tokenizer": copy.deepcopy(tokenizer).to("meta"), "model": copy.deepcopy(model).to("meta")}


def allocations(
    plan: Plan, tokenizer: Tokenizer, model: NextScaleModel, images: int, **parts: Any
) -> Iterator[tuple[str, int]]:
    """What PyTorch's profiler saw of a real generation, in order: bytes taken, given back, and the end of drawing."""
    features, noise = model.blank(images, CPU), IndependentNoise(range(images))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for event in generate(plan, {"tokenizer": tokenizer, "model": model} | parts, features, noise):
            canvas = event.canvas
        del event
        with record_function("drawn"):
            pass
        decode(tokenizer, canvas)
    events = seen.profiler.kineto_results.events()
    found = [(e.start_ns(), e.name(), e.nbytes()) for e in events if e.name() in ("[memory]", "drawn")]
    yield from ((name, size) for _, name, size in sorted(found))


def really(plan: Plan, tokenizer: Tokenizer, model: NextScaleModel, images: int, **parts: Any) -> tuple[int, int]:
    """The most bytes alive at once while tokens were drawn, and while pixels were made."""
    live, peaks = 0, [0]
    for name, size in allocations(plan, tokenizer, model, images, **parts):
        if name == "drawn":
            peaks.append(live)
        live += size
        peaks[-1] = max(peaks[-1], live)
    drawing, decoding = peaks
    return drawing, decoding


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("guidance_scale", "images"), [(1.0, 1), (2.0, 3)])
def test_bytes_while_drawing_are_those_the_allocator_hands_out(name: str, guidance_scale: float, images: int) -> None:
    model = MODELS[name]()
    plan = default_plan(model, guidance_scale=guidance_scale, top_k=few(model, 3), top_p=0.9)
    tokenizer = tokenizer_of(model)
    foretold = rehearse(plan, on_meta(tokenizer, model), images, CPU)
    drawing, _ = really(plan, tokenizer, model, images)
    assert foretold.drawing == pytest.approx(drawing, rel=0.05)


@pytest.mark.parametrize(("name", "method"), [pair for name in ("var", "m-var", "infinity") for pair in possible(name)])
def test_what_methods_make_of_a_plan_is_rehearsed(name: str, method: str) -> None:
    """Culls look at numbers, which a rehearsal has none of: they used to break it."""
    model = MODELS[name]()
    plan = METHODS[method](default_plan(model, guidance_scale=2.0, top_k=few(model, 3)))
    tokenizer = tokenizer_of(model)
    parts = on_meta(tokenizer, model)
    foretold = rehearse(plan, parts | {"refiner": parts["model"], "best": smallest_first}, 2, CPU)
    drawing, _ = really(plan, tokenizer, model, 2, refiner=model, best=smallest_first)
    assert foretold.drawing == pytest.approx(drawing, rel=0.02)


def smallest_first(event: ScaleEvent, count: int, noise: Uniform) -> list[int]:
    order = event.tokens.flatten(1).sum(1).argsort(stable=True).tolist()
    return [order[i % len(order)] for i in range(count)]


@pytest.mark.parametrize("name", ["emoji", "emoji-m-var"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 4])
def test_the_bundled_models_hold_what_was_foretold(name: str, dtype: torch.dtype, images: int) -> None:
    pipe = nextscale.load(name, device="cpu", dtype=dtype)
    plan = pipe.plan()
    foretold = rehearse(plan, on_meta(pipe.tokenizer, pipe.model), images, CPU)
    drawing, decoding = really(plan, pipe.tokenizer, pipe.model, images)
    assert foretold.drawing == pytest.approx(drawing, rel=0.05)
    assert foretold.decoding == pytest.approx(decoding, rel=0.05)


def test_nothing_is_computed_and_no_noise_is_spent() -> None:
    model = MODELS["m-var"]()
    before = torch.get_rng_state()
    rehearse(default_plan(model, smooth=True), on_meta(TOKENIZER, model), 2, CPU)
    assert torch.equal(torch.get_rng_state(), before)


SETTINGS: dict[str, Any] = {"depth": 12, "width": 64, "heads": 4, "sizes": SIZES}
TEXT: dict[str, Any] = {"hidden": 256, "bits": CODE_DIM, "text_width": 8, "text_length": 5}
DEEP: dict[str, Callable[[], NextScaleModel]] = {
    "var": lambda: VAR(VARConfig(codes=CODES, code_dim=CODE_DIM, **SETTINGS)),
    "m-var": lambda: MVAR(MVARConfig(codes=CODES, code_dim=CODE_DIM, **SETTINGS)),
    "infinity": lambda: Infinity(InfinityConfig(**SETTINGS, **TEXT)),
}


@pytest.mark.parametrize("method", [lambda plan: plan, METHODS["culled"]])
@pytest.mark.parametrize("kind", DEEP)
def test_deep_models_are_foretold_from_two_of_their_blocks(
    kind: str, method: Callable[[Plan], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        model = DEEP[kind]()
    parts = {"tokenizer": tokenizer_of(model).to("meta"), "model": model, "best": smallest_first}
    plan = method(default_plan(model, guidance_scale=2.0))

    def rehearsed(all_blocks: int) -> Rehearsal:
        monkeypatch.setattr(nextscale.rehearse, "ALL_BLOCKS", all_blocks)
        return rehearse(plan, parts, 2, CPU)

    short, whole = rehearsed(2), rehearsed(12)
    assert (short.calls, short.moved, short.decoding) == (whole.calls, whole.moved, whole.decoding)
    assert short.drawing == pytest.approx(whole.drawing, rel=0.05)


@pytest.mark.parametrize("name", ["var", "m-var", "infinity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_further_picture_adds_the_same(name: str, dtype: torch.dtype) -> None:
    model = MODELS[name]()
    parts = {part: module.to(dtype) for part, module in on_meta(tokenizer_of(model), model).items()}
    plan = default_plan(model, guidance_scale=2.0)
    one, eight = (rehearse(plan, parts, images, CPU) for images in (1, 8))
    assert eight.drawing == pytest.approx(8 * one.drawing, rel=0.05)
    assert eight.decoding == pytest.approx(one.decoding + 7 * one.decoding_more, rel=0.1)


def test_what_outlives_a_generation_is_not_counted() -> None:
    """Positions that a model keeps were counted by the first rehearsal alone, and by the first of two blocks."""
    model = MODELS["infinity"]()
    parts = on_meta(tokenizer_of(model), model)
    plan = default_plan(model, guidance_scale=2.0).with_column(guidance_block=2)
    rotary_table.cache_clear()
    assert rehearse(plan, parts, 2, CPU) == rehearse(plan, parts, 2, CPU)
