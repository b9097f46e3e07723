"""Plans with candidates, culls or no condition go through a call: images, entries and seeds are those that are left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale.errors import InputError
from nextscale.pipeline import Pipeline
from nextscale.plan import Plan
from nextscale.state import Keep, ScaleEvent
from tests.makers import tiny_pipeline, tiny_pipeline_of_styles

NAMES = ["face", "food", "tool"]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline(guidance_scale=2.0)


def culled(pipe: Pipeline, candidates: int, left: int, k: int = -1) -> Plan:
    """Of so many candidates, so many are left after row k."""
    plan = pipe.plan()
    rows = list(plan.rows)
    rows[k] = replace(rows[k], population=left, cull="best")
    return replace(plan, rows=tuple(rows), candidates=candidates)


def last_ones(event: ScaleEvent, n: int, noise: Any) -> list[int]:
    """The candidates that came last, latest first."""
    return list(range(len(event.tokens)))[-1 : -n - 1 : -1]


@pytest.mark.parametrize("k", [1, -1])
def test_what_a_cull_leaves_is_the_result(pipe: Pipeline, k: int) -> None:
    """Drawn together, in turns and as a stream: entries and seeds are those of the prompts that the images are of."""
    plan, parts = culled(pipe, 3, 2, k), {"best": last_ones}
    result = pipe(NAMES, seed=[5, 6, 7], plan=plan, parts=parts)
    assert len(result) == 6
    assert [tuple(t.shape) for t in result.tokens] == [(6, side, side) for side in (1, 2, 3, 4)]
    assert result.recipe["entries"] == [{"class": name} for name in NAMES for _ in range(2)]
    assert result.recipe["seeds"] == [5, 5, 6, 6, 7, 7]
    assert "a part that has no name was used" in result.recipe["not_repeatable"]
    *_, last = pipe.stream(NAMES, seed=[5, 6, 7], plan=plan, parts=parts)
    assert last.event.lineage.prompts == (0, 0, 1, 1, 2, 2)
    for i, name in enumerate(NAMES):
        alone = pipe(name, seed=5 + i, plan=plan, parts=parts)
        for tokens in (result.tokens, last.event.history):
            assert all(torch.equal(a[2 * i : 2 * i + 2], b) for a, b in zip(tokens, alone.tokens, strict=True))
    every = pipe("face", seed=5, plan=replace(pipe.plan(), candidates=3))
    if k == -1:
        assert result.images[0].tobytes() == every.images[2].tobytes()


def test_candidates_are_drawn_in_turns_of_as_many_images(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, parts, drawn = culled(pipe, 3, 1), {"best": last_ones}, list[int]()

    def count(event: ScaleEvent, n: int, noise: Any) -> Sequence[int]:
        drawn.append(event.lineage.prompts[0])
        return last_ones(event, n, noise)

    whole = pipe(NAMES * 3, seed=2, plan=plan, parts=parts)
    monkeypatch.setattr("nextscale.pipeline.BATCH", 7)
    turns = pipe(NAMES * 3, seed=2, plan=plan, parts={"best": count})
    assert drawn == [0, 1, 0, 1, 0, 1, 0, 1, 0]  # two prompts at a time
    assert turns.recipe == whole.recipe
    assert all(torch.equal(a, b) for a, b in zip(whole.tokens, turns.tokens, strict=True))


def test_several_pictures_of_a_prompt_are_repeated(pipe: Pipeline, tmp_path: Path) -> None:
    """A page gives the page, and one picture of it all of its prompt."""
    result = pipe(["face", "food"], seed=3, plan=replace(pipe.plan(), candidates=2))
    assert result.recipe["seeds"] == [3, 3, 4, 4]
    assert len({image.tobytes() for image in result}) == 4
    result.grid().save(tmp_path / "page.png")
    again = pipe.repeat(tmp_path / "page.png")
    assert [image.tobytes() for image in again] == [image.tobytes() for image in result]
    result.images[3].save(tmp_path / "one.png")
    assert [image.tobytes() for image in pipe.repeat(tmp_path / "one.png")] == [i.tobytes() for i in result[2:]]


def test_a_callback_that_keeps_some_images_leaves_their_entries() -> None:
    pipe = tiny_pipeline_of_styles()

    def keep(event: ScaleEvent) -> Keep | None:
        return Keep([2, 0]) if event.k == 1 else None

    result = pipe(["face", "flag", "animal"], style="twemoji", seed=[7, 8, 9], callback_on_scale_end=keep)
    assert [entry["class"] for entry in result.recipe["entries"]] == ["animal", "face"]
    assert result.recipe["seeds"] == [9, 7]
    assert result.recipe["not_repeatable"] == "a callback changed it"
    for image, name, seed in zip(result.images, ("animal", "face"), (9, 7), strict=True):
        assert image.tobytes() == pipe(name, style="twemoji", seed=seed).images[0].tobytes()


def test_a_plan_without_a_condition_draws_pictures_of_no_class(pipe: Pipeline, tmp_path: Path) -> None:
    """Nothing need be named, and what is named is refused; the recipe repeats them."""
    plan = replace(pipe.plan(guidance_scale=1), branches=((),))
    result = pipe(num_images=3, seed=4, plan=plan)
    assert result.recipe["entries"] == [{}, {}, {}]
    wanted = pipe([None] * 3, seed=4, guidance_scale=1)
    assert [image.tobytes() for image in result] == [image.tobytes() for image in wanted]
    assert [path.name for path in result.save(tmp_path)] == [f"unconditional-{seed}.png" for seed in (4, 5, 6)]
    result.grid().save(tmp_path / "page.png")
    assert [image.tobytes() for image in pipe.repeat(tmp_path / "page.png")] == [image.tobytes() for image in result]
    assert json.loads(json.dumps(result.recipe_of(1)))["entry"] == {}
    assert len(list(pipe.stream(seed=1, plan=plan))) == 4
    for call in (pipe, pipe.stream):
        with pytest.raises(InputError, match="class_labels is 'face', but no branch of the plan sees anything"):
            call("face", seed=1, plan=plan)
        with pytest.raises(InputError, match="give either class_labels or prompt"):
            call(seed=1)
