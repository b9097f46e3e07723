"""Tokenizers of bits and models of texts are measured as those of codes and classes are, in words of their own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nextscale.checkpoints.store import load_component
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.evaluation import tokenizer_report
from nextscale.evaluation.compare import compare, comparison_text
from nextscale.evaluation.report import Report, evaluate
from nextscale.evaluation.subject import Judge, Subject, sample_rows
from nextscale.evaluation.table import text
from nextscale.measures.tokenizer import BitUse, bit_use, encode_all
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.tokenizers.base import Tokenizer
from tests.conditions.tiny_t5 import WIDTH
from tests.makers import randomise, tiny_tokenizer
from tests.training.tiny import SIDE, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def reader(world: Path) -> Subject:
    """A model of texts with random weights."""
    tokenizer = load_component(world / "tokenizer", "tokenizer")
    assert isinstance(tokenizer, Tokenizer)
    sizes = {"text_width": WIDTH, "text_length": 16, "text_heads": 2, "sizes": tokenizer.schedule.sizes}
    model = Infinity(InfinityConfig(depth=2, width=16, heads=2, hidden=32, bits=6, **sizes))  # type: ignore[arg-type]
    randomise(model)
    conditioner = TextConditioner(EncoderReference(str(world / "encoder"), width=WIDTH, length=16))
    return Subject("reader", "0123456789ab", tokenizer, model.eval(), conditioner)


@pytest.fixture(scope="module")
def report(reader: Subject, world: Path) -> Report:
    return evaluate(reader, world / "pictures")


def test_of_many_training_images_a_sample_shows_how_bits_are_used(
    report: Report, reader: Subject, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator's loss in training is that of the same images all the same."""
    monkeypatch.setattr(tokenizer_report, "ENOUGH", 6)
    few = evaluate(reader, world / "pictures")
    train = load_data(world / "pictures", SIDE, "train")
    maps = encode_all(reader.tokenizer, train, rows=sample_rows(len(train), 6))
    assert (few.tokenizer.use, few.tokenizer.use_by_scale) == bit_use(maps)
    assert few.tokenizer.use != report.tokenizer.use
    assert (few.tokenizer.codes_source.images, report.tokenizer.codes_source.images) == (6, len(train))
    assert few.generator is not None
    assert report.generator is not None
    assert few.generator.train == report.generator.train


def table(report: Report, title: str) -> str:
    (found,) = (part for part in text(report).split("\n\n") if part.startswith(title))
    return found


def test_the_use_of_bits_is_their_entropy_and_how_many_are_stuck(report: Report, reader: Subject, world: Path) -> None:
    maps = encode_all(reader.tokenizer, load_data(world / "pictures", SIDE, "train"))
    t = report.tokenizer
    scales = [bits.flatten(0, -2).double() for bits in maps]
    for bits, use in zip((torch.cat(scales), *scales), (t.use, *t.use_by_scale), strict=True):
        assert isinstance(use, BitUse)
        ones = bits.mean(0)
        entropy = torch.distributions.Bernoulli(ones).entropy() / torch.log(torch.tensor(2.0))
        assert use.entropy == pytest.approx(float(entropy.nan_to_num().mean()), abs=1e-6)
        assert use.stuck == pytest.approx(float((torch.minimum(ones, 1 - ones) < 0.01).double().mean()))
    shown = table(report, "Bits: 6 in a token\ntrain: 20 images")
    assert isinstance(t.use, BitUse)
    assert shown.splitlines()[-1].split() == ["all", f"{t.use.entropy:.3f}", f"{100 * t.use.stuck:.1f}", "%"]
    assert "odebook" not in text(report)
    assert [bar.name for bar in report.bars] == ["PSNR, dB"]
    assert set(report.to_dict()["tokenizer"]["use"]) == {"bits", "entropy", "stuck"}


def test_a_model_of_texts_is_measured_by_the_captions_of_each_image(
    report: Report, reader: Subject, world: Path
) -> None:
    heldout = load_data(world / "pictures", SIDE, "heldout", captions=True)
    assert heldout.captions is not None
    assert (reader.conditioner, reader.model) != (None, None)
    features = reader.conditioner.features([{"prompt": one.text} for one in heldout.captions])  # type: ignore[union-attr]
    encoded = reader.tokenizer.follow(encode_all(reader.tokenizer, heldout))
    with torch.no_grad():
        logits = reader.model(encoded.inputs, reader.model.condition(features))  # type: ignore[misc, union-attr]
    bits = torch.cat([one.flatten(1, 2) for one in encoded.tokens], 1)
    g = report.generator
    assert g is not None
    assert g.scores.total.loss == pytest.approx(float(F.cross_entropy(logits.flatten(0, 2), bits.flatten())), rel=1e-4)
    assert len(g.scores.scales) == 3
    assert "nats per bit (a uniform guess: 0.693)" in table(report, "Generator")
    assert f"captions {heldout.caption_hash}"[:21] in text(report).splitlines()[1]


def test_what_a_text_model_cannot_be_measured_by_is_refused(
    reader: Subject, world: Path, judge: Judge, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(world / "pictures", folder)
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match="has no captions, and a text model reads them; expected a meta"):
        evaluate(reader, folder)
    assert evaluate(replace(reader, model=None, conditioner=None), folder).generator is None
    with pytest.raises(InputError, match="reader reads captions; expected a model of classes, or no --generated"):
        evaluate(reader, world / "pictures", judge=judge, generated=4)


def test_models_in_one_table_say_what_each_loss_is_counted_in(reader: Subject, subject: Subject, world: Path) -> None:
    both = compare([reader, replace(reader, name="other")], world / "pictures")
    alone = evaluate(reader, world / "pictures").generator
    assert alone is not None
    assert [one.scores for one in both.models] == [alone.scores] * 2
    assert "nats per bit, all coarser scales given" in comparison_text(both)
    settings = {**both.settings, "of_bits": ["other"]}
    assert "nats per token (other: per bit), all coarser" in comparison_text(replace(both, settings=settings))


def test_models_of_texts_and_of_classes_are_not_compared_on_emoji(reader: Subject, emoji: Path) -> None:
    both = [reader, replace(reader, name="classes", conditioner=None)]
    with pytest.raises(InputError, match="classes reads no captions, and the emoji set holds out other drawings"):
        compare(both, emoji)


def test_tokenizers_of_bits_and_of_codes_stand_side_by_side(reader: Subject, world: Path) -> None:
    codes = Subject("codes", "ddddeeeeffff", tiny_tokenizer())
    report = evaluate(replace(reader, model=None, conditioner=None), world / "pictures", against=codes)
    assert "reader revision" in table(report, "Bits: 6 in a token")
    assert "codes revision" in table(report, "Codebook: ")


def test_a_model_of_texts_paints_what_the_captions_say(reader: Subject, world: Path) -> None:
    report = evaluate(reader, world / "pictures", painting=True)
    assert report.painting is not None
    assert report.painting.unjudged == "no classifier is at hand"
    assert report.painting.source == report.generator.source  # type: ignore[union-attr]
    assert "difference, dB" in table(report, "Painting")
    assert "painted" not in report.to_dict()
    assert len(report.to_dict()["painting"]["boxes"]) == 2
