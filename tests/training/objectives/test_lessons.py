"""A lesson is a file: others than teacher forcing, and models of other kinds, are trained by the same objective."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.conditions.classes import ClassVocabulary, class_features
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.models.base import Condition, NextScaleModel
from nextscale.models.var import VAR, VARConfig
from nextscale.tokenizers.base import Encoded, Tokenizer
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.objectives.teacher_forcing import teacher_forcing
from nextscale.training.optim import freeze_others
from nextscale.training.order import SampleNoise
from nextscale.training.recipe import load_recipe
from nextscale.training.recipes.var import VARRecipe
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.makers import CLASSES, CODE_DIM, SIZES, randomise, tiny_var
from tests.toys import FreeModel, bit_tokenizer
from tests.training.tiny import TINY_VAR

CPU = torch.device("cpu")
STEPS = [*TINY_VAR, "schedule.epochs=null", "schedule.steps=2", "optim.lr=0.01", "model.drop_path=0.3"]


@dataclass
class Distilled:
    """What a teacher of another width says of the first scales; how many of them is chosen at every step."""

    teacher: NextScaleModel

    def __call__(
        self, model: Pupil, encoded: Encoded, features: Features, noise: SampleNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scales = 1 + int(noise.shared() * len(encoded.tokens))
        seen, schedule = encoded.inputs[: scales - 1], encoded.canvas.schedule.prefix(scales)
        with torch.no_grad():
            wanted = self.teacher(seen, self.teacher.condition(features)).log_softmax(-1)
        said = model(seen, model.condition(features), schedule).log_softmax(-1)
        loss = (wanted.exp() * (wanted - said)).sum(-1).mean()
        return loss, {"scales": torch.tensor(float(scales))}


def wider_teacher(tokenizer: Tokenizer) -> VAR:
    codes, code_dim, sizes = tokenizer.choices, tokenizer.code_dim, tokenizer.schedule.sizes
    config = VARConfig(depth=1, width=24, heads=3, classes=2, codes=codes, code_dim=code_dim, sizes=sizes)
    teacher = VAR(config)
    randomise(teacher)
    return teacher.eval().requires_grad_(False)


def train(images: Path, tokenizer: Path, run: Path, *more: str) -> tuple[Trainer, list[dict[str, Any]]]:
    trainer = start("var", "var-emoji", images, run, str(tokenizer), [*STEPS, *more], "cpu")
    trainer.run()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return trainer, [line for line in lines if line["kind"] == "train"]


def test_a_recipe_may_bring_a_lesson_of_its_own(
    images: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And parts of a step see the same numbers of the step: accumulated, the losses are those of the whole."""
    monkeypatch.setattr(VARRecipe, "new_lesson", lambda recipe, tokenizer: Distilled(wider_teacher(tokenizer)))
    trainer, whole = train(images, tokenizer, tmp_path / "whole", "run.accumulate=1")
    _, parts = train(images, tokenizer, tmp_path / "parts", "run.accumulate=4")
    assert isinstance(trainer.objective, GeneratorObjective)
    assert isinstance(trainer.objective.lesson, Distilled)
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-5)
    chosen = [1 + int(SampleNoise(3, step, 4, slice(None)).shared() * 3) for step in range(2)]
    assert [line["scales"] for line in parts] == [line["scales"] for line in whole] == chosen


def test_nothing_is_to_be_learnt_from_a_teacher_that_says_the_same() -> None:
    model, tokenizer = tiny_var(), bit_tokenizer()
    maps = [torch.zeros((2, *size, CODE_DIM), dtype=torch.long) for size in SIZES]
    encoded, features = tokenizer.follow(maps), class_features(torch.tensor([0, 1]))
    lesson, noise = Distilled(model), SampleNoise(0, 0, 2, slice(None))
    assert abs(float(lesson(Pupil(model, noise), encoded, features, noise)[0])) < 1e-6
    other = Distilled(tiny_var(seed=1))
    assert float(other(Pupil(model, noise), encoded, features, noise)[0]) > 0.01


