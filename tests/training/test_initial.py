"""Starting from a checkpoint keeps what it knew: weights, classes and styles; another architecture is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nextscale.checkpoints.load import load_conditioner
from nextscale.checkpoints.store import load_component
from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.errors import CheckpointError, InputError, TrainingError
from nextscale.training.initial import Origin, known_labels, merged
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.training.tiny import TINY, classes_of, write_images

VAR = [*TINY["var"], "schedule.epochs=null", "schedule.steps=3"]


def test_the_datas_classes_come_first_and_the_known_ones_stay() -> None:
    known = ClassVocabulary(("cat", "dog"), (Thing("kitten", 0), Thing("puppy", 1)), ("noto", "flat"))
    data = ClassVocabulary(("dog", "bird"), (Thing("puppy", 0), Thing("duck", 1)), ("ink", "noto"))
    both = merged(data, known)
    assert both.names == ("dog", "bird", "cat")
    assert both.styles == ("ink", "noto", "flat")
    assert [(thing.name, both.names[thing.class_id]) for thing in both.things] == [
        ("puppy", "dog"),
        ("duck", "bird"),
        ("kitten", "cat"),
    ]
    named = {(style, name): i for i, (style, name) in enumerate((s, n) for s in both.styles for n in both.names)}
    old = {(style, name): i for i, (style, name) in enumerate((s, n) for s in known.styles for n in known.names)}
    assert known_labels(both, known) == {named[label]: i for label, i in old.items()}


def test_what_neither_side_has_seen_is_missing() -> None:
    known = ClassVocabulary(("cat", "dog"), (), ("noto", "flat"), frozenset({("flat", "dog"), ("noto", "dog")}))
    data = ClassVocabulary(("dog", "bird"), (), ("ink", "noto"), frozenset({("ink", "bird")}))
    both = merged(data, known)
    assert both.missing == {("ink", "bird"), ("ink", "cat"), ("flat", "dog"), ("flat", "bird")}
    plain = ClassVocabulary(("bird",))  # its images are taken for the first style
    assert merged(plain, known).missing == known.missing | {("flat", "bird")}
    assert merged(data, plain).missing == set()  # what knew no styles is known in all of them
    assert merged(plain, ClassVocabulary(("cat",))).missing == set()


def test_without_styles_classes_are_matched_by_name_alone() -> None:
    known = ClassVocabulary(("cat", "dog"))
    assert known_labels(ClassVocabulary(("dog",), (), ("a", "b")), known) == {0: 1, 1: 1}
    assert known_labels(merged(ClassVocabulary(("bird",)), known), known) == {1: 0, 2: 1}


@pytest.fixture(scope="module")
def known(images: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a VAR that knows the classes cold and warm."""
    output = tmp_path_factory.mktemp("known") / "var"
    start("var", "var-emoji", images, output, str(tokenizer), VAR, "cpu").run()
    return output


