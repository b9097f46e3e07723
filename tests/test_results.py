"""What a call gives back: a sequence of pictures that can be looked at, saved and drawn again."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextscale.errors import InputError
from nextscale.pictures import read_recipe
from nextscale.pipeline import GenerationResult, Pipeline
from nextscale.results import file_stem
from tests.makers import tiny_pipeline, tiny_pipeline_of_styles


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def result(pipe: Pipeline) -> GenerationResult:
    return pipe(["face", "food", None], seed=4)


def test_a_result_is_a_sequence_of_its_pictures(result: GenerationResult) -> None:
    assert len(result) == 3
    assert list(result) == result.images == result["images"] == result[:]
    assert result[1] is result.images[1]
    assert result[-1].size == (16, 16)
    with pytest.raises(KeyError, match="a result has no 'sample'; expected images, tokens, recipe or plan"):
        result["sample"]


def test_a_result_says_in_a_line_what_it_is(result: GenerationResult) -> None:
    assert repr(result) == "<GenerationResult: 3 images of face, food, unconditional, by tiny>"
    many = tiny_pipeline_of_styles()(["animal", "face"] * 3, style=["noto", "twemoji", "openmoji"] * 2, seed=1)
    assert repr(many) == (
        "<GenerationResult: 6 images of animal noto, face twemoji, animal openmoji, face noto and 2 more, by tiny>"
    )
    (event, *_) = tiny_pipeline().stream("face", seed=1)
    assert repr(event) == "StreamEvent(k=0, scales=4)"


def test_pictures_are_saved_under_the_names_of_the_command_line_and_replace_nothing(
    result: GenerationResult, tmp_path: Path
) -> None:
    names = ["face-4", "food-5", "unconditional-6"]
    assert result.save(tmp_path / "out") == [tmp_path / "out" / f"{name}.png" for name in names]
    assert result.save(str(tmp_path / "out")) == [tmp_path / "out" / f"{name}-2.png" for name in names]
    for i, path in enumerate(result.save(tmp_path)):
        assert read_recipe(path) == json.loads(json.dumps(result.recipe_of(i)))


def test_classes_whose_names_are_alike_as_files_are_all_kept(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.vocabulary = type(pipe.vocabulary)(("a b", "a-b", "a/b", "..", "é" * 300))
    written = pipe([0, 1, 2, 3, 4], seed=[1] * 5).save(tmp_path)
    assert len({path for path in written if path.is_file()}) == 5
    assert [path.name for path in written[:4]] == ["a-b-1.png", "a-b-1-2.png", "a-b-1-3.png", "class-1.png"]


def test_one_picture_is_saved_as_the_file_that_was_named(pipe: Pipeline, tmp_path: Path) -> None:
    one, path = pipe("face", seed=1), tmp_path / "new" / "face.png"
    assert one.save(path) == [path]
    assert read_recipe(path)["seed"] == 1
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"face\.png exists; choose another name"):
        pipe("face", seed=2).save(path)
    assert path.read_bytes() == before
    assert pipe("face", seed=2).save(path, overwrite=True) == [path]
    assert read_recipe(path)["seed"] == 2


def test_what_cannot_be_saved_there(pipe: Pipeline, result: GenerationResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 pictures do not fit into .*; expected a folder, or result.grid"):
        result.save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x.jpg is no name of a PNG; expected one that ends in .png"):
        pipe("face", seed=1).save(tmp_path / "x.jpg")
    with pytest.raises(InputError, match="/dev/null is a device; expected a folder"):
        result.save("/dev/null")
    with pytest.raises(InputError, match="holds numbers, not pictures; expected one drawn with output_type='pil'"):
        pipe("face", seed=1, output_type="pt").save(tmp_path)
    for place in (None, 3, BytesIO(), b"x", ""):
        with pytest.raises(InputError, match=r"the place to save to is .*; expected a folder, or the name of a PNG"):
            result.save(place)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be the name of a file here"):
        pipe("face", seed=1).save(tmp_path / ("x" * 300 + ".png"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", [0, -1, 2.0, True, "2", [2]])
def test_a_grid_has_a_whole_number_of_columns(result: GenerationResult, columns: Any) -> None:
    with pytest.raises(InputError, match=r"columns is .*; expected a whole number of at least 1"):
        result.grid(columns)


def test_a_grid_shows_all_and_carries_the_recipe_of_all(result: GenerationResult, tmp_path: Path) -> None:
    result.grid().save(tmp_path / "grid.png")
    assert read_recipe(tmp_path / "grid.png") == json.loads(json.dumps(result.recipe))
    assert result.grid(columns=1).height > result.grid(columns=3).height


def test_enlarged_pictures_say_so_and_are_repeated(pipe: Pipeline, result: GenerationResult, tmp_path: Path) -> None:
    larger = result.enlarged(3)
    assert [image.size for image in larger] == [(48, 48)] * 3
    assert larger.recipe == result.recipe | {"enlarge": 3}
    assert result.enlarged(1) is result
    assert type(result.enlarged(np.int64(3)).recipe["enlarge"]) is int  # type: ignore[arg-type]
    larger.images[1].save(tmp_path / "one.png")
    larger.grid().save(tmp_path / "page.png")
    assert pipe.repeat(tmp_path / "one.png")[0].tobytes() == larger[1].tobytes()
    assert [image.tobytes() for image in pipe.repeat(tmp_path / "page.png")] == [image.tobytes() for image in larger]
    with pytest.raises(InputError, match="enlarged already, by 3; enlarge what was drawn"):
        larger.enlarged(2)
    with pytest.raises(InputError, match=r"cannot be enlarged by 1\.5; expected a whole number from 1 to 559"):
        result.enlarged(1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds numbers, not pictures"):
        pipe("face", seed=1, output_type="pt").enlarged(2)


def test_a_notebook_shows_the_picture_or_a_page_of_several(pipe: Pipeline, result: GenerationResult) -> None:
    one = pipe("face", seed=1)
    with Image.open(BytesIO(one._repr_png_() or b"")) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(one[0]))
    with Image.open(BytesIO(result._repr_png_() or b"")) as page:
        assert page.size == result.grid().size
    assert pipe("face", seed=1, output_type="np")._repr_png_() is None


def test_a_picture_of_official_noise_has_a_name_without_a_seed() -> None:
    assert file_stem({"entry": {"class": "a", "style": "noto"}, "seed": None}) == "a-noto"


def test_other_names_of_output_types_are_the_same(pipe: Pipeline) -> None:
    for ours, theirs in (("np", "numpy"), ("pt", "tensor"), ("pt", "torch")):
        a, b = (pipe("face", seed=1, output_type=kind).images for kind in (ours, theirs))  # type: ignore[arg-type]
        assert type(a) is type(b)
        assert np.array_equal(np.asarray(a), np.asarray(b))
