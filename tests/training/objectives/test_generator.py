"""The generator's objective: labels are dropped and images mirrored in training only, and only where they may be."""

from __future__ import annotations

import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.folder import load_data
from nextscale.data.images import InMemory
from nextscale.errors import InputError
from nextscale.models.class_transformer import ClassTransformer
from nextscale.training.objectives.data import TokenData
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.objectives.images import to_signed
from nextscale.training.order import SampleNoise
from nextscale.training.start import start, vocabulary_of
from nextscale.training.tokens import encode
from tests.training.tiny import TINY_VAR, classes_of, labels_of

CPU = torch.device("cpu")


def objective(images: Path, tokenizer: Path, tmp_path: Path, *more: str) -> GeneratorObjective:
    trainer = start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), [*TINY_VAR, *more], "cpu")
    assert isinstance(trainer.objective, GeneratorObjective)
    return trainer.objective


def model_of(goal: GeneratorObjective) -> ClassTransformer:
    assert isinstance(goal.module, ClassTransformer)
    return goal.module


def data_of(goal: GeneratorObjective) -> TokenData:
    assert isinstance(goal.data, TokenData)
    return goal.data


def seen(goal: GeneratorObjective, model: ClassTransformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and targets of one training step over all images, as the model and the loss see them."""
    caught: list[torch.Tensor] = []
    handle = model.class_embedding.register_forward_hook(lambda _, arguments, __: caught.append(arguments[0]))
    rows = torch.arange(goal.images)
    goal.loss(model, rows, SampleNoise(0, 0, goal.images, slice(None)))
    handle.remove()
    return caught[0], labels_of(goal)[rows]


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (1.0, 13)])
def test_labels_are_dropped_in_training(
    share: float, dropped: int, images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    goal = objective(images, tokenizer, tmp_path, f"loss.label_drop={share}")
    given, true = seen(goal, model_of(goal))
    null = model_of(goal).config.classes
    assert int((given == null).sum()) == dropped
    assert torch.equal(given[given != null], true[given != null])


def test_validation_drops_no_label(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    goal = objective(images, tokenizer, tmp_path, "loss.label_drop=1.0")
    goal.module.eval()
    assert goal.validate(goal.module) == goal.validate(goal.module)
    caught: list[torch.Tensor] = []
    model_of(goal).class_embedding.register_forward_hook(lambda _, arguments, __: caught.append(arguments[0]))
    goal.validate(goal.module)
    assert torch.equal(torch.cat(caught), data_of(goal).heldout_features.sources["class"].tensors["ids"])


def test_some_classes_are_never_mirrored(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    more = ("data.flip=1.0", "data.unmirrored=[warm]", "data.copies=0", "data.shift=0")
    goal = objective(images, tokenizer, tmp_path, *more)
    data = data_of(goal).images
    whole = data.images
    data_of(goal).images = replace(data, pictures=InMemory(whole, data.resolution))  # nothing to crop
    plain, turned = (encode(goal.tokenizer, to_signed(i, CPU)) for i in (whole, whole.flip(-1)))
    noise = SampleNoise(0, 0, goal.images, slice(None))
    found = data_of(goal).found(torch.arange(goal.images), noise.uniform(), noise)
    warm = labels_of(goal) == classes_of(goal).names.index("warm")
    assert torch.equal(found, torch.where(warm[:, None], plain, turned))
    assert not torch.equal(plain[~warm], turned[~warm])


def test_new_variants_at_every_step_are_keyed_by_sample(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    more = ("data.flip=0.5", "data.copies=0", "data.shift=4", "data.recolour=0.5", "run.batch=6")
    goal = objective(images, tokenizer, tmp_path, *more)
    assert data_of(goal).reads is data_of(goal).images
    assert list((tmp_path / "run" / "tokens").iterdir()) != []  # the held-out images alone
    rows = torch.tensor([3, 3, 8, 1, 0, 12])

    def targets(step: int, part: slice) -> torch.Tensor:
        noise = SampleNoise(3, step, 6, part)
        return data_of(goal).found(rows[part], noise.uniform(), noise)

    whole = targets(0, slice(None))
    assert torch.equal(whole, torch.cat([targets(0, slice(0, 4)), targets(0, slice(4, 6))]))
    assert not torch.equal(whole, targets(1, slice(None)))
    assert not torch.equal(whole[0], whole[1])  # the same image twice


def test_scales_may_weigh_differently(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    def loss(name: str, *more: str) -> float:
        goal = objective(images, tokenizer, tmp_path / name, *more)
        return float(goal.loss(goal.module, rows, SampleNoise(0, 0, len(rows), slice(None)))[0].detach())

    rows = torch.arange(13)
    alone = [loss(f"{k}", f"loss.scale_weights={[float(i == k) for i in range(3)]}") for k in range(3)]
    assert loss("even") == pytest.approx((alone[0] + 4 * alone[1] + 16 * alone[2]) / 21, rel=1e-5)
    mixed = (2 * alone[0] + 4 * alone[1] + 8 * alone[2]) / 14
    assert loss("mixed", "loss.scale_weights=[2, 1, 0.5]") == pytest.approx(mixed, rel=1e-5)
    with pytest.raises(InputError, match=r"scale_weights has 2 numbers; expected one for each of the tokenizer's 3"):
        loss("wrong", "loss.scale_weights=[1, 2]")
    with pytest.raises(InputError, match="one of the weights must be above 0"):
        loss("zero", "loss.scale_weights=[0, 0, 0]")


@pytest.mark.parametrize("setting", ["data.flip=0.5", "data.shift=2", "data.recolour=0.1"])
def test_an_augmentation_that_no_copy_would_show_is_refused(
    setting: str, images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give copies = 2 or more, or 0"):
        objective(images, tokenizer, tmp_path, "data.flip=0", "data.copies=1", setting)


def test_one_class_alone_is_said(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert objective(images, tokenizer, tmp_path / "two").warnings == []
    (tmp_path / "flat").mkdir()
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))):
        (tmp_path / "flat" / f"{i}.png").write_bytes(path.read_bytes())
    (sentence,) = objective(tmp_path / "flat", tokenizer, tmp_path / "one").warnings
    assert re.match(r"all \d+ training images are of one class, 'flat': the generator will know no other", sentence)


def test_class_and_style_are_the_label(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    plain = objective(images, tokenizer, tmp_path)
    drawn_in = torch.arange(len(data_of(plain).images)) % 3
    train = replace(data_of(plain).images, style_labels=drawn_in, styles=["noto", "twemoji", "openmoji"])
    heldout = load_data(images, data_of(plain).images.resolution, "heldout")
    vocabulary = ClassVocabulary(tuple(train.classes), (), tuple(train.styles))
    frozen = plain.tokenizer, "revision"
    goal = GeneratorObjective(plain.recipe, train, heldout, *frozen, vocabulary, CPU, tmp_path / "tokens")
    assert labels_of(goal).tolist() == [int(s) * 2 + int(c) for s, c in zip(drawn_in, train.labels, strict=True)]
    assert model_of(goal).config.classes == 6
    loss, _ = goal.loss(goal.module, torch.arange(13), SampleNoise(0, 0, 13, slice(None)))
    assert loss.isfinite()
    sample = goal.sample(goal.module.eval())
    assert sample is not None
    assert sample.size == (6 * data_of(plain).images.resolution, data_of(plain).images.resolution)


def test_a_label_without_training_images_is_missing_in_the_vocabulary(images: Path) -> None:
    train = load_data(images, 16, "train")
    styled = replace(train, style_labels=1 - train.labels, styles=["noto", "twemoji"])
    names = train.classes
    assert vocabulary_of(images, styled).missing == {("noto", names[0]), ("twemoji", names[1])}
    assert vocabulary_of(images, train).missing == set()


def test_shards_train_like_the_folder_they_were_made_of(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    for side in ("train", "val"):
        (tmp_path / "shards" / side).mkdir(parents=True)
        with tarfile.open(tmp_path / "shards" / side / "0.tar", "w") as shard:
            shard.add(images / side, ".")
    packed = Path(tmp_path / "shards" / "{train,val}" / "0.tar")
    files, shards = (objective(data, tokenizer, tmp_path / name) for name, data in (("a", images), ("b", packed)))
    assert data_of(shards).images.groups == (13,)

    def content(goal: GeneratorObjective) -> set[tuple[int, ...]]:
        rows = torch.arange(goal.images)
        tokens = data_of(goal).found(rows, rows * 0.0, SampleNoise(0, 0, goal.images, slice(None)))
        return {(int(label), *row.tolist()) for label, row in zip(labels_of(goal), tokens, strict=True)}

    assert content(files) == content(shards)
    assert len(content(files)) == 13


def test_more_likeliest_tokens_than_codes_are_refused_before_training(
    images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"sampling\.top_k is 900, but the tokenizer has 24 codes"):
        objective(images, tokenizer, tmp_path, "sampling.top_k=900")
