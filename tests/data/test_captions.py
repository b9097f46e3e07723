"""Captions are found where people keep them, change nothing for whoever does not ask, and none is lost or mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.data.captions import Captions, caption_hash, require_captions, spoken
from nextscale.data.emoji import build_emoji
from nextscale.data.emoji_sources import Package
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData
from nextscale.errors import InputError
from tests.data.test_found import many, put, table
from tests.data.test_shards import png, write

COUNT = 12
NAMES = [f"{i:02}.png" for i in range(COUNT)]
TEXTS = [f"picture {i}, of a cat" for i in range(COUNT)]
ROWS = [{"file_name": name, "text": text} for name, text in zip(NAMES, TEXTS, strict=True)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))


def read(path: Path, split: str = "all") -> ImageData:
    return load_data(path, 16, split, captions=True)


def said(data: ImageData) -> list[str]:
    return [one.text for one in require_captions(data.captions, "the set")]


def lines(file: Path, *rows: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt", "Text"])
def test_captions_in_a_table(tmp_path: Path, form: str, column: str) -> None:
    folder = put(tmp_path / "d", *NAMES)
    table(folder, form, [{"file_name": n, column: t} for n, t in zip(NAMES, TEXTS, strict=True)])
    data = read(folder)
    assert (said(data), data.classes) == (TEXTS, ["d"])
    assert data.notes == (f"captions are the column {column} of {folder / f'metadata.{form}'}",)


def test_captions_beside_images(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", *many("cat", "dog"))
    for i, name in enumerate(many("cat", "dog")):
        (folder / name).with_suffix(".txt").write_bytes(f"\ufeffpicture\r\n {i}\n".encode())
    (folder / "readme.txt").write_text("of no image")
    data = read(folder)
    assert (said(data), data.classes) == ([f"picture {i}" for i in range(24)], ["cat", "dog"])
    assert (data.passed_over.counts, data.notes) == (
        {".txt": 1},
        ("captions are in 24 .txt files beside the images",),
    )


def test_captions_of_shards(tmp_path: Path) -> None:
    samples = {f"{i}.png": png(i) for i in range(4)} | {f"{i}.txt": f"number {i}".encode() for i in range(4)}
    about = {f"{i}.json": json.dumps({"caption": f"number {i}", "long_caption": "It is.", "width": 3}) for i in (1, 2)}
    write(tmp_path / "d" / "0.tar", samples | {k: v.encode() for k, v in about.items()} | {"9.txt": b"of no image"})
    for _ in range(2):  # as scanned, and as noted
        data = read(tmp_path / "d")
        long = [None, "It is.", "It is.", None]
        assert data.captions == tuple(Captions(f"number {i}", long[i]) for i in range(4))
        assert data.passed_over.counts == {".txt": 1}
        assert data.notes == ("captions are in .json and .txt files in the shards",)


def test_captions_of_emoji_are_their_names(tmp_path: Path, packages: dict[str, Package]) -> None:
    folder = build_emoji(tmp_path / "set", ("noto",), 16, packages=packages).folder
    data = load_data(folder, 16, "all")
    assert said(data) == data.names


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_captions_in_infinity_s_lists(tmp_path: Path, inside: bool, whole: bool) -> None:
    pictures = put(tmp_path / "d" / "pictures" if inside else tmp_path / "pictures", *NAMES)
    place = str(pictures) if whole else ("../pictures" if inside else "../../pictures")
    rows = [
        {"image_path": f"{place}/{name}", "h_div_w": 1.0, "text": text, "long_caption": f"{text}. It sits.", "x": 1}
        for name, text in zip(NAMES, TEXTS, strict=True)
    ]
    lists = tmp_path / "d" / "splits"
    lines(lists / "1.000_000000008.jsonl", *rows[:8])
    lines(lists / "0.666_000000004.jsonl", *rows[8:])
    data = read(tmp_path / "d")
    captions = dict(zip(data.names, require_captions(data.captions, "d"), strict=True))
    found = sorted((name.rsplit("/", 1)[1], one.text, one.long) for name, one in captions.items())
    assert found == [(name, text, f"{text}. It sits.") for name, text in zip(NAMES, TEXTS, strict=True)]
    assert len(data.classes) == 1
    (note,) = (
        one for one in data.notes if one.startswith("captions are")
    )  # the sides hang on where the test's folder is
    assert note.startswith("captions are the columns text and long_caption of")
    assert "and 1 more tables" in note


def test_a_set_of_lists_is_the_images_they_name(tmp_path: Path) -> None:
    put(tmp_path / "store", *NAMES)
    for side, rows in (("train", ROWS[:9]), ("val", ROWS[9:])):
        listed = [{"image_path": f"../../store/{row['file_name']}", "text": row["text"]} for row in rows]
        lines(tmp_path / "d" / side / "1.000_9.jsonl", *listed, {"image_path": "gone.png", "text": "gone"})
    train, heldout = (load_data(tmp_path / "d", 16, side) for side in ("train", "heldout"))
    assert (len(train), len(heldout), train.classes, train.captions) == (9, 3, ["d"], None)
    notes = " ".join(train.notes)
    assert "1 of 10 images listed in" in notes
    assert "do not exist, for instance 'train/gone.png'" in notes
    with_captions = read(tmp_path / "d", "train")
    assert (said(with_captions), with_captions.hash) == (TEXTS[:9], train.hash)
    assert [note for note in with_captions.notes if "gone" in note] == list(train.notes)
    lines(tmp_path / "e" / "1.000_1.jsonl", {"image_path": "gone.png", "text": "gone"})
    with pytest.raises(
        InputError, match=r"1 of 1 images listed in .* do not exist, for instance 'gone\.png'; expected"
    ):
        load_data(tmp_path / "e", 16)
    lines(tmp_path / "e" / "1.000_1.jsonl", {"text": "gone"})
    with pytest.raises(InputError, match="lists no images; expected objects with image_path and text"):
        load_data(tmp_path / "e", 16)


def test_a_list_without_sides_is_split_by_hashes(tmp_path: Path) -> None:
    put(tmp_path / "store", *[f"{i}.png" for i in range(40)])
    rows = [{"image_path": str(tmp_path / "store" / f"{i}.png"), "text": f"{i}"} for i in range(40)]
    lines(tmp_path / "d" / "1.000_40.jsonl", *rows)
    train, heldout = read(tmp_path / "d", "train"), read(tmp_path / "d", "heldout")
    assert len(train) > len(heldout) > 0
    assert sorted(said(train) + said(heldout), key=int) == [str(i) for i in range(40)]


def test_labels_and_captions_may_both_be_there(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", *NAMES)
    table(folder, "csv", [{**row, "label": ["cat", "dog"][i % 2]} for i, row in enumerate(ROWS)])
    data = read(folder)
    assert (data.counts, said(data)) == ([6, 6], TEXTS)


def test_captions_change_nothing_for_whoever_does_not_ask(tmp_path: Path) -> None:
    """Not even captions that cannot be do."""
    folder = put(tmp_path / "d", *many("cat", "dog"))
    plain = load_data(folder, 16, "all")
    lines(folder / "metadata.jsonl", {"file_name": "cat/00.png", "text": 7}, {"file_name": "none.png", "text": ""})
    (folder / "cat" / "00.txt").write_bytes(b"caf\xe9")
    data = load_data(folder, 16, "all")
    assert (data.hash, data.classes, data.captions) == (plain.hash, plain.classes, None)
    assert data.caption_hash is None
    assert data.passed_over.counts == {".txt": 1}
    assert data.notes == (
        f"{folder / 'metadata.jsonl'} is not used: it has no column label (its columns: file_name, text)",
    )
    (folder / "cat" / "00.txt").unlink()
    lines(folder / "metadata.jsonl", *({"file_name": name, "text": name} for name in many("cat", "dog")))
    asked = read(folder)
    assert (asked.hash, asked.classes, asked.names) == (plain.hash, plain.classes, plain.names)


def test_captions_are_told_apart_by_their_hash(tmp_path: Path) -> None:
    one, other = (Captions("a", None),), (Captions("a", "b"),)
    assert len({caption_hash(captions) for captions in (one, other, one * 2, (Captions("ab"),))}) == 4
    table(put(tmp_path / "d", *NAMES), "jsonl", ROWS)
    first = read(tmp_path / "d")
    table(tmp_path / "d", "jsonl", [*ROWS[1:], {**ROWS[0], "text": "another"}])
    second = read(tmp_path / "d")
    assert first.hash == second.hash
    assert first.caption_hash != second.caption_hash


def test_a_set_with_captions_needs_no_classes(tmp_path: Path) -> None:
    names = ["top.png", "a/deep/1.png", "b/2.png"]
    folder = put(tmp_path / "d", *names)
    for name in names:
        (folder / name).with_suffix(".txt").write_text(name)
    with pytest.raises(InputError, match="both single images and folders"):
        load_data(folder, 16, "all")
    data = read(folder)
    assert (data.classes, sorted(said(data))) == (["d"], sorted(names))


def test_images_without_a_caption_are_counted(tmp_path: Path) -> None:
    table(put(tmp_path / "d", *NAMES), "jsonl", [{**ROWS[0], "text": " \n"}, *ROWS[2:]])
    with pytest.raises(
        InputError, match=r"2 of 12 images of .* have no caption, or an empty one, for instance .*00\.png"
    ):
        read(tmp_path / "d")
    write(tmp_path / "t" / "0.tar", {"1.png": png(1), "1.txt": b"one", "2.png": png(2), "2.json": b"{}"})
    with pytest.raises(InputError, match=r"1 of 2 images of .* have no caption, .*0\.tar: 2\.png; expected a caption"):
        read(tmp_path / "t")
    put(tmp_path / "e", *NAMES)
    data = read(tmp_path / "e")
    assert data.captions is None
    with pytest.raises(InputError, match="e has no captions, and a text model reads them; expected a meta"):
        require_captions(data.captions, "e")


def test_two_captions_for_one_image_are_refused_unless_they_agree(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", "0.png")
    lines(folder / "metadata.jsonl", {"file_name": "0.png", "text": "a  cat"})
    (folder / "0.txt").write_text("a cat\n")
    assert said(read(folder)) == ["a cat"]
    (folder / "0.txt").write_text("a dog\n")
    with pytest.raises(
        InputError, match=r"0\.png has the caption 'a cat' in line 1 of .* and 'a dog' in .*0\.txt; exp"
    ):
        read(folder)
    (folder / "0.txt").unlink()
    lines(folder / "metadata.jsonl", *({"file_name": "0.png", "text": text} for text in ("a cat", "a lion")))
    with pytest.raises(InputError, match=r"'a cat' in line 1 of .* and 'a lion' in line 2 of .*; expected one caption"):
        read(folder)
    write(tmp_path / "t" / "0.tar", {"1.png": png(1), "1.txt": b"a", "1.json": b'{"text": "b"}'})
    with pytest.raises(InputError, match=r"1\.png has the caption 'a' in .*1\.txt and 'b' in .*1\.json; expected one"):
        read(tmp_path / "t")


BAD = {
    "cut": ('{"file_name": ', "line 2 of .* which is no JSON"),
    "number": ('{"file_name": "01.png", "text": 7}', "line 2 of .* has 7 for text; expected a caption, as text"),
    "several": ('{"file_name": "01.png", "text": ["a", "b"]}', r"has \['a', 'b'\] for text; expected a caption"),
    "object": ('{"file_name": "01.png", "text": {"a": 1}}', "line 2 of .* for text; expected a caption"),
    "half": ('{"file_name": "01.png", "text": "\\ud800"}', "line 2 of .* for text; expected a caption"),
    "long": ('{"file_name": "01.png", "text": "a", "long_caption": 7}', "has 7 for long_caption; expected a caption"),
    "file": ('{"file_name": null, "text": "a"}', "line 2 .* has None in the column file_name; expected a file name"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", ["metadata.jsonl", "1.000_000000002.jsonl"])
def test_captions_that_cannot_be_are_refused_in_one_short_sentence(tmp_path: Path, kind: str, name: str) -> None:
    folder, (line, expected) = put(tmp_path / "d", "00.png", "01.png"), BAD[kind]
    lines(folder / name, ROWS[0], line)
    with pytest.raises(InputError, match=expected) as caught:
        read(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("row", "column"), [({"image_path": "00.png"}, "text"), ({"text": "a"}, "image_path")])
def test_a_list_that_says_nothing_is_named(tmp_path: Path, row: dict[str, str], column: str) -> None:
    folder = put(tmp_path / "d", *NAMES)
    table(folder, "jsonl", ROWS)
    lines(folder / "1.000_1.jsonl", row)
    assert f"{folder / '1.000_1.jsonl'} is not used: it has no column {column}" in read(folder).notes


def test_images_that_a_table_names_in_vain_are_counted(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", *NAMES)
    table(folder, "jsonl", [*ROWS, {"file_name": "gone.png", "text": "a"}, {"file_name": "so.png", "text": "b"}])
    assert any("2 of 14 files named in" in note and "'gone.png'" in note for note in read(folder).notes)
    table(folder, "jsonl", [{"file_name": "gone.png", "text": "a"}])
    with pytest.raises(
        InputError, match=r"names 1 files, none of which is an image of the set, for instance 'gone\.png'"
    ):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("1.txt", b"caf\xe9", r"0\.tar: 1\.txt cannot be read .*; expected a caption in UTF-8"),
        ("1.json", b"{", r"0\.tar: 1\.json is no JSON; expected an object such as"),
        ("1.json", b"[" * 100_000, r"0\.tar: 1\.json is no JSON"),
        ("1.json", b"[1]", r"1\.json holds \[1\]; expected an object such as"),
        ("1.json", b'{"text": 7}', r"1\.json has 7 for text; expected a caption, as text"),
    ],
)
def test_damaged_captions_of_shards_are_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    write(tmp_path / "d" / "0.tar", {"1.png": png(1), name: content})
    assert load_data(tmp_path / "d", 16, "all").captions is None
    with pytest.raises(InputError, match=expected):
        read(tmp_path / "d")


LONG = "A cat sits on a mat. It is red! Is it 3.5 years old? \u300cYes"


def test_half_of_the_time_a_prefix_of_the_long_caption_is_spoken() -> None:
    captions = Captions("a cat", LONG)
    assert [spoken(captions, (u, 0.9)) for u in (0.0, 0.499)] == ["a cat"] * 2
    prefixes = ["A cat sits on a mat.", "A cat sits on a mat. It is red!", LONG[: LONG.index("?") + 1], LONG]
    assert [spoken(captions, torch.tensor([0.5, (i + 0.5) / 4])) for i in range(4)] == prefixes
    assert spoken(captions, (0.5, 0.0)) == prefixes[0]
    assert spoken(captions, (0.999, 1 - 2**-24)) == LONG
    assert spoken(Captions("a cat"), (0.9, 0.9)) == "a cat"


def test_what_follows_two_dashes_is_not_spoken() -> None:
    assert spoken(Captions("a cat --ar 3:2", "One. Two. -- Three."), (0.0, 0.0)) == "a cat"
    assert spoken(Captions("a cat --ar 3:2", "One. Two. -- Three."), (0.9, 0.99)) == "One. Two."
    assert spoken(Captions("--ar 3:2"), (0.0, 0.0)) == "--ar 3:2"


@given(st.text(min_size=1), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_something_is_always_spoken_and_it_begins_a_caption(long: str, which: float, share: float) -> None:
    words = spoken(Captions("short", long), (which, share))
    assert words == "short" if which < 0.5 else words and long.startswith(words)
