"""Training a feature network: it learns class and style, its noise is keyed by sample, its numbers are right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.checkpoints.load import load_classifier, load_perceptual
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData, InMemory
from nextscale.errors import InputError
from nextscale.features.classifier import Prediction
from nextscale.training.classifier_recipe import ClassifierRecipe
from nextscale.training.objectives.classifier import ClassifierObjective, cut_out, hits
from nextscale.training.objectives.images import to_signed
from nextscale.training.order import SampleNoise
from nextscale.training.recipe import load_recipe
from nextscale.training.start import start
from tests.training.tiny import SIDE, TINY

CPU = torch.device("cpu")
PLAIN = ["data.flip=0", "data.shift=0", "data.recolour=0", "data.cut_out=0"]


def noise(images: int, part: slice = slice(None)) -> SampleNoise:
    return SampleNoise(0, 0, images, part)


def styled(folder: Path, split: str) -> ImageData:
    """The images of a split, each as it is and darkened: two styles."""
    data = load_data(folder, SIDE, split)
    pixels = torch.cat([data.images, data.images // 4])
    styles = torch.arange(2).repeat_interleave(len(data))
    return dataclasses.replace(
        data,
        pictures=InMemory(pixels, SIDE),
        labels=data.labels.repeat(2),
        names=data.names * 2,
        style_labels=styles,
        styles=["bright", "dark"],
    )


def objective(images: Path, *more: str) -> ClassifierObjective:
    recipe = load_recipe("classifier-emoji", [*TINY["classifier"], *PLAIN, *more])
    assert isinstance(recipe, ClassifierRecipe)
    torch.manual_seed(0)
    heldout = styled(images, "heldout")
    return ClassifierObjective(recipe, styled(images, "train"), heldout, heldout.names, CPU)


def fed(goal: ClassifierObjective) -> Tensor:
    """What the network sees in a step over all training images."""
    caught: list[Tensor] = []
    handle = goal.module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    goal.loss(goal.module, torch.arange(goal.images), noise(goal.images))
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("network", ["classifier", "perceptual"])
def test_class_and_style_are_learnt(network: str, images: Path) -> None:
    goal = objective(images, f"model.network={network}", "model.widths=[8, 16]")
    before = goal.validate(goal.module.eval())
    optimizer = torch.optim.AdamW(goal.module.parameters(), 1e-2)
    for _ in range(40):
        goal.loss(goal.module, torch.arange(goal.images), noise(goal.images))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = goal.validate(goal.module)
    assert after["accuracy"] == after["style_accuracy"] == 1.0
    assert after["loss"] < 0.7 * before["loss"]


def test_the_style_counts_with_its_weight(images: Path) -> None:
    losses = {}
    for weight in (0.0, 0.5):
        goal = objective(images, f"loss.style={weight}")
        loss, numbers = goal.loss(goal.module, torch.arange(6), noise(6))
        losses[weight] = float(loss.detach())
    assert losses[0.5] == pytest.approx(losses[0.0] + 0.5 * float(numbers["style_loss"]), rel=1e-5)


def test_data_without_styles_have_a_loss_without_them(images: Path) -> None:
    goal = objective(images)
    data = {split: load_data(images, SIDE, split) for split in ("train", "heldout")}
    plain = ClassifierObjective(goal.recipe, data["train"], data["heldout"], data["heldout"].names, CPU)
    loss, numbers = plain.loss(plain.module, torch.arange(6), noise(6))
    assert loss.isfinite()
    assert "style_accuracy" not in {**numbers, **plain.validate(plain.module)}


def test_some_classes_are_never_mirrored(images: Path) -> None:
    goal = objective(images, "data.flip=1.0", "data.unmirrored=[warm]")
    seen, given = fed(goal), to_signed(goal.train.images, CPU)
    warm = goal.labels == goal.train.classes.index("warm")
    assert torch.equal(seen[warm], given[warm])
    assert torch.equal(seen[~warm], given[~warm].flip(-1))


def test_every_kind_of_noise_changes_training_images_alone(images: Path) -> None:
    given = to_signed(objective(images).train.images, CPU)
    assert torch.equal(fed(objective(images)), given)
    for noisy in ("data.shift=3", "data.recolour=1.0", "data.cut_out=0.5"):
        goal = objective(images, noisy)
        assert not torch.equal(fed(goal), given)
        assert goal.validate(goal.module.eval()) == objective(images).validate(objective(images).module.eval())


def test_a_cut_is_one_grey_square_of_at_most_its_side() -> None:
    cut = cut_out(torch.ones(64, 3, 20, 20), 0.4, noise(64))
    grey = (cut == 0).all(1)
    assert torch.equal(grey, (cut == 0).any(1))
    rows, columns = grey.any(2).sum(1), grey.any(1).sum(1)
    assert torch.equal(grey.sum((1, 2)), rows * columns)
    assert (int(rows.max()), int(columns.max())) == (8, 8)
    assert int(rows.min()) < 8  # cut off by the edge
    assert len(grey.flatten(1).unique(dim=0)) > 50


def test_a_cut_belongs_to_its_sample_however_the_batch_is_split() -> None:
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    whole = cut_out(images, 0.5, noise(6))
    parts = [cut_out(images[part], 0.5, noise(6, part)) for part in (slice(0, 2), slice(2, 6))]
    assert torch.equal(whole, torch.cat(parts))


def test_hits_are_labels_among_the_most_likely() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0]])
    labels = torch.tensor([0, 1, 1])
    assert hits(logits, labels).tolist() == [1, 0, 0]
    assert hits(logits, labels, 2).tolist() == [1, 1, 0]
    assert hits(logits, labels, 9).tolist() == [1, 1, 1]


def test_validation_is_what_its_names_say(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against logits made by hand: class 0 for every image, and half of the styles right."""
    goal = objective(images)
    labels, styles = goal.heldout.labels, goal.heldout.style_labels
    said = Prediction(torch.tensor([[2.0, 0.0]]).expand(len(labels), 2), F.one_hot(torch.zeros_like(styles), 2).float())
    monkeypatch.setattr(goal, "_heldout", lambda _: said)
    goal.wide = labels == 0
    found = goal.validate(goal.module)
    assert found["accuracy"] == pytest.approx(float((labels == 0).float().mean()))
    assert (found["top5"], found["accuracy_wide"], found["style_accuracy"]) == (1.0, 1.0, 0.5)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(said.classes, labels)))
    goal.wide = labels < 0
    assert "accuracy_wide" not in goal.validate(goal.module)


