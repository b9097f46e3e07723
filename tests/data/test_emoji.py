"""A build is complete, repeatable and leaves nothing half-made; every way it can fail says what to do."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextscale.data.emoji import build_emoji
from nextscale.data.emoji_reader import read_metadata
from nextscale.data.emoji_sources import Package
from nextscale.errors import InputError

STYLES = ("fluent-emoji", "noto", "fluent-emoji-flat")


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pixels(folder: Path, hexcode: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "images" / "noto" / f"{hexcode}.png"))


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path, packages: dict[str, Package]) -> None:
    one = build_emoji(tmp_path / "one", STYLES, 16, packages=packages)
    two = build_emoji(tmp_path / "two", tuple(reversed(STYLES)), 16, packages=packages)
    assert contents(one.folder) == contents(two.folder)
    assert one.hash == two.hash
    assert one.images == 3 * 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "one", "two"]


def test_the_hash_sees_pixels_and_words(tmp_path: Path, packages: dict[str, Package]) -> None:
    builds = [build_emoji(tmp_path / str(size), ("noto",), size, packages=packages) for size in (16, 32)]
    assert builds[0].hash != builds[1].hash


def test_a_second_run_repeats_no_work(tmp_path: Path, packages: dict[str, Package]) -> None:
    steps: list[tuple[int, int]] = []
    out = tmp_path / "set"
    first = build_emoji(out, ("noto",), 16, lambda *step: steps.append(step), packages)
    assert first.fresh
    assert steps == [(i + 1, 5) for i in range(5)]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = build_emoji(out, ("noto",), 16, lambda *step: steps.append(step), packages)
    assert again == replace(first, fresh=False)
    assert len(steps) == 5
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_resolution_or_a_missing_image_builds_again(tmp_path: Path, packages: dict[str, Package]) -> None:
    out = tmp_path / "set"
    build_emoji(out, ("noto",), 16, packages=packages)
    assert build_emoji(out, ("noto",), 32, packages=packages).fresh
    assert pixels(out, "1f415").shape == (32, 32, 3)
    (out / "images" / "noto" / "1f415.png").unlink()
    assert build_emoji(out, ("noto",), 32, packages=packages).fresh
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "set"]


@pytest.mark.parametrize("file", ["images/noto/1f415.png", "metadata.jsonl", "dataset.json"])
@pytest.mark.parametrize("left", [0, 0.9])
def test_a_damaged_set_is_built_again(tmp_path: Path, packages: dict[str, Package], file: str, left: float) -> None:
    whole = build_emoji(tmp_path / "set", ("noto",), 16, packages=packages)
    before = contents(whole.folder)
    damaged = whole.folder / file
    damaged.write_bytes(damaged.read_bytes()[: int(left * damaged.stat().st_size)])
    assert build_emoji(whole.folder, ("noto",), 16, packages=packages) == whole
    assert contents(whole.folder) == before


@pytest.mark.parametrize("mine", ["notes.txt", "images/noto/mine.jpg", "images/mine/1f415.jpg", "more/a.png"])
def test_a_users_files_in_a_set_are_not_lost_with_it(tmp_path: Path, packages: dict[str, Package], mine: str) -> None:
    out = tmp_path / "set"
    build_emoji(out, ("noto",), 16, packages=packages)
    before = contents(out)
    (out / mine).parent.mkdir(exist_ok=True)
    (out / mine).write_text("mine")
    with pytest.raises(InputError, match=rf"holds {mine}, which is no part of an emoji set and would be lost"):
        build_emoji(out, ("noto",), 32, packages=packages)
    assert (out / mine).read_text() == "mine"
    (out / mine).unlink()
    (out / ".DS_Store").write_text("x")
    assert contents(out).items() >= before.items()
    assert build_emoji(out, ("noto",), 32, packages=packages).fresh


def test_a_folder_that_only_looks_like_a_set_is_left_alone(tmp_path: Path, packages: dict[str, Package]) -> None:
    """Hugging Face's image folders have a metadata.jsonl too."""
    (tmp_path / "mine" / "images" / "cats").mkdir(parents=True)
    (tmp_path / "mine" / "metadata.jsonl").write_text("{}")
    with pytest.raises(InputError, match="no emoji set"):
        build_emoji(tmp_path / "mine", ("noto",), 16, packages=packages)
    assert (tmp_path / "mine" / "metadata.jsonl").read_text() == "{}"