class Says:
    """A model that says what it is told to."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def condition(self, features: Features, schedule: Any = None) -> None: ...

    def __call__(self, inputs: list[Tensor], condition: None, schedule: Any, blocks: None) -> Tensor:
        return self.logits


@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, None), (0.2, (4.0, 2.0, 0.0, 1.0))])
def test_the_loss_over_bits_is_the_mean_over_all_bits_of_all_tokens(
    smoothing: float, weights: Sequence[float] | None
) -> None:
    tokenizer, generator = bit_tokenizer(), torch.Generator().manual_seed(0)
    maps = [torch.randint(2, (3, *size, CODE_DIM), generator=generator) for size in SIZES]
    places = tokenizer.schedule.tokens
    logits = torch.randn(3, places, CODE_DIM, 2, generator=generator)
    loss, parts = teacher_forcing(
        Says(logits),  # type: ignore[arg-type]
        tokenizer.follow(maps),
        class_features(torch.zeros(3, dtype=torch.long)),
        SampleNoise(0, 0, 3, slice(None)),
        label_smoothing=smoothing,
        scale_weights=weights,
    )
    surprise, total, right = -logits.double().log_softmax(-1), 0.0, 0
    shares = weights or (1.0,) * len(SIZES)
    for k, (h, w) in enumerate(SIZES):
        for image in range(3):
            for place in range(h * w):
                for draw in range(CODE_DIM):
                    both = surprise[image, tokenizer.schedule.slice(k)][place, draw]
                    bit = int(maps[k][image, place // w, place % w, draw])
                    total += shares[k] * float((1 - smoothing) * both[bit] + smoothing * both.mean())
                    right += bool(both[bit] < both[1 - bit])
    count = sum(share * h * w for share, (h, w) in zip(shares, SIZES, strict=True))
    assert float(loss) == pytest.approx(total / (3 * CODE_DIM * count), rel=1e-5)
    assert float(parts["accuracy"]) == pytest.approx(right / (3 * CODE_DIM * places))


class FreeRecipe(VARRecipe):
    """For a model that is no ``ClassTransformer``, has no configuration and drops no paths."""

    def new_model(self, tokenizer: Tokenizer, classes: int) -> NextScaleModel:  # type: ignore[override]
        model = FreeModel("past", tokenizer.draws, tokenizer.choices)
        randomise(model)
        return model


@pytest.mark.parametrize("copies", [0, 2])
def test_a_model_of_bits_that_drops_no_paths_is_trained(copies: int, images: Path, tmp_path: Path) -> None:
    told = load_recipe("var-emoji", [*TINY_VAR, f"data.copies={copies}", "data.flip=0.5", "run.checkpointing=true"])
    train, heldout = (load_data(images, 16, side) for side in ("train", "heldout"))
    names = ClassVocabulary(("cold", "warm", *"abc"))
    assert len(names) == CLASSES
    recipe, frozen = FreeRecipe.model_validate(told.model_dump()), bit_tokenizer()
    goal = GeneratorObjective(recipe, train, heldout, frozen, "revision", names, CPU, tmp_path)
    optimizer = torch.optim.SGD(goal.module.parameters(), lr=0.3)
    before = goal.validate(goal.module.eval())
    for step in range(2):
        loss, _ = goal.loss(goal.module.train(), torch.arange(13), SampleNoise(0, step, 13, slice(None)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert goal.validate(goal.module.eval())["loss"] < before["loss"]


def test_all_conditions_of_an_image_drop_the_same_paths() -> None:
    model = tiny_var().train()
    model.config = replace(model.config, drop_path=0.7)
    noise = SampleNoise(0, 0, 4, slice(None))
    pupil, features = Pupil(model, noise), class_features(torch.arange(4))
    one = pupil.condition(features)
    both = pupil.condition(features, (("class",), ()))

    def closed(condition: Condition) -> Tensor:
        """Gates (R, blocks, gates) that are 0."""
        return torch.stack([(m[:, 0, :2] == 0).all(-1) for m in condition.modulation], 1)

    assert 0 < int(closed(one).sum()) < closed(one).numel()
    assert torch.equal(closed(both), closed(one).repeat(2, 1, 1))
    assert not closed(model.condition(features)).any()


def test_only_what_the_patterns_name_is_trained(
    images: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And such a run goes on where it stopped."""
    monkeypatch.setattr(VARRecipe, "trainable", ("head_*", "blocks.1.*"))
    overrides = [*STEPS, "optim.ema=0.9"]

    def trainer() -> Trainer:
        return start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), overrides, "cpu")

    first = trainer()
    before = {name: p.detach().clone() for name, p in first.objective.module.named_parameters()}
    first.run(1)
    second = trainer()
    second.run()
    for module in (second.objective.module, second.average.module):
        changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {name for name in before if name.startswith(("head_", "blocks.1."))}


def test_a_pattern_that_fits_no_parameter_is_refused() -> None:
    with pytest.raises(InputError, match=r"no parameter has a name like 'lora\.\*'; expected .* 'head_lin\.bias'"):
        freeze_others(tiny_var(), ("blocks.*", "lora.*"))