def test_a_stopped_run_ends_like_one_that_was_not(images: Path, tmp_path: Path) -> None:
    def run(name: str, *steps: int | None) -> bytes:
        overrides = [*TINY["classifier"], "schedule.epochs=null", "schedule.steps=6", "data.cut_out=0.5"]
        for until in steps:
            start("classifier", "classifier-emoji", images, tmp_path / name, None, overrides, "cpu").run(until)
        return (tmp_path / name / "export" / "classifier.safetensors").read_bytes()

    assert run("parts", 2, None) == run("whole", None)
    assert run("parts", None) != run("other", 5)


@pytest.mark.parametrize(("network", "load"), [("classifier", load_classifier), ("perceptual", load_perceptual)])
def test_the_export_knows_its_classes(network: str, load: object, images: Path, tmp_path: Path) -> None:
    overrides = [*TINY["classifier"], "schedule.epochs=null", "schedule.steps=1"]
    start("classifier", f"{network}-emoji", images, tmp_path / "run", None, overrides, "cpu").run()
    assert load(tmp_path / "run" / "export").config.names == ("cold", "warm")  # type: ignore[operator]
    assert (tmp_path / "run" / "samples" / "step-000001.png").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.network=resnet", r"model.network: input should be 'classifier' or 'perceptual' \(found 'resnet'\)"),
        ("model.widht=[8]", "did you mean 'model.widths'"),
        ("model.widths=[12, 16]", "the widths are 12, 16; expected multiples of 8"),
        ("data.cut_out=2", "less than or equal to 1"),
    ],
)
def test_what_a_recipe_may_not_say(override: str, message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        start("classifier", "classifier-emoji", images, tmp_path / "run", None, [*TINY["classifier"], override], "cpu")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_is_of_no_use(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tokenizer x was given, but a classifier recipe needs none"):
        start("classifier", "classifier-emoji", images, tmp_path / "run", "x", TINY["classifier"], "cpu")
