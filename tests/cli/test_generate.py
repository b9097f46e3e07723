"""``nextscale generate`` writes what it says, repeats what a recipe says, and refuses the rest in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from nextscale.pictures import open_picture, read_recipe, save_png
from tests.cli.conftest import Answer, Command


def pixels(path: Path | str) -> bytes:
    return open_picture(path).tobytes()


def refused(answer: Answer, *expected: str) -> None:
    """Exit code 2, one sentence on standard error that says what is expected, nothing on standard output."""
    assert answer.code == 2, answer
    assert answer.out == ""
    sentence = [line for line in answer.err.splitlines() if line.startswith("nextscale: ")]
    assert len(sentence) == 1, answer.err
    for words in expected:
        assert words in sentence[0], sentence[0]


def test_pictures_grid_and_strip_are_written(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale(
        "generate", "-c", "cat-face", "-c", 2, "-n", 2, "--seed", 5, "--model", tiny_model, "--strip", "-o", "a/b"
    )
    assert done.code == 0, done.err
    names = sorted(path.name for path in Path("a/b").iterdir())
    pictures = ["cat-face-5.png", "cat-face-6.png", "food-fruit-7.png", "food-fruit-8.png"]
    assert names == sorted([*pictures, "grid.png", "strip.png"])
    assert {open_picture(f"a/b/{name}").size for name in pictures} == {(16, 16)}
    assert len({pixels(f"a/b/{name}") for name in pictures}) == 4
    strip = open_picture("a/b/strip.png")
    assert strip.width > 4 * 64  # four scales, four rows, enlarged four times
    assert strip.height > 4 * 64
    assert "4 pictures in a/b, seeds 5 to 8; a/b/grid.png; a/b/strip.png" in done.out
    assert "tiny on cpu" in done.err


def test_the_last_column_of_a_strip_is_the_picture(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--strip", "--dtype", "float32")
    strip, picture = open_picture("out/strip.png"), open_picture("out/cat-face-1.png")
    last = picture.resize((64, 64), Image.Resampling.LANCZOS)
    left = strip.width - 64 - 8
    assert strip.crop((left, 8, left + 64, 72)).tobytes() == last.tobytes()
    assert strip.crop((8, 8, 72, 72)).tobytes() != last.tobytes()


def test_one_picture_has_no_grid_unless_asked(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model)
    assert [path.name for path in Path("out").iterdir()] == ["cat-face-1.png"]
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--grid")
    assert Path("out/grid.png").is_file()


def test_plain_words_find_their_class_and_say_so(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "grinning", "cat", "--model", tiny_model)
    assert done.code == 0
    assert "'grinning cat' is drawn as cat-face" in done.err
    assert [path.name.rpartition("-")[0] for path in Path("out").iterdir()] == ["cat-face"]


def test_json_names_the_files_and_the_recipe(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "-c", 1, "-n", 2, "--seed", 3, "--model", tiny_model, "--top-k", 4, "--json")
    told = json.loads(done.out)
    assert [(image["class"], image["seed"]) for image in told["images"]] == [("animal-bird", 3), ("animal-bird", 4)]
    assert all(Path(image["file"]).is_file() for image in told["images"])
    assert Path(told["grid"]).is_file()
    assert told["recipe"]["plan"]["rows"][0]["top_k"] == 4


def test_a_picture_is_repeated_from_its_recipe(nextscale: Command, tiny_model: Path) -> None:
    wanted = ["-c", 0, "-n", 3, "--seed", 2, "--model", tiny_model, "--dtype", "float32", "--temperature", 1.3]
    nextscale("generate", *wanted, "--guidance-scale", 2, "--top-p", 0.9, "-o", "first")
    done = nextscale("generate", "--like", "first/cat-face-4.png", "--model", tiny_model, "-o", "second")
    assert done.code == 0, done.err
    assert "will differ" not in done.err
    assert [path.name for path in Path("second").iterdir()] == ["cat-face-4.png"]
    assert pixels("second/cat-face-4.png") == pixels("first/cat-face-4.png")
    assert read_recipe("second/cat-face-4.png") == read_recipe("first/cat-face-4.png")


def test_a_grid_is_repeated_from_its_recipe(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "-c", 2, "-n", 2, "--seed", 2, "--model", tiny_model, "-o", "first")
    nextscale("generate", "--like", "first/grid.png", "--model", tiny_model, "-o", "second")
    for name in ("grid.png", "cat-face-2.png", "food-fruit-5.png"):
        assert pixels(f"second/{name}") == pixels(f"first/{name}")


def test_another_seed_draws_another_picture(nextscale: Command, tiny_model: Path) -> None:
    for seed in (1, 2):
        nextscale("generate", "-c", 0, "--seed", seed, "--model", tiny_model)
    assert pixels("out/cat-face-1.png") != pixels("out/cat-face-2.png")


def test_every_picture_may_have_a_seed_of_its_own(nextscale: Command, tiny_model: Path) -> None:
    wanted = ["-c", 0, "-c", 2, "-n", 2, "--model", tiny_model, "--dtype", "float32"]
    done = nextscale("generate", *wanted, "--seed", "9,1, 4,4")
    assert "4 pictures in out, seeds 9, 1, 4, 4;" in done.out
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["cat-face-1.png", "cat-face-9.png", "food-fruit-4-2.png", "food-fruit-4.png", "grid.png"]
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--dtype", "float32", "-o", "alone")
    assert pixels("alone/cat-face-1.png") == pixels("out/cat-face-1.png")
    nextscale("generate", "--like", "out/grid.png", "--model", tiny_model, "-o", "again")
    assert pixels("again/grid.png") == pixels("out/grid.png")


def test_a_recipe_of_another_revision_is_repeated_with_a_warning(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model)
    recipe = read_recipe("out/cat-face-1.png") | {"revision": "0123"}
    save_png(open_picture("out/cat-face-1.png"), "old.png", recipe)
    done = nextscale("generate", "--like", "old.png", "--model", tiny_model)
    assert done.code == 0
    assert "drawn by revision 0123" in done.err


def test_a_recipe_of_another_model_is_refused_with_both_names(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model)
    recipe = read_recipe("out/cat-face-1.png") | {"revision": "0123", "model": "emoji"}
    save_png(open_picture("out/cat-face-1.png"), "other.png", recipe)
    refused(nextscale("generate", "--like", "other.png", "--model", tiny_model), "was drawn by emoji, and this is tiny")
    save_png(open_picture("out/cat-face-1.png"), "own.png", recipe | {"model": "somebodys"})
    refused(nextscale("generate", "--like", "own.png"), "drawn by somebodys", "name its folder with --model")


def test_classes_are_listed(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "--list-classes", "--model", tiny_model)
    assert [line.split() for line in done.out.splitlines()][:2] == [["0", "cat-face"], ["1", "animal-bird"]]
    assert "styles" not in done.out
    told = json.loads(nextscale("generate", "--list-classes", "--model", tiny_model, "--json").out)
    assert told["classes"][2] == "food-fruit"
    assert told["styles"] == []


def test_styles_are_listed(nextscale: Command, styled_model: Path) -> None:
    done = nextscale("generate", "--list-classes", "--model", styled_model)
    assert done.out.splitlines()[-1] == "styles: noto, twemoji, openmoji"
    told = json.loads(nextscale("generate", "--list-classes", "--model", styled_model, "--json").out)
    assert told == {"classes": ["animal", "face", "flag"], "styles": ["noto", "twemoji", "openmoji"], "missing": {}}


def test_what_a_style_lacks_is_said_and_not_taken(nextscale: Command, styled_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(styled_model, tmp_path / "lacking")
    told = json.loads((model / "classes.json").read_text())
    (model / "classes.json").write_text(json.dumps(told | {"missing": [["noto", "flag"], ["openmoji", "flag"]]}))
    listed = nextscale("generate", "--list-classes", "--model", model).out.splitlines()
    assert listed[-2:] == ["not in noto: flag", "not in openmoji: flag"]
    listed = nextscale("generate", "--list-classes", "--style", "noto", "--model", model).out.splitlines()
    assert [line.split()[-1] for line in listed[:2]] == ["animal", "face"]
    done = nextscale("generate", "-c", "face", "-c", "flag", "--seed", 1, "--model", model)
    assert "flag in the style twemoji; other styles: none" in done.err
    assert "in the style noto; other styles: twemoji, openmoji" in done.err
    assert Path("out/face-noto-1.png").is_file()
    assert Path("out/flag-twemoji-2.png").is_file()
    done = nextscale("generate", "-c", "flag", "--style", "all", "--seed", 1, "--model", model, "--json", "-o", "all")
    assert [image["style"] for image in json.loads(done.out)["images"]] == ["twemoji"]
    done = nextscale("generate", "-c", "flag", "--style", "noto", "--model", model)
    assert done.code == 0
    assert done.err.count("trained on no image of flag in the style noto") == 1
    refused(nextscale("generate", "--list-classes", "--style", "nota", "--model", model), "did you mean 'noto'?")


def test_every_class_is_drawn_in_every_style_that_is_named(nextscale: Command, styled_model: Path) -> None:
    words = ["-c", "face", "-c", "flag", "--seed", 1, "--model", styled_model]
    done = nextscale("generate", *words, "--style", "openmoji", "--style", "noto", "--json", "-o", "two")
    drawn = [(image["class"], image["style"], image["seed"]) for image in json.loads(done.out)["images"]]
    assert drawn == [("face", "openmoji", 1), ("face", "noto", 2), ("flag", "openmoji", 3), ("flag", "noto", 4)]
    assert Path("two/face-openmoji-1.png").is_file()
    assert nextscale("generate", *words, "--style", "all", "-o", "all").code == 0
    with Image.open("all/grid.png") as six, Image.open("two/grid.png") as four:
        assert six.width / six.height > 2.5  # nine styles would fit: all six stand in one row
        assert four.width / four.height > 1.7
    assert len(list(Path("all").glob("*-*-*.png"))) == 6
    assert (Path("all") / "flag-noto-4.png").is_file()


def test_without_a_style_the_first_is_taken_and_the_others_are_named(nextscale: Command, styled_model: Path) -> None:
    done = nextscale("generate", "a face", "--seed", 1, "--model", styled_model)
    assert "in the style noto; other styles: twemoji, openmoji" in done.err
    assert read_recipe("out/face-noto-1.png")["entry"]["style"] == "noto"


@pytest.mark.parametrize("name", ["flag-openmoji-5.png", "grid.png"])
def test_a_style_is_repeated_from_its_recipe(nextscale: Command, styled_model: Path, name: str) -> None:
    words = ["-c", "face", "-c", "flag", "--style", "openmoji", "--style", "twemoji", "--seed", 3]
    nextscale("generate", *words, "--model", styled_model, "--dtype", "float32", "-o", "first")
    done = nextscale("generate", "--like", f"first/{name}", "--model", styled_model, "-o", "second")
    assert done.code == 0, done.err
    written = sorted(path.name for path in Path("second").iterdir())
    assert written == ([name] if name != "grid.png" else sorted(path.name for path in Path("first").iterdir()))
    assert all(pixels(f"second/{other}") == pixels(f"first/{other}") for other in written)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--style", "notto"], "there is no style 'notto'; did you mean 'noto'"),
        (["--style", ""], "--style is ''; expected a value"),
        (["--like", "none.png", "--style", "noto"], "leave --class, --style out"),
    ],
)
def test_a_style_that_cannot_be_had_is_refused(
    nextscale: Command, styled_model: Path, words: list[str], expected: str
) -> None:
    refused(nextscale("generate", "-c", "face", *words, "--model", styled_model), expected)
    assert not Path("out").exists()


@pytest.mark.parametrize("style", ["noto", "all"])
def test_a_model_without_styles_takes_none(nextscale: Command, tiny_model: Path, style: str) -> None:
    done = nextscale("generate", "-c", "tool", "--style", style, "--model", tiny_model)
    refused(done, f"the style '{style}' was asked for, but this model has no styles; leave it out")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-c", "cat-fase"], ["'cat-fase'", "did you mean 'cat-face'"]),
        (["-c", "7"], ["class id 7", "0 to 4"]),
        (["-c", "-1"], ["class id -1"]),
        (["qwertz"], ["'qwertz'"]),
        ([], ["nothing to draw", "--class"]),
        (["cat", "-c", "cat-face"], ["both given"]),
        (["-c", "0", "--temperature", "0"], ["temperature is 0", "top_k=1"]),
        (["-c", "0", "--top-k", "49"], ["top_k is 49", "48 codes"]),
        (["-c", "0", "--device", "gpu"], ["no device 'gpu'"]),
        (["-c", "0", "--device", "cuda:99"], ["CUDA devices"]),
        (["-c", "0", "--dtype", "int8"], ["no dtype 'int8'"]),
        (["--like", "none.png"], ["there is no file none.png"]),
        (["-c", "0", "--like", "none.png"], ["leave --class out"]),
        (["-c", "0", "--negative-prompt", "x"], ["negative_prompt is ['x']", "a model of classes reads no negative"]),
        (["--like", "none.png", "--negative-prompt", "x"], ["leave --negative-prompt out"]),
        (["-c", "0", "--seed", str(2**63)], ["seed"]),
        (["-c", "0", "-n", "2", "--seed", "1,2,3"], ["3 seeds were given for 2 images", "one per image"]),
        (["-c", "0", "--seed", "1,,2"], ["--seed is '1,,2'", "one per picture with commas"]),
        (["-c", "0", "--seed=-1"], ["--seed is '-1'; expected a whole number"]),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    nextscale: Command, tiny_model: Path, words: list[str], expected: list[str]
) -> None:
    refused(nextscale("generate", *words, "--model", tiny_model, "-o", "new"), *expected)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "option", [["-n", "0"], ["--top-k", "-1"], ["--top-p", "1.5"], ["--seed", "x"], ["--nonsense"]]
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(nextscale: Command, option: list[str]) -> None:
    done = nextscale("generate", "-c", "0", *option)
    refused(done, "num-images" if option[0] == "-n" else option[0])
    assert len(done.err.splitlines()) == 1


def test_an_unknown_model_is_refused(nextscale: Command) -> None:
    refused(nextscale("generate", "cat", "--model", "nonsense"), "no model 'nonsense'")


def test_an_output_folder_that_is_a_file_is_refused(nextscale: Command, tiny_model: Path) -> None:
    Path("taken").write_text("")
    for out in ("taken", "taken/below"):
        refused(nextscale("generate", "-c", 0, "--model", tiny_model, "-o", out), "taken is a file")


FOREIGN = ("self", "seed", "callback_on_scale_end", "num_images", "nonsense")
"""What is no part of what a picture shows."""


def recipes() -> list[tuple[dict[str, object], str]]:
    good: dict[str, object] = {
        "model": "tiny",
        "dtype": "float32",
        "class_label": "cat-face",
        "seed": 1,
        "plan": {"rows": [{"size": [1, 1]}]},
    }
    return [
        ({name: value for name, value in good.items() if name != "plan"}, "no 'plan'"),
        (good | {"plan": {"rows": [{"size": [1, 1], "nonsense": 1}]}}, "columns"),
        (good | {"plan": {"rows": [{"size": [3, 3]}]}}, "3"),
        (good | {"plan": {"rows": [{"size": "x"}]}}, "plan"),
        (good | {"plan": {"rows": ["x"]}}, "plan"),
        (good | {"plan": {"rows": [{"size": [1, 1], "temperature": "hot"}]}}, "plan"),
        (good | {"plan": "x"}, "plan"),
        (good | {"class_label": "dog"}, "'dog'"),
        (good | {"style": "noto"}, "'noto'"),
        (good | {"style": None}, "None"),
        *((good | {"format": 2, "entry": {"class": "cat-face", name: 1}}, f"entry has '{name}'") for name in FOREIGN),
        (good | {"seed": "x"}, "seed"),
        (good | {"seed": None}, "seed"),
        (good | {"dtype": 3}, "dtype 3"),
        (good | {"model": []}, "model []"),
        (good | {"not_repeatable": "a part without a name"}, "a part without a name"),
    ]


@pytest.mark.parametrize(("recipe", "expected"), recipes(), ids=lambda case: case if isinstance(case, str) else "")
def test_a_recipe_that_was_tampered_with_is_refused(
    nextscale: Command, tiny_model: Path, recipe: dict[str, object], expected: str
) -> None:
    save_png(Image.new("RGB", (16, 16)), "odd.png", recipe)
    refused(nextscale("generate", "--like", "odd.png", "--model", tiny_model), expected)
    assert not Path("out").exists()


def test_a_list_of_seeds_says_how_many_pictures(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "-c", 0, "--seed", "3,1,4", "--model", tiny_model, "-o", "some", "--json")
    assert [image["seed"] for image in json.loads(done.out)["images"]] == [3, 1, 4]
    both = nextscale("generate", "-c", 0, "-c", 1, "--seed", "3,1,4", "--model", tiny_model, "-o", "other")
    refused(both, "3 seeds were given for 2 images")
