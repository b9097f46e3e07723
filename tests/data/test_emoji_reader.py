"""A damaged emoji set is refused in one sentence, whatever is damaged; nothing else is taken for one. Images have the
families of their set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nextscale.data.captions import short
from nextscale.data.emoji import build_emoji
from nextscale.data.emoji_captions import captions_of
from nextscale.data.emoji_cells import sides
from nextscale.data.emoji_reader import (
    families_of,
    holds_emoji,
    load_emoji,
    read_licences,
    read_metadata,
    records_of,
)
from nextscale.data.emoji_sources import Package
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from tests.evaluation.conftest import draw_emoji, draw_folder

DEEP = json.loads("[" * 500 + "]" * 500)
ODD: tuple[Any, ...] = (None, 7, -1, 1.5, 10**12, "", "x" * 3_000_000, [], [None], {}, {"a": 1}, True, DEEP)


@pytest.fixture
def emoji(tmp_path: Path, packages: dict[str, Package]) -> Path:
    return build_emoji(tmp_path / "set", ("noto", "fluent-emoji"), 16, packages=packages).folder


def short_or_fine(folder: Path) -> bool:
    """Whether the set is refused; what refuses it is one short sentence."""
    said = ""
    try:
        load_data(folder, 16, "all")
    except InputError as error:
        said = str(error)
    assert len(said) < 600
    return bool(said)


@pytest.mark.parametrize(
    "key", ["kind", "recipe", "classes", "recipe.styles", "recipe.resolution", "recipe.format_version"]
)
def test_a_description_with_a_wrong_value_is_refused(emoji: Path, key: str) -> None:
    whole = json.loads((emoji / "dataset.json").read_text())
    for value in ODD:
        *outer, inner = key.split(".")
        changed = json.loads(json.dumps(whole))
        place = changed[outer[0]] if outer else changed
        place[inner] = value
        (emoji / "dataset.json").write_text(json.dumps(changed))
        assert short_or_fine(emoji) or key == "kind" or value is True
        del place[inner]
        (emoji / "dataset.json").write_text(json.dumps(changed))
        assert short_or_fine(emoji) or key == "kind"


@pytest.mark.parametrize("key", ["file", "split", "style", "family", "class", "name", "keywords", "tones"])
def test_a_record_with_a_wrong_value_is_refused(emoji: Path, key: str) -> None:
    first, *rest = (emoji / "metadata.jsonl").read_text().splitlines()
    for value in ODD:
        changed = json.loads(first) | {key: value}
        (emoji / "metadata.jsonl").write_text("\n".join([json.dumps(changed), *rest]))
        kind = list if key in ("keywords", "tones") else str
        assert short_or_fine(emoji) or isinstance(value, kind)
    for line in ("[" * 200_000, '{"name": ' + "9" * 5000 + "}", "[1]", "7"):
        (emoji / "metadata.jsonl").write_text("\n".join([line, *rest]))
        assert short_or_fine(emoji)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"kind": ' + "9" * 5000 + "}", "", "\0", '{"kind": "emoji"}'])
def test_a_damaged_description_is_ours_where_our_drawings_lie_beside_it(emoji: Path, text: str) -> None:
    (emoji / "dataset.json").write_text(text)
    assert holds_emoji(emoji)
    assert short_or_fine(emoji)
    assert read_licences(emoji) == []


def test_a_damaged_set_is_built_again(emoji: Path, packages: dict[str, Package]) -> None:
    whole = (emoji / "dataset.json").read_text()
    for text in ("[" * 200_000, whole.replace('"splits"', '"sides"'), whole.replace('"hash"', '"no"')):
        (emoji / "dataset.json").write_text(text)
        assert build_emoji(emoji, ("noto", "fluent-emoji"), 16, packages=packages).fresh
        assert (emoji / "dataset.json").read_text() == whole


def test_families_come_from_the_set_and_elsewhere_are_images(tmp_path: Path) -> None:
    folder, other = draw_emoji(tmp_path / "set", heldout=4), draw_folder(tmp_path / "photos")
    drawn, photos = load_data(folder, 16, "heldout"), load_data(other, 16, "heldout")
    assert set(families_of(folder, drawn)) == {
        "flags, heldout",
        *(f"{n} {i}" for n in ("animal", "face") for i in range(3, 7)),
    }
    assert families_of(other, photos) == photos.names


def test_with_captions_a_set_is_split_and_drawn_as_text_models_need_it(tmp_path: Path) -> None:
    folder = draw_emoji(tmp_path / "set", train=30, heldout=10)
    records = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for i, record in enumerate(records):
        record["tones"] = [5] if i % 3 else []
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    names = {split: load_emoji(folder, split).names for split in ("train", "heldout")}
    assert all(load_emoji(folder, split).times is None for split in names)
    found = dict(zip((id(one) for one in records), sides(read_metadata(folder)), strict=True))
    for split in ("train", "heldout"):
        data = load_data(folder, 16, split, captions=True)
        expected = [one for one in records if (found[id(one)] == "train") == (split == "train")]
        assert records_of(folder, data) == expected
        assert data.names == [one["name"] for one in expected] != names[split]
        assert data.captions == tuple(map(captions_of, expected))
        assert data.times is not None
        assert data.times.tolist() == [1 if one["tones"] else 3 for one in expected]
        assert data.epoch == int(data.times.sum())
        assert data.split_by.startswith("cells and families")
        assert short(data.captions[0]) != data.names[0]
    drawn = load_emoji(folder, "heldout", style=records[0]["style"], captions=True)  # of the sides of the whole set
    assert drawn.names == [
        one["name"] for one in records if one["style"] == records[0]["style"] and found[id(one)] != "train"
    ]


def test_the_words_of_a_set_have_a_licence_too(packages: dict[str, Package], tmp_path: Path) -> None:
    folder = build_emoji(tmp_path / "set", ("noto",), 16, packages=packages).folder
    assert [of["licence"] for of in read_licences(folder)] == ["CC0-1.0", "MIT"]