@pytest.mark.parametrize("out", [".", "../here"])
def test_the_working_folder_is_refused_before_anything_is_drawn(
    tmp_path: Path, packages: dict[str, Package], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    steps: list[tuple[int, int]] = []
    with pytest.raises(InputError, match=r"you are working in.*expected the name of a new folder"):
        build_emoji(out, ("noto",), 16, lambda *step: steps.append(step), packages)
    assert not steps
    assert not list(tmp_path.rglob("*.part"))


def test_a_mount_point_is_refused_before_anything_is_drawn(
    tmp_path: Path, packages: dict[str, Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "set")
    with pytest.raises(InputError, match=r"is a mount point.*expected a folder inside it"):
        build_emoji(tmp_path / "set", ("noto",), 16, packages=packages)
    assert not list(tmp_path.rglob("*.part"))


def test_a_link_to_a_folder_stays_one(tmp_path: Path, packages: dict[str, Package]) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "set").symlink_to(tmp_path / "disk" / "real")
    assert build_emoji(tmp_path / "set", ("noto",), 16, packages=packages).fresh
    assert build_emoji(tmp_path / "set", ("noto",), 32, packages=packages).fresh
    assert (tmp_path / "set").is_symlink()
    assert len(read_metadata(tmp_path / "set")) == 5
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["real"]


def test_no_family_is_on_both_sides(tmp_path: Path, packages: dict[str, Package]) -> None:
    build_emoji(tmp_path / "set", STYLES, 16, packages=packages)
    sides = defaultdict(set)
    for record in read_metadata(tmp_path / "set"):
        sides[record["family"]].add(record["split"])
    assert len(sides) == 3
    assert all(len(found) == 1 for found in sides.values())


def test_drawings_are_put_on_white_unstretched(tmp_path: Path, packages: dict[str, Package]) -> None:
    build_emoji(tmp_path / "set", ("noto",), 16, packages=packages)
    assert (pixels(tmp_path / "set", "1f9d1-200d-2695") == (255, 0, 0)).all()
    cat = pixels(tmp_path / "set", "1f63a").astype(int)
    assert (abs(cat - 128) <= 1).all()  # half-transparent black
    woman, mirrored = (pixels(tmp_path / "set", f"1f469{tone}-200d-2695") for tone in ("", "-1f3ff"))
    assert (woman[:, :8] == (0, 0, 255)).all()
    assert (woman[:, 8:] == 255).all()
    assert (mirrored == woman[:, ::-1]).all()
    dog = pixels(tmp_path / "set", "1f415")
    assert (dog[4:12] == (0, 255, 0)).all()  # twice as wide as high: white above and below
    assert (dog[:4] == 255).all()
    assert (dog[12:] == 255).all()


def test_the_description_names_sources_and_licences(tmp_path: Path, packages: dict[str, Package]) -> None:
    build_emoji(tmp_path / "set", ("fluent-emoji",), 16, packages=packages)
    description = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert description["classes"] == ["cat-face", "person-role", "animal-mammal"]
    assert set(description["recipe"]["sources"]) == {"@tiny/emojibase", "@tiny/fluent-emoji", "@tiny/fluent-emoji-flat"}
    assert description["licences"]["fluent-emoji"] == {
        "name": "Tiny",
        "author": "A. Painter",
        "url": "https://example.org",
        "licence": "CC0-1.0",
        "licence_url": "",
    }


@pytest.mark.parametrize(
    ("styles", "resolution", "sentence"),
    [
        (("notto",), 64, "there is no emoji style 'notto'; expected some of noto, "),
        ((), 64, "no emoji style was given"),
        (("noto",), 4, "resolution is 4; expected 8 to 1024"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, packages: dict[str, Package], styles: tuple[str, ...], resolution: int, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        build_emoji(tmp_path / "set", styles, resolution, packages=packages)
    assert not (tmp_path / "set").exists()


def test_foreign_folders_are_left_alone(tmp_path: Path, packages: dict[str, Package]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds files that are no emoji set"):
        build_emoji(tmp_path / "photos", ("noto",), packages=packages)
    with pytest.raises(InputError, match="is a file"):
        build_emoji(tmp_path / "photos" / "mine.txt", ("noto",), packages=packages)
    with pytest.raises(InputError, match="cannot be written"):
        build_emoji(tmp_path / "photos" / "mine.txt" / "set", ("noto",), packages=packages)
    assert contents(tmp_path / "photos") == {"mine.txt": hashlib.sha256(b"keep me").hexdigest()}


def interrupted(out: Path, packages: dict[str, Package], resolution: int = 16) -> None:
    """Build, and stop after three of five drawings."""

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_emoji(out, ("noto",), resolution, stop, packages)


def test_an_interrupted_build_is_continued(tmp_path: Path, packages: dict[str, Package]) -> None:
    interrupted(tmp_path / "set", packages)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.part", "cache"]
    drawn = sorted((tmp_path / ".set.part").rglob("*.png"))
    assert len(drawn) == 3
    times = [path.stat().st_mtime_ns for path in drawn]
    drawn[-1].write_bytes(drawn[-1].read_bytes()[:60])  # as a power cut leaves it
    build_emoji(tmp_path / "set", ("noto",), 16, packages=packages)
    build_emoji(tmp_path / "whole", ("noto",), 16, packages=packages)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert [(tmp_path / "set" / "images" / "noto" / path.name).stat().st_mtime_ns for path in drawn[:-1]] == times[:-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "set", "whole"]


def test_an_interrupted_build_of_something_else_is_not(tmp_path: Path, packages: dict[str, Package]) -> None:
    build_emoji(tmp_path / "set", ("noto",), 16, packages=packages)
    before = contents(tmp_path / "set")
    interrupted(tmp_path / "set", packages, 32)
    assert contents(tmp_path / "set") == before  # what is there is replaced at the end, in one step
    build_emoji(tmp_path / "set", ("noto",), 64, packages=packages)
    assert {pixels(tmp_path / "set", path.stem).shape for path in (tmp_path / "set").rglob("*.png")} == {(64, 64, 3)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "set"]


def test_without_the_renderer(tmp_path: Path, packages: dict[str, Package], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)  # what Python finds when a package is not installed
    with pytest.raises(InputError, match=r"resvg-py is not installed.*pip install"):
        build_emoji(tmp_path / "set", ("noto",), packages=packages)
