"""``nextscale edit`` paints in a picture, writes it with a recipe, and refuses before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.makers import tiny_flexvar, tiny_pipeline


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A picture of 30x20 pixels and masks beside it, in the folder of the command."""
    Image.effect_noise((30, 20), 90).convert("RGB").save(tmp_path / "photo.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[4:12, 10:22] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.new("L", (20, 30)).save(tmp_path / "turned.png")
    return tmp_path / "photo.png"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("where", [("--mask", "mask.png"), ("--box", "10,4,12,8")])
def test_a_picture_is_painted_and_repeated(
    where: tuple[str, str], source: Path, tiny_model: Path, nextscale: Command, tmp_path: Path
) -> None:
    words = ["edit", "photo.png", *where, "-c", "flag", "--model", tiny_model]
    done = nextscale(*words, "--seed", 3, "--smooth", "-o", "edited.png")
    assert done.code == 0
    assert done.out == "edited.png, seed 3\n"
    changed = (pixels(tmp_path / "edited.png") != pixels(source)).any(-1)
    assert changed[4:12, 10:22].any()
    changed[4:12, 10:22] = False
    assert not changed.any()
    again = ["edit", "photo.png", "--like", "edited.png", "--model", tiny_model, "-o", "again.png"]
    assert nextscale(*again, *(where if "--mask" in where else ())).code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "edited.png").read_bytes()


def test_several_pictures_go_into_a_folder(source: Path, tiny_model: Path, nextscale: Command, tmp_path: Path) -> None:
    words = ["edit", "photo.png", "grinning cat", "red apple", "--model", tiny_model, "-n", 2, "--seed", 5, "--json"]
    done = nextscale(*words, "--outpaint", "left=2, top=3", "--rule", "canvases", "--no-paste", "--top-k", 9)
    told = json.loads(done.out)
    names = [f"photo-{name}" for name in ("cat-face-5", "cat-face-6", "food-fruit-7", "food-fruit-8")]
    assert [Path(image["file"]).stem for image in told["images"]] == names
    assert all(pixels(tmp_path / image["file"]).shape == (23, 32, 3) for image in told["images"])
    edit = told["recipe"]["edit"]
    assert {name: edit[name] for name in edit if name != "image"} == {
        "outpaint": {"left": 2, "top": 3},
        "rule": "canvases",
        "blank": False,
        "paste": False,
    }
    assert told["recipe"]["plan"]["rows"][0]["top_k"] == 9


def test_without_words_anything_is_painted(source: Path, tiny_model: Path, nextscale: Command) -> None:
    done = nextscale("edit", "photo.png", "--box", "0,0,30,20", "--model", tiny_model, "--json", "--blank")
    told = json.loads(done.out)
    assert told["recipe"]["entries"] == [{}]
    assert told["recipe"]["edit"]["blank"] is True


