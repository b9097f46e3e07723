"""``nextscale evaluate`` on a tiny model and real files: its answer, its JSON, and its one sentence when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nextscale import Pipeline, load
from nextscale.checkpoints.load import bundled_names
from nextscale.checkpoints.store import save_checkpoint
from nextscale.cli.console import DEFAULT_MODEL
from nextscale.cli.evaluate import _judge
from nextscale.conditions.classes import ClassVocabulary
from nextscale.conditions.text import TextConditioner
from nextscale.evaluation.subject import Subject
from nextscale.models.infinity import Infinity, InfinityConfig
from tests.cli.conftest import Command
from tests.conditions.tiny_t5 import WIDTH, reference, save_t5
from tests.evaluation.cells import CLASSES as CELL_CLASSES
from tests.evaluation.cells import STYLES as CELL_STYLES
from tests.evaluation.cells import draw_cells
from tests.evaluation.conftest import draw_emoji, draw_folder, tiny_classifier
from tests.makers import SIZES, tiny_bitwise, tiny_m_var, tiny_pipeline, tiny_pipeline_of_styles, tiny_tokenizer

CLASSES = ("cat-face", "animal-bird", "food-fruit", "flag", "tool")  # those of ``tiny_model``


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("pictures"), CLASSES)


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_emoji(tmp_path_factory.mktemp("sets") / "emoji", train=3, heldout=4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a classifier for the classes and styles of ``styled_model``."""
    vocabulary, folder = tiny_pipeline_of_styles().vocabulary, tmp_path_factory.mktemp("models") / "judge"
    save_checkpoint(folder, {"classifier": tiny_classifier(vocabulary.names, vocabulary.styles)})
    return folder


def test_the_answer_has_tables_bars_and_settings(nextscale: Command, tiny_model: Path, pictures: Path) -> None:
    done = nextscale("evaluate", tiny_model, "--data", pictures, "--device", "cpu", "--dtype", "float32")
    assert done.code == 0, done.err
    for words in (
        "Reconstruction",
        "Codebook: 48 codes",
        "Generator",
        "heldout: 10 images",
        "train: 15 images",
        "miss",
    ):
        assert words in done.out
    assert done.err == "tiny on cpu (as asked) in float32 (as asked)\n"


def test_json_has_the_same(nextscale: Command, tiny_model: Path, pictures: Path) -> None:
    words = ("evaluate", tiny_model, "--data", pictures, "--device", "cpu", "--dtype", "bfloat16", "--json")
    told = json.loads(nextscale(*words).out)
    assert told["settings"]["dtype"] == "bfloat16"
    assert len(told["settings"]["revision"]) == 12
    assert told["tokenizer"]["source"]["images"] == told["generator"]["train_source"]["images"] == 10
    assert [score["tokens"] for score in told["generator"]["scores"]["scales"]] == [1, 4, 9, 16]
    again = json.loads(nextscale(*words).out)
    for part in ("psnr_by_scale", "use"):
        assert again["tokenizer"][part] == told["tokenizer"][part]
    assert again["generator"]["scores"] == told["generator"]["scores"]


