"""A converted model's classes get names: drawn by them, found by words, matched with folders of pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from nextscale.checkpoints.class_names import imagenet, read_class_names
from nextscale.checkpoints.published import PUBLISHED
from nextscale.errors import InputError
from tests.checkpoints.convert.test_var import OURS, SMALL, official_tokenizer, official_transformer
from tests.checkpoints.hub_server import running_hub, use
from tests.checkpoints.official import VAR_D1, official_files
from tests.cli.conftest import Command

IDS = ["n01440764", "n01443537", "n01484850"]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An official pair with three classes, 8x8 pixels."""
    monkeypatch.chdir(tmp_path)
    sizes = ((1, 1), (2, 2), (4, 4))
    torch.save(official_transformer(replace(SMALL, sizes=sizes)), "var.pth")
    torch.save(official_tokenizer(replace(OURS, sizes=sizes)), "vae.pth")


def folders(at: str, names: list[str], images: int = 0) -> None:
    for k, name in enumerate(names):
        (Path(at) / name).mkdir(parents=True)
        for i in range(images):
            Image.new("RGB", (8, 8), (40 * k, 6 * i, 99)).save(Path(at) / name / f"{i}.png")


def source(kind: str) -> str:
    """A file or folder that names the three classes tench, goldfish and great white shark."""
    short = ["tench", "goldfish", "great white shark"]
    pairs = list(zip(IDS, short, strict=True))
    contents = {
        "classnames.txt": "\ufefftench\r\ngoldfish\r\ngreat white shark\r\n\r\n",
        "synset_words.txt": "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"
        "n01484850 great white shark, white shark\n",
        "LOC_synset_mapping.txt": "\n".join(f"{wnid}\t{name}" for wnid, name in pairs),
        "imagenet_synsets.txt": "\n".join(IDS),
        "imagenet_class_index.json": json.dumps({str(i): pair for i, pair in reversed([*enumerate(pairs)])}),
        "id2label.json": json.dumps({"id2label": {str(i): name for i, name in enumerate(short)}}),
        "class_to_idx.json": json.dumps({name: i for i, name in enumerate(short)}),
        "wnid_to_idx.json": json.dumps({wnid: i for i, wnid in enumerate(IDS)}),
        "list.json": json.dumps(short),
        "classes.json": json.dumps({"names": short, "styles": [], "missing": [], "things": []}),
    }
    if kind == "folder":
        folders("folder", IDS[::-1])
        Path("folder/readme.txt").touch()
    else:
        Path(kind).write_bytes(contents[kind].encode())
    return kind