@pytest.fixture(scope="module")
def other_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, a new one and warm."""
    folder = write_images(tmp_path_factory.mktemp("others"))
    for side in ("train", "val"):
        (folder / side / "cold").rename(folder / side / "tepid")
    return folder


def started(images: Path, output: Path, known: Path, *more: str, kind: str = "var") -> Trainer:
    overrides = [*VAR, *more] if kind == "var" else [*TINY["m-var"], *more]
    return start(kind, f"{kind}-emoji", images, output, None, overrides, "cpu", init=str(known))


def test_a_generator_starts_from_the_weights_and_keeps_its_classes(
    other_images: Path, known: Path, tmp_path: Path
) -> None:
    trainer = started(other_images, tmp_path / "run", known)
    old = load_component(known / "export", "model").state_dict()
    new = trainer.objective.module.state_dict()
    assert [key for key in old if key != "class_embedding.weight" and not torch.equal(old[key], new[key])] == []
    assert all(torch.equal(new[key], value) for key, value in trainer.average.module.state_dict().items())
    was, rows = old["class_embedding.weight"], new["class_embedding.weight"]
    tepid, warm, cold, null = range(4)
    assert torch.equal(rows[[cold, warm, null]], was)
    apart = (rows[tepid] - was[:2].mean(0)).norm()
    assert 0 < apart < 3 * trainer.objective.module.get_parameter("class_embedding.weight").std() * rows.shape[1] ** 0.5

    trainer.run()
    folder = tmp_path / "run" / "export"
    assert load_conditioner(folder, {"class": 3}).lists()["classes"] == ["tepid", "warm", "cold"]
    started(other_images, tmp_path / "run", known).run()  # the same command again is no other run


def test_a_checkpoint_that_numbers_its_classes_takes_the_names_of_as_many(
    other_images: Path, known: Path, tmp_path: Path
) -> None:
    """As those of the official weights, whose classes count in alphabetical order."""
    numbered = shutil.copytree(known / "export", tmp_path / "numbered")
    (numbered / "classes.json").unlink()
    trainer = started(other_images, tmp_path / "run", numbered)
    assert isinstance(trainer.objective, GeneratorObjective)
    assert classes_of(trainer.objective).names == ("tepid", "warm")
    old = load_component(numbered, "model").state_dict()["class_embedding.weight"]
    assert torch.equal(trainer.objective.module.state_dict()["class_embedding.weight"], old)
    assert trainer.objective.warnings == []


def test_imagenets_classes_are_matched_by_the_ids_that_folders_of_pictures_have(
    images: Path, known: Path, tmp_path: Path
) -> None:
    """One of two classes is known under its name, and its folder is called by its WordNet ID."""
    folder = shutil.copytree(known / "export", tmp_path / "named")
    things = [["goldfish", 0, "Carassius auratus|n01443537"], ["tench", 1, "n01440764"]]
    (folder / "classes.json").write_text(json.dumps({"names": ["goldfish", "tench"], "things": things}))
    data = shutil.copytree(images, tmp_path / "data")
    for side in ("train", "val"):
        for old, new in (("cold", "n01443537"), ("warm", "zebra")):
            (data / side / old).rename(data / side / new)
    trainer = started(data, tmp_path / "run", folder)
    assert isinstance(trainer.objective, GeneratorObjective)
    assert classes_of(trainer.objective).names == ("n01443537", "zebra", "tench")
    old_rows = load_component(folder, "model").state_dict()["class_embedding.weight"]
    rows = trainer.objective.module.state_dict()["class_embedding.weight"]
    assert torch.equal(rows[[0, 2, 3]], old_rows)


def test_the_tokens_of_another_tokenizer_are_warned_of(
    images: Path, tokenizer: Path, known: Path, tmp_path: Path
) -> None:
    overrides, origin = [*TINY["tokenizer"], "run.seed=4"], str(known)
    start("tokenizer", "tokenizer-emoji", images, tmp_path / "other", None, overrides, "cpu").run(1)
    for name, frozen in (("own", tokenizer), ("another", tmp_path / "other")):
        trainer = start("var", "var-emoji", images, tmp_path / name, str(frozen), VAR, "cpu", init=origin)
        said = [text for text in trainer.objective.warnings if "was trained on the tokens of another tokenizer" in text]
        assert bool(said) == (name == "another")


def test_images_without_styles_are_said_to_be_of_the_first(tokenizer: Path, known: Path, tmp_path: Path) -> None:
    """And such a model is evaluated on them, since it has seen their classes in one style."""
    styled = shutil.copytree(known / "export", tmp_path / "styled")
    told = {"names": ["cold"], "styles": ["noto", "flat"]}
    (styled / "classes.json").write_text(json.dumps(told))
    origin = Origin.load(str(styled), "model")
    frozen, data = load_component(tokenizer / "export", "tokenizer"), ClassVocabulary(("warm",))
    assert origin.doubts(frozen, data) == [f"the images have no styles; they are taken for the first of {styled}, noto"]
    assert origin.doubts(frozen, ClassVocabulary(("warm",), styles=("flat",))) == []


def test_a_tokenizer_starts_from_the_weights_and_draws_no_new_codebook(
    other_images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    output, overrides = tmp_path / "run", [*TINY["tokenizer"], "loss.l1=0.7"]
    trainer = start("tokenizer", "tokenizer-emoji", other_images, output, None, overrides, "cpu", init=str(tokenizer))
    trainer.run(1)
    before = load_component(tokenizer / "export", "tokenizer").state_dict()["quantizer.codebook.weight"]
    after = trainer.objective.module.state_dict()["quantizer.codebook.weight"]
    assert 0 < (after - before).abs().max() < 0.01  # one step of the optimiser, and nothing else


def test_a_refined_decoder_leaves_what_encodes_as_it_was(
    other_images: Path, tokenizer: Path, eyes: Path, tmp_path: Path
) -> None:
    adversarial = "loss.adversarial={weight: 0.1, start: 0, width: 8, layers: 2}"
    perceptual = f"loss.perceptual={{weight: 0.01, network: '{eyes}'}}"
    overrides = [*TINY["tokenizer"], "decoder_only=true", "run.export=last", "optim.lr=1e-3", adversarial, perceptual]
    run = tmp_path / "run"
    start("tokenizer", "tokenizer-emoji", other_images, run, None, overrides, "cpu", init=str(tokenizer)).run(2)
    start("tokenizer", "tokenizer-emoji", other_images, run, None, overrides, "cpu", init=str(tokenizer)).run()
    before, after = (load_component(folder / "export", "tokenizer").state_dict() for folder in (tokenizer, run))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_a_decoder_cannot_be_refined_without_what_encodes(images: Path, tmp_path: Path) -> None:
    overrides = [*TINY["tokenizer"], "decoder_only=true"]
    with pytest.raises(InputError, match="name the tokenizer it is in with --init"):
        start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, overrides, "cpu")


def test_another_architecture_is_refused_with_the_reason(
    images: Path, known: Path, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="another architecture: its width is 16, but the recipe means 32"):
        started(images, tmp_path / "a", known, "model.width=32")
    with pytest.raises(CheckpointError, match="holds a model of type var, but the recipe trains one of type m_var"):
        started(images, tmp_path / "b", known, kind="m-var")
    with pytest.raises(CheckpointError, match="has no model; it has tokenizer"):
        started(images, tmp_path / "c", tokenizer)
    with pytest.raises(CheckpointError, match="nowhere"):
        started(images, tmp_path / "d", Path("nowhere"))
    assert list(tmp_path.iterdir()) == []
    overrides = ["data.resolution=16", "run.precision=fp32"]
    with pytest.raises(CheckpointError, match=r"its names is face-smiling, .* and 95 more, but the recipe means"):
        start("classifier", "classifier-emoji", images, tmp_path / "e", None, overrides, "cpu", init="classifier")


def test_a_run_that_started_elsewhere_is_not_resumed(
    images: Path, known: Path, tokenizer: Path, tmp_path: Path
) -> None:
    start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), VAR, "cpu").run(1)
    with pytest.raises(TrainingError, match=r"data\.init"):
        started(images, tmp_path / "run", known)