def test_what_of_a_file_is_not_taken_is_said_once(
    source: Path, tiny_model: Path, nextscale: Command, tmp_path: Path
) -> None:
    Image.fromarray(pixels(source)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (30, 20))])
    done = nextscale("edit", "a.gif", "--box", "0,0,9,9", "--model", tiny_model)
    assert done.code == 0
    assert done.err.count("hold several frames or pages, of which the first is taken") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing says where to paint; expected one of --mask, --box, --outpaint and --refine-image"),
        (
            ["--box", "1,1,2,2", "--mask", "mask.png"],
            "--mask and --box were given; expected one of --mask, --box, --outpaint and --refine-image",
        ),
        (["--box", "1,1,2"], "--box is '1,1,2'; expected x,y,width,height in whole pixels, as in 16,16,32,32"),
        (
            ["--box", "25,1,9,9"],
            "box is [25, 1, 9, 9]; expected x, y, width and height of a part of the picture, which",
        ),
        (["--mask", "turned.png"], "the mask has 20x30 pixels and the picture 30x20 (width x height)"),
        (["--mask", "none.png"], "there is no file none.png; expected a picture"),
        (["--outpaint", "left=2,left=3"], "--outpaint is 'left=2,left=3'; expected sides and whole pixels"),
        (["--outpaint", "up=2"], "--outpaint is 'up=2'; expected sides and whole pixels"),
        (["--box", "1,1,2,2", "--rule", "soft"], "rule is 'soft'; expected one of cover, official, canvases"),
        (["--box", "1,1,2,2", "-c", "flag", "cat"], "words ('cat') and --class were both given; expected one of them"),
        (["--box", "1,1,2,2", "--guidance-scale", "3"], "guidance_scale is 3.0, but nothing says what to paint"),
        (
            ["--box", "1,1,2,2", "--style", "noto"],
            "style is ['noto'], but nothing says what to paint; expected a class",
        ),
        (["--outpaint", "left=999999"], "outpaint is {'left': 999999}; expected at most 8,944 pixels on a side"),
        (["--box", "1,1,2,2", "-n", "2", "-o", "a.png"], "--out a.png is one file, but 2 pictures would be written"),
        (["--box", "1,1,2,2", "-o", "a.jpg"], "a.jpg would be a PNG file under another format's name"),
        (["--like", "photo.png"], "photo.png carries no recipe; expected a PNG that nextscale wrote"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_written(
    words: list[str], sentence: str, source: Path, tiny_model: Path, nextscale: Command, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = nextscale("edit", "photo.png", "--model", tiny_model, *words)
    assert done.code == 2
    assert sentence in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recipe_is_repeated_on_its_own_picture_by_this_verb(
    source: Path, tiny_model: Path, nextscale: Command, tmp_path: Path
) -> None:
    model = ["--model", tiny_model]
    assert nextscale("edit", "photo.png", "--box", "1,1,9,9", *model, "-o", "edited.png").code == 0
    assert nextscale("generate", "-c", "flag", *model, "-o", "drawn.png").code == 0
    for words, sentence in (
        (["generate", "--like", "edited.png"], "the picture is an edited one; expected the picture that was edited"),
        (["edit", "photo.png", "--like", "drawn.png"], "the picture was drawn and not edited; leave the picture"),
        (
            ["edit", "drawn.png", "--like", "edited.png"],
            "this is not the picture of the edit; expected one",
        ),
        (["edit", "photo.png", "--like", "edited.png", "--box", "1,1,9,9"], "as it is; leave --box out"),
        (["edit", "photo.png", "--like", "edited.png", "--no-paste"], "as it is; leave --paste out"),
        (["edit", "photo.png", "cat", "--like", "edited.png"], "as it is; leave the words out"),
    ):
        done = nextscale(*words, *model, "-o", "new.png")
        assert done.code == 2
        assert sentence in done.err
        assert not (tmp_path / "new.png").exists()


@pytest.fixture(scope="module")
def free_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that draws any size, trained on 16x16 pixels."""
    folder = tmp_path_factory.mktemp("models") / "free"
    tiny_pipeline(tiny_flexvar()).save_pretrained(folder)
    return folder


def test_a_small_picture_is_refined_and_the_recipe_repeats_it(
    source: Path, free_model: Path, nextscale: Command, tmp_path: Path
) -> None:
    refine = ["edit", "photo.png", "-c", "flag", "--refine-image", "--model", free_model]
    done = nextscale(*refine, "--size", "40x60", "--steps", 6, "--start-scale", "4x6", "--seed", 3, "-o", "large.png")
    assert (done.code, done.out) == (0, "large.png, seed 3\n")
    assert pixels(tmp_path / "large.png").shape == (40, 60, 3)
    again = ["edit", "photo.png", "--like", "large.png", "--model", free_model]
    assert nextscale(*again, "-o", "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "large.png").read_bytes()
    for words, sentence in (
        ([*again, "--refine-image"], "--like repeats a recipe as it is; leave --refine-image out"),
        ([*again, "--start-scale", 3], "--like repeats a recipe as it is; leave --start-scale out"),
        (
            [*refine, "--box", "1,1,2,2"],
            "--box and --refine-image were given; expected one of --mask, --box, --outpaint",
        ),
        ([*refine, "--start-scale", "9"], "start_scale is '9'; expected one of the scales before the last, 1 1x2"),
        ([*refine, "--no-paste"], "paste is False, but refine_image masks nothing; leave paste out"),
    ):
        done = nextscale(*words, "-o", "new.png")
        assert done.code == 2
        assert sentence in done.err
        assert not (tmp_path / "new.png").exists()


def test_other_models_refine_no_picture(source: Path, tiny_model: Path, nextscale: Command, tmp_path: Path) -> None:
    done = nextscale("edit", "photo.png", "--refine-image", "--model", tiny_model, "-o", "new.png")
    assert done.code == 2
    assert "the maps of this model add up to a picture; expected a model whose every map is the whole" in done.err
    assert not (tmp_path / "new.png").exists()