def test_a_checkpoint_of_a_tokenizer_alone(nextscale: Command, pictures: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "export", {"tokenizer": tiny_tokenizer()})
    done = nextscale("evaluate", "export", "--data", pictures, "--split", "train", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["generator"] is None
    assert told["tokenizer"]["source"]["images"] == 15
    assert "a tokenizer alone" in done.err


def test_damaged_images_are_mentioned(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", CLASSES)
    (folder / "val" / "flag" / "0.png").write_bytes(b"no picture")
    done = nextscale("evaluate", tiny_model, "--data", folder, "--json")
    assert done.code == 0, done.err
    assert "1 of 10 images cannot be read" in done.err
    assert json.loads(done.out)["settings"]["unreadable"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--data", "none"), "the data folder none does not exist"),
        (("--split", "test"), "there is no split 'test'; expected one of train, heldout, all"),
        (("--device", "gpu"), "there is no device 'gpu'"),
        (("--dtype", "int8"), "there is no dtype 'int8'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    nextscale: Command, tiny_model: Path, pictures: Path, words: tuple[str, ...], sentence: str
) -> None:
    data = () if "--data" in words else ("--data", pictures)
    done = nextscale("evaluate", tiny_model, *data, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"nextscale: {sentence}")
    assert done.err.count("\n") == 1


def test_what_does_not_fit_the_model_is_refused(
    nextscale: Command, tiny_model: Path, pictures: Path, tmp_path: Path
) -> None:
    draw_folder(tmp_path / "planets", ("cat-face", "planet"))
    draw_folder(tmp_path / "small", CLASSES, side=8)
    for data, sentence in (("planets", "does not know the data's class 'planet'"), ("small", "smaller than 16 pixels")):
        done = nextscale("evaluate", tiny_model, "--data", data)
        assert (done.code, done.out) == (2, "")
        assert sentence in done.err
    done = nextscale("evaluate", "nonsense", "--data", pictures)
    assert (done.code, done.out) == (2, "")
    assert "no model 'nonsense'" in done.err


def test_help_names_the_model_that_is_taken(nextscale: Command) -> None:
    told = nextscale("evaluate", "--help").out
    assert DEFAULT_MODEL in told
    assert DEFAULT_MODEL == "emoji-m-var"


def test_data_must_be_named(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("evaluate", tiny_model)
    assert done.code == 2
    assert "--data" in done.err


def test_several_models_are_compared(nextscale: Command, tiny_model: Path, pictures: Path, tmp_path: Path) -> None:
    pipe = load(tiny_model, dtype="float32")
    pipe.model, pipe.name = tiny_m_var(), "other"
    pipe.save_pretrained(tmp_path / "other")
    words = ("evaluate", tiny_model, tmp_path / "other", "--data", pictures, "--dtype", "float32", "--json")
    done = nextscale(*words)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [model["name"] for model in told["models"]] == ["tiny", "other"]
    assert told["settings"]["images"] == 10
    assert told["ratios"]["images/s"][0] > 0


def test_a_classifier_judges_and_pictures_are_written(
    nextscale: Command, styled_model: Path, emoji: Path, classifier: Path, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "other", {"tokenizer": tiny_tokenizer()}, {"name": "other"})
    words = ("evaluate", styled_model, "--data", emoji, "--dtype", "float32", "--classifier", classifier)
    done = nextscale(*words, "--generated", 12, "--against", "other", "--out", "pictures")
    assert done.code == 0, done.err
    for shown in (
        "Styles: tiny and, right of it, other",
        "style named  in originals",
        "Generated: 12 images with seeds 0 to 11",
        "not the FID",
    ):
        assert shown in done.out
    for shown in (
        f"classifier: {classifier}, revision",
        "nearest: pictures/nearest.png",
        "distances: pictures/distances",
    ):
        assert shown in done.err
    for name in ("nearest", "distances"):
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert picture.width > 500
    told = json.loads(nextscale(*words, "--json").out)
    shares = [style["named"]["originals"] * style["psnr"]["count"] for style in told["tokenizer"]["styles"]]
    assert sum(shares) / told["tokenizer"]["psnr"]["count"] == pytest.approx(told["tokenizer"]["named"]["originals"])
    told = json.loads(nextscale(*words, "--generated", 12, "--guidance-scale", 3, "--steps", 4, "--json").out)
    assert (told["generated"]["sampling"]["guidance_scale"], told["generated"]["sampling"]["steps"]) == (3, 4)
    assert told["settings"]["classifier"] == str(classifier)
    assert told["generated"]["source"]["images"] == 36


def test_drawings_are_painted_in(
    nextscale: Command, styled_model: Path, emoji: Path, classifier: Path, tmp_path: Path
) -> None:
    words = ("evaluate", styled_model, "--data", emoji, "--dtype", "float32", "--classifier", classifier, "--painting")
    done = nextscale(*words, "--out", "pictures", "--top-k", 5)
    assert done.code == 0, done.err
    for shown in (
        "Painting: a box of 36 drawings painted anew as what they are, seeds 0 to 35, top_k 5",
        "painted, above a box of the mean colour",
        "border / inside, painted, without paste",
        "random boxes: class recognised, above a white box",
    ):
        assert shown in done.out
    for name in ("painting, centre box", "painting, random boxes"):
        assert (tmp_path / "pictures" / f"{name}.png").is_file()
    told = json.loads(nextscale(*words, "--json").out)
    assert [one["name"] for one in told["painting"]["boxes"]] == ["centre box", "random boxes"]
    assert told["painting"]["boxes"][0]["recognised"]["white box"]["images"] == 36


def test_a_tokenizer_alone_cannot_paint(nextscale: Command, pictures: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "export", {"tokenizer": tiny_tokenizer()})
    done = nextscale("evaluate", "export", "--data", pictures, "--painting")
    assert (done.code, done.out) == (2, "")
    assert "is a tokenizer alone; expected a model with a generator to paint with" in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--generated", "-1"), "--generated is -1; expected a number of images"),
        (("--generated", "9" * 20), f"--generated is {'9' * 20}; expected a number of images up to 100,000"),
        (("--generated", "2", "--out", "a.png"), "--out a.png is one file, but 2 pictures would be written"),
        (("--generated", "2", "--out", "/dev/null"), "/dev/null is a device"),
        (("--top-p", "0.5"), "--top-p is for generated images; expected --generated with their number"),
        (("--steps", "4"), "--steps is for generated images; expected --generated with their number"),
        (("--painting", "--steps", "3"), "steps is 3; this VAR was trained on the scales 1 2 3 4 and draws no others"),
        (("--out", "pictures"), "--out pictures is for pictures of generated images; expected --generated"),
        (("other", "--against", "third"), "--against is for one model, and 2 were named"),
        (("other", "--painting"), "--painting is for one model, and 2 were named; expected one, or no --painting"),
        (("--classifier", "none"), "there is no model 'none'"),
        (("--against", "none"), "there is no model 'none'"),
        (("--split", "train", "--generated", "9", "--classifier", "CLASSIFIER"), "generated images are held against"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    nextscale: Command, styled_model: Path, emoji: Path, classifier: Path, words: tuple[str, ...], sentence: str
) -> None:
    named = (str(classifier) if word == "CLASSIFIER" else word for word in words)
    done = nextscale("evaluate", styled_model, *named, "--data", emoji)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(f"nextscale: {sentence}")
    assert not Path("pictures").exists()


def test_a_model_is_no_classifier(nextscale: Command, styled_model: Path, emoji: Path) -> None:
    done = nextscale("evaluate", styled_model, "--data", emoji, "--classifier", styled_model)
    assert (done.code, done.out) == (2, "")
    assert "has no classifier; it has tokenizer, model" in done.err


@pytest.mark.skipif("classifier" not in bundled_names("classifier"), reason="the bundled classifier is not there")
def test_the_bundled_classifier_judges_the_bundled_models() -> None:
    pipe = load("emoji", device="cpu", dtype="float32")
    judge = _judge(None, Subject(pipe.name, pipe.revision, pipe.tokenizer, pipe.model, pipe.vocabulary))
    assert judge is not None
    assert judge.name == "classifier"


def test_small_images_are_left_out_where_that_is_wanted(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    pictures = draw_folder(tmp_path / "pictures", CLASSES)
    Image.new("RGB", (9, 9)).save(pictures / "val" / "flag" / "tiny.png")
    words = ("evaluate", tiny_model, "--data", pictures, "--device", "cpu", "--json")
    refused = nextscale(*words)
    assert (refused.code, "--skip-small" in refused.err) == (2, True)
    for models in ((), (tiny_model,)):
        done = nextscale(*words, *models, "--skip-small")
        assert (done.code, "1 of 11 images are smaller" in done.err) == (0, True), done.err
        assert json.loads(done.out)["settings"]["images"] == 10


def test_a_class_is_known_however_its_name_is_spelled(nextscale: Command, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.vocabulary = ClassVocabulary(("cafe\u0301", *CLASSES[1:]))
    pictures = draw_folder(tmp_path / "pictures", ("caf\u00e9",))
    pipe.save_pretrained(tmp_path / "model")
    done = nextscale("evaluate", tmp_path / "model", "--data", pictures, "--device", "cpu", "--json")
    assert done.code == 0, done.err


def test_a_model_that_draws_emoji_from_text_has_bars_unless_nobody_wants_them(
    nextscale: Command, tmp_path: Path
) -> None:
    cells = draw_cells(tmp_path / "cells")
    save_checkpoint(tmp_path / "judge", {"classifier": tiny_classifier(CELL_CLASSES, CELL_STYLES)})
    save_t5(tmp_path / "encoder")
    sizes = {"text_width": WIDTH, "text_length": 16, "text_heads": 2, "sizes": SIZES}
    model = Infinity(InfinityConfig(depth=1, width=16, heads=2, hidden=32, bits=3, **sizes))  # type: ignore[arg-type]
    Pipeline(tiny_bitwise(), model, TextConditioner(reference(tmp_path / "encoder"))).save_pretrained(tmp_path / "text")
    words = ("evaluate", "text", "--data", cells, "--dtype", "float32", "--classifier", "judge")
    done = nextscale(*words, "--generated", 4, "--guidance-scale", 2, "--out", "pictures")
    assert done.code == 0, done.err
    for shown in ("text gain on held-out cells", "Held-out cells: 1 prompt;", "guidance_scale 2", "(b) cells"):
        assert shown in done.out
    for name in ("seen", "cells", "families"):
        assert f"{name}: pictures/{name}.png" in done.err
        assert (tmp_path / "pictures" / f"{name}.png").is_file()
    told = json.loads(nextscale(*words, "--generated", 0, "--json").out)
    assert told["from_text"] is None
    refused = nextscale(*words, "--generated", 0, "--top-p", 0.5)
    assert (refused.code, refused.out) == (2, "")
    assert "--top-p is for generated images" in refused.err