KINDS = [
    *("classnames.txt", "synset_words.txt", "LOC_synset_mapping.txt", "imagenet_synsets.txt"),
    *("imagenet_class_index.json", "id2label.json", "class_to_idx.json", "wnid_to_idx.json", "list.json"),
    *("classes.json", "folder"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_read_from_every_usual_list_and_from_a_folder(nextscale: Command, kind: str) -> None:
    done = nextscale("convert", "var.pth", "vae.pth", "-o", "out", "--class-names", source(kind))
    assert done.code == 0, done.err
    assert "classes: tench, goldfish, great white shark" in done.out
    listed = nextscale("generate", "--list-classes", "--model", "out")
    assert all(name in listed.out for name in ("tench", "goldfish", "great white shark"))
    assert nextscale("generate", "-c", "goldfish", "--model", "out", "-o", "a", "--seed", 1).code == 0
    assert nextscale("generate", "-c", 1, "--model", "out", "-o", "b", "--seed", 1).code == 0
    assert Path("a/goldfish-1.png").read_bytes() == Path("b/goldfish-1.png").read_bytes()


def test_a_class_is_found_by_words_and_by_its_wordnet_id(nextscale: Command) -> None:
    assert nextscale("convert", "var.pth", "vae.pth", "-o", "out", "--class-names", source("folder")).code == 0
    for words in ("a goldfish", "Carassius auratus", "n01443537"):
        done = nextscale("generate", words, "--model", "out", "-o", words, "--seed", 1)
        assert done.code == 0, done.err
        assert (Path(words) / "goldfish-1.png").is_file()


@pytest.mark.parametrize("names", [["n01443537"], ["n01443537", "n01484850"], ["goldfish", "n01440764"]])
def test_pictures_in_folders_by_wordnet_id_find_their_classes(nextscale: Command, names: list[str]) -> None:
    """Also where they are some of the classes only: the same numbers as under the model's own names."""
    assert nextscale("convert", "var.pth", "vae.pth", "-o", "out", "--class-names", source("folder")).code == 0
    own = dict(zip(IDS, ("tench", "goldfish", "great white shark"), strict=True))
    found = []
    for data, called in (("ids", names), ("names", [own.get(name, name) for name in names])):
        folders(data, called, 12)
        done = nextscale("evaluate", "out", "--data", data, "--split", "all", "--json", "--dtype", "float32")
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["generator"]["scores"])
    assert found[0]["total"]["loss"] == pytest.approx(found[1]["total"]["loss"], rel=1e-6)


def test_a_model_without_names_says_how_to_get_them(nextscale: Command) -> None:
    assert nextscale("convert", "var.pth", "vae.pth", "-o", "out").code == 0
    folders("data", ["n01443537"], 12)
    done = nextscale("evaluate", "out", "--data", "data", "--split", "all")
    assert (done.code, "nextscale convert --class-names" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a\nb\n", "2 class names were given (a, ..., b), but the transformer has 3 classes"),
        ("a\n\nb\n", "class 1 is called ''"),
        ("a\nb\x1b[31m\nc", "class 1 is called"),
        ("n02119789 1 kit_fox\nn02100735 2 setter\nn01440764 3 tench", "lists n02119789 before n02100735"),
        (b"\xff\xfe\x00", "names.txt is not text in UTF-8"),
        ("", "class 0 is called ''"),
    ],
)
def test_lists_that_do_not_fit_are_refused(nextscale: Command, content: str | bytes, sentence: str) -> None:
    Path("names.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = nextscale("convert", "var.pth", "vae.pth", "-o", "out", "--class-names", "names.txt")
    assert (done.code, Path("out").exists()) == (2, False)
    assert sentence in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    "text", ["{", "3", '{"a": "b"}', '{"0": 1, "1": 2, "2": 3}', '{"0": "a", "2": "b"}', "[[], [], []]", "[" * 10**5]
)
def test_json_that_names_nothing_is_refused(nextscale: Command, text: str) -> None:
    Path("names.json").write_text(text)
    done = nextscale("convert", "var.pth", "vae.pth", "-o", "out", "--class-names", "names.json")
    assert (done.code, Path("out").exists()) == (2, False)
    assert "names.json" in done.err


def test_names_need_a_place_and_a_transformer(nextscale: Command) -> None:
    Path("empty").mkdir()
    folders("splits", ["train", "val", "test"])
    for name, what in (
        ("none.txt", "no file or folder 'none.txt'"),
        ("", "--class-names is ''; expected a value"),
        ("empty", "holds no folders"),
        ("/dev/zero", "no file or folder"),
        ("splits", "give the folder of classes, splits/train"),
    ):
        done = nextscale("convert", "var.pth", "-o", "out", "--class-names", name)
        assert (done.code, what in done.err) == (2, True), done.err
    done = nextscale("convert", "vae.pth", "-o", "out", "--class-names", source("list.json"))
    assert "no transformer whose classes" in done.err


def test_names_that_several_classes_share_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("crane\ncafe\u0301\ncrane\ncaf\u00e9\n")
    names = read_class_names(tmp_path / "plain.txt").names
    assert names == ("crane (0)", "caf\u00e9 (1)", "crane (2)", "caf\u00e9 (3)")
    (tmp_path / "words.txt").write_text("n02012849 crane\nn03126707 crane\n")
    assert read_class_names(tmp_path / "words.txt").names == ("crane (n02012849)", "crane (n03126707)")


def test_imagenet_has_a_thousand_names_of_its_own() -> None:
    vocabulary = imagenet()
    assert len(vocabulary) == 1000
    assert [vocabulary.names[i] for i in (0, 1, 207, 999)] == ["tench", "goldfish", "golden retriever", "toilet tissue"]
    assert vocabulary.find("n01443537").class_id == 1
    ids = [thing.keywords[-1] for thing in vocabulary.things]
    assert ids == sorted(set(ids))
    assert len(ids) == 1000
    with pytest.raises(InputError, match="or imagenet-1k"):
        read_class_names("imagenet")


def test_published_models_have_imagenets_names(
    nextscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "var-d1", VAR_D1)
    with running_hub() as hub:
        hub.files |= official_files()
        use(hub, tmp_path / "hf", monkeypatch)
        assert nextscale("generate", "goldfish", "--model", "var-d1", "-o", "a", "--seed", 1).code == 0
        assert nextscale("convert", "var-d1", "-o", "small").code == 0
    assert Path("a/goldfish-1.png").is_file()
    assert json.loads(Path("small/classes.json").read_text())["names"][1] == "goldfish"
