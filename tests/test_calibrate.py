"""Calibrations: what is measured is what attention really did, files keep it, and recipes name it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.calibrate import HeadWatch, Watch, Watched, calibrate, calibrate_heads, spread_labels
from nextscale.errors import InputError, PlanError
from nextscale.generate import generate
from nextscale.layers.slots import PlainQueries
from nextscale.memory.calibration import read_calibration
from nextscale.memory.hack_rules import attention_variance
from nextscale.memory.scalekv_calibration import Statistics, Table
from nextscale.memory.scalekv_rules import attention_shares
from nextscale.methods.hack import hack
from nextscale.methods.scalekv import scalekv
from nextscale.models.base import NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.pipeline import Pipeline
from nextscale.plan import default_plan
from nextscale.sampling import IndependentNoise
from tests.laws.test_policies import PAST
from tests.makers import MODELS, features_of, new_memory, some_inputs, tiny_pipeline, tokenizer_of
from tests.memory.test_scalekv_rules import PUBLISHED


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def measured(pipe: Pipeline) -> Statistics:
    return calibrate(pipe, spread_labels(pipe, 3), guidance_scale=2.0)


def test_the_shares_are_those_of_the_whole_matrix_whatever_the_chunks() -> None:
    generator = torch.Generator().manual_seed(1)
    q, keys = torch.randn(2, 3, 5, 4, generator=generator), torch.randn(2, 3, 13, 4, generator=generator)
    given = (q @ keys.mT).softmax(-1)
    best = given[..., :8].sort(-1, descending=True).values[..., :2].sum(-1)  # a quarter of eight
    expected = (float(given[..., 8:].sum(-1).mean()), float(best.mean()))
    for chunk in (2, 256):
        assert attention_shares(q, keys, 5, 0.25, chunk) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["var", "infinity", "prefix"])
def test_watching_changes_nothing_and_sees_the_first_branch_alone(name: str) -> None:
    model = PAST[name]()
    plan, watch = default_plan(model, guidance_scale=2.0), Watch(0.5, tuple(range(len(model.blocks))))

    def draw(network: Any, rows: int) -> list[Tensor]:
        features, noise = features_of(model, 3).select(torch.arange(rows)), IndependentNoise(range(rows))
        parts = {"tokenizer": tokenizer_of(model), "model": network}
        return [event.branch_logits for event in generate(plan, parts, features, noise)]

    found = draw(Watched(model, watch), 2)
    assert all(torch.equal(a, b) for a, b in zip(found, draw(model, 2), strict=True))
    means = watch.means(model.schedule)
    assert [len(row) for row in means] == [3, 3, 3]
    assert all(0 < current < 1 and 0 < history < 1 - current + 1e-6 for row in means for current, history in row)
    alone = Watch(0.5, tuple(range(len(model.blocks))))
    unguided = replace(default_plan(model), rows=tuple(replace(row, guidance=(1.0,)) for row in plan.rows))
    features = features_of(model, 2)
    list(generate(unguided, {"tokenizer": tokenizer_of(model), "model": Watched(model, alone)}, features, Fixed()))
    first = Watch(0.5, tuple(range(len(model.blocks))))
    list(generate(plan, {"tokenizer": tokenizer_of(model), "model": Watched(model, first)}, features, Fixed()))
    for row, other in zip(alone.means(model.schedule), first.means(model.schedule), strict=True):
        torch.testing.assert_close(torch.tensor(row), torch.tensor(other), atol=1e-4, rtol=1e-4)


class Fixed(IndependentNoise):
    """Draws the first token everywhere, so that what is drawn does not depend on guidance."""

    def __init__(self) -> None:
        super().__init__([0, 1])

    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        return torch.zeros(probs.shape[:-1], dtype=torch.int64)


def test_the_measured_attention_is_that_of_the_layers(pipe: Pipeline) -> None:
    """Held against the queries and keys themselves, taken out of a run by hand."""
    model, watch = pipe.model, Watch(0.5, (0, 1, 2))
    watched, inputs = Watched(model, watch), some_inputs(model)
    condition, memory = watched.condition(features_of(model)), new_memory(model, 2)
    for k in range(len(model.schedule)):
        memory.begin_scale(k)
        model.step(None if k == 0 else inputs[k - 1], k, condition, memory)
        memory.end_scale(k)
    taken = Taking(model)
    for k in range(len(model.schedule)):
        taken.memory.begin_scale(k)
        model.step(None if k == 0 else inputs[k - 1], k, model.condition(features_of(model)), taken)
        taken.memory.end_scale(k)
    own = model.schedule.lengths
    for k, row in enumerate(watch.means(model.schedule), 1):
        for block, found in enumerate(row):
            q, keys = taken.found[3 * k + block]
            assert found == pytest.approx(attention_shares(q, keys, own[k], 0.5), rel=1e-5)


def test_the_measured_heads_are_those_of_the_last_scale_and_of_the_first_branch(pipe: Pipeline) -> None:
    model, inputs, taken = pipe.model, some_inputs(pipe.model), Taking(pipe.model)
    features = features_of(model)
    watch = HeadWatch(3, [torch.zeros(1)] * 3)
    watched, memory = Watched(model, watch), new_memory(model, 4)
    condition = watched.condition(features, (("class",), ()))
    for k in range(len(model.schedule)):
        memory.begin_scale(k)
        taken.memory.begin_scale(k)
        model.step(None if k == 0 else inputs[k - 1], k, condition, memory)
        model.step(None if k == 0 else inputs[k - 1], k, model.condition(features), taken)
        memory.end_scale(k)
        taken.memory.end_scale(k)
    for block, found in enumerate(watch.sums):
        torch.testing.assert_close(found, attention_variance(*taken.found[9 + block]), atol=1e-6, rtol=1e-4)


class Taking:
    """A memory that puts every query and key down."""

    def __init__(self, model: NextScaleModel) -> None:
        self.memory, self.schedule, self.found = new_memory(model, 2), model.schedule, list[tuple[Tensor, Tensor]]()

    def slot(self, index: int) -> Taking:
        self.index = index
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        keys, values, _ = self.memory.slot(self.index).see(q, k, v, plain)
        self.found.append((q, keys.clone()))
        return (q @ keys.mT).softmax(-1) @ values


def test_a_file_keeps_every_number_and_is_known_by_its_digest(measured: Statistics, tmp_path: Path) -> None:
    measured.save(tmp_path / "one.json")
    again = read_calibration(tmp_path / "one.json")
    assert (again, again.digest) == (measured, measured.digest)
    assert replace(measured, pictures=4).digest != measured.digest
    with pytest.raises(InputError, match="exists"):
        measured.save(tmp_path / "one.json")


def test_heads_are_measured_kept_in_a_file_and_known_by_their_digest(pipe: Pipeline, tmp_path: Path) -> None:
    told = list[tuple[float, float]]()
    found = calibrate_heads(pipe, spread_labels(pipe, 2), guidance_scale=2.0, step=lambda *at: told.append(at))
    assert told[-1] == (2, 2)
    assert (found.model, found.weights, found.pictures) == ("tiny", weights_hash(pipe.model), 2)
    assert [len(row) for row in found.variance] == [4, 4, 4]
    assert all(0 < one < 1 for row in found.variance for one in row)
    found.save(tmp_path / "heads.json")
    again = read_calibration(tmp_path / "heads.json")
    assert (again, again.digest) == (found, found.digest)
    assert replace(found, pictures=4).digest != found.digest
    for variance in ((), ((),), ((0.1, -1.0),), ((0.1, 2.0),)):
        with pytest.raises(InputError, match="expected"):
            replace(found, variance=variance)
    with pytest.raises(InputError, match="0 pictures"):
        calibrate_heads(pipe, [])


def test_statistics_become_an_official_file_and_back(measured: Statistics, tmp_path: Path) -> None:
    table = measured.table(6, 4, 0.34)
    table.save_official(tmp_path / "budget.json")
    with pytest.warns(UserWarning, match="does not say which weights it was made for; .* of any model of 3 blocks"):
        again = read_calibration(tmp_path / "budget.json")
    assert again == table
    assert again.digest == table.digest != measured.digest
    depth, drafters, counts = PUBLISHED["8b"]
    official = {
        f"Scale {k + 1}": {f"Block {i}": int(i in drafters[k]) for i in range(depth)}
        | dict(zip(("High", "Max", "Min", "Limit"), (len(drafters[k]), *row), strict=True))
        for k, row in zip(drafters, counts, strict=True)
    }
    published = Table.from_official(official)
    assert published.to_official() == official
    assert (published.budget, published.least) == (650, 200)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1], r"holds \[1\]; expected a calibration, or an official budget file"),
        ({}, "has no scale; expected scales in a row"),
        (
            {"method": "magic", "format": 1},
            r"has the method and the format \('magic', 1\); expected 'scalekv' or 'hack'",
        ),
        ({"method": "hack", "format": 2}, "expected 'scalekv' or 'hack', and 1"),
        ({"method": ["hack"], "format": 1}, "expected 'scalekv' or 'hack', and 1"),
        ({"method": "scalekv", "format": 1}, "is no calibration that can be read: the setting model is missing"),
        ({"Step 3": {}}, "has 'Step 3'; expected 'Scale N'"),
        ({"Scale 3": {"Block 0": 1}}, "Scale 3 is .*; expected blocks, High, Max, Min, Limit"),
        (
            {"Scale 3": {"Block 0": 1, "High": 0, "Max": 3, "Min": 2, "Limit": 3}},
            r"has High 0, Min 2, Max 3 and the blocks \[1\]",
        ),
        ({"Scale 3": {"Block 0": 1, "High": 1, "Max": 3, "Min": 0.5, "Limit": 3}}, r"\[1, 3, 0.5, 3\]; expected num"),
    ],
)
def test_what_is_no_calibration_ends_in_a_sentence(content: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        read_calibration(tmp_path / "wrong.json")


def test_numbers_that_do_not_fit_are_refused(measured: Statistics) -> None:
    for changed in ({"current": measured.current[:2]}, {"history": ((2.0,) * 3,) * 3}, {"share": 0.0}):
        with pytest.raises(InputError, match="expected"):
            replace(measured, **changed)


def test_a_calibration_says_what_it_was_made_of(pipe: Pipeline, measured: Statistics) -> None:
    assert (measured.model, measured.weights, measured.pictures) == ("tiny", weights_hash(pipe.model), 3)
    assert measured.sizes == pipe.model.schedule.sizes
    told = list[tuple[float, float]]()
    again = calibrate(pipe, spread_labels(pipe, 3), guidance_scale=2.0, step=lambda *at: told.append(at))
    assert again == measured
    assert told == [(picture + scale / 4, 3) for picture in range(3) for scale in (1, 2, 3, 4)]
    assert [one["class_labels"] for one in spread_labels(pipe, 3)] == [["animal"], ["face"], ["food"]]
    with pytest.raises(InputError, match="0 pictures"):
        calibrate(pipe, [])


def test_a_model_that_keeps_no_past_is_not_calibrated() -> None:
    for measure in (calibrate, calibrate_heads):
        with pytest.raises(PlanError, match="this model reads a recurrent state"):
            measure(tiny_pipeline(MODELS["m-var"]()), [{"class_labels": [0]}])


def test_a_picture_is_repeated_with_its_calibration_alone(pipe: Pipeline, measured: Statistics, tmp_path: Path) -> None:
    plan = scalekv(pipe.plan(guidance_scale=2.0), measured, 6, window=4, drafters=0.34)
    result = pipe(class_labels=["face"], seed=3, plan=plan, parts={"calibration": measured})
    assert "not_repeatable" not in result.recipe
    assert result.recipe["parts"] == {"calibration": measured.digest}
    result.images[0].save(tmp_path / "face.png")
    again = pipe.repeat(tmp_path / "face.png", parts={"calibration": measured})
    assert again.images[0].tobytes() == result.images[0].tobytes()
    plain = pipe(class_labels=["face"], seed=3, plan=pipe.plan(guidance_scale=2.0))
    assert "parts" not in plain.recipe
    assert plain.images[0].tobytes() != result.images[0].tobytes()
    for parts, sentence in (
        (None, f"a part 'calibration' of the digest {measured.digest[:12]}; expected it"),
        ({"calibration": replace(measured, pictures=9)}, "the part 'calibration' has the digest"),
        ({"calibration": 3}, "the part 'calibration' has no digest"),
        ({"calibration": measured, "more": 3}, "a part 'more' was given, and the picture was drawn without"),
    ):
        with pytest.raises(InputError, match=sentence):
            pipe.repeat(tmp_path / "face.png", parts=parts)
    unnamed = pipe(class_labels=["face"], plan=plan, parts={"calibration": measured, "other": 3})
    assert "not_repeatable" in unnamed.recipe


def test_the_method_writes_every_setting_into_the_plan(measured: Statistics) -> None:
    plan = tiny_pipeline().plan()
    memory = scalekv(plan, measured, 0.5, window=4).memories["model"]
    known = {"drafters": 1 / 16, "allocation": "saturate", "literal": False, "kernel": 5, "score": "logits"}
    assert memory.settings == {"budget": 7, "window": 4, "floor": 4, **known}
    assert scalekv(plan, measured, 12, window=4).memories["model"].settings["floor"] == 4
    assert scalekv(plan, measured, 14, window=1, floor=3).memories["model"].settings["floor"] == 3
    assert scalekv(plan, measured, 1).memories["model"].settings["budget"] == 14
    table = scalekv(plan, measured.table(6, 4, 0.34), window=4).memories["model"]
    assert table.settings == {"budget": 6, "window": 4, "kernel": 5, "score": "logits"}
    for budget in (0, -1, 1.5, "all", None):
        with pytest.raises(PlanError, match="expected a share"):
            scalekv(plan, measured, budget)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="no model 'other'; it draws with model"):
        scalekv(plan, measured, 6, model="other")
    known = {"alpha": 0.5, "contextual_share": 1 / 3, "queries": 32, "protected": 2, "merge": True}
    assert hack(plan, 0.5).memories["model"].settings == {"budget": 15, **known}
    assert hack(plan, 1).memories["model"].settings["budget"] == 30
    assert hack(plan, 7, alpha=0.25).memories["model"].settings == {"budget": 7, **known, "alpha": 0.25}
    with pytest.raises(PlanError, match="expected a share above 0"):
        hack(plan, 1.5)
