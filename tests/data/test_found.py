"""Nothing of a set is lost or mixed without a word: sides under usual names, links, labels in tables, small sets."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from nextscale.data.folder import load_data
from nextscale.data.images import ImageData, told
from nextscale.errors import InputError
from tests.data.test_shards import png, write


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))


def put(folder: Path, *names: str, side: int = 20) -> Path:
    """Pictures that differ, one of each name."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (i % 256, len(name), 7)).save(folder / name)
    return folder


def many(*folders: str, count: int = 12) -> list[str]:
    return [f"{folder}/{i:02}.png" for folder in folders for i in range(count)]


def both(path: Path) -> tuple[ImageData, ImageData]:
    return load_data(path, 16, "train"), load_data(path, 16, "heldout")


TRAIN = ["train", "Train", "TRAIN", "training", "train2014", "train_set", "training-data"]
HELD_OUT = [
    *("val", "VAL", "Valid", "validation", "dev", "Dev", "development", "eval", "evaluation", "test", "testing"),
    *("heldout", "held-out", "held_out", "holdout", "val2014", "test_set", "dev-set"),
]


@pytest.mark.parametrize(("train", "held_out"), [*((t, "dev") for t in TRAIN), *(("train", h) for h in HELD_OUT)])
def test_sides_under_usual_names_are_no_classes(tmp_path: Path, train: str, held_out: str) -> None:
    put(tmp_path / "d", *many(f"{train}/cat", f"{train}/dog"), *many(f"{held_out}/cat", f"{held_out}/dog", count=3))
    ours, theirs = both(tmp_path / "d")
    assert (len(ours), len(theirs), ours.classes, theirs.classes) == (24, 6, ["cat", "dog"], ["cat", "dog"])
    assert {train, held_out} <= set(ours.split_by.split())


@pytest.mark.parametrize("train", ["train", "Train", "part_train", "trainA"])
@pytest.mark.parametrize("other", ["foo", "unknown2", "evaluate_me"])
def test_what_looks_like_a_split_under_unknown_names_is_asked_about(tmp_path: Path, train: str, other: str) -> None:
    put(tmp_path / "d", *many(f"{train}/cat", f"{train}/dog", f"{other}/cat"))
    with pytest.raises(
        InputError, match=rf"{other}.* look like a split, as both hold cat; .*rename them to train and val"
    ):
        load_data(tmp_path / "d", 16)


def test_two_held_out_sides_without_one_to_train_on_are_asked_about(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("val/cat", "test/cat"))
    with pytest.raises(InputError, match="look like a split"):
        load_data(tmp_path / "d", 16)


def test_a_held_out_side_among_the_classes_is_asked_about(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("cat", "dog", "val/cat", "val/dog"))
    with pytest.raises(
        InputError, match="holds cat, and val holds cat again, so that val looks like a split; expected"
    ):
        load_data(tmp_path / "d", 16)


@pytest.mark.parametrize("place", ["cat", "wrapped"])
def test_a_split_inside_of_a_folder_is_not_mixed(tmp_path: Path, place: str) -> None:
    put(tmp_path / "d", *many(f"{place}/train/a", f"{place}/val/a"))
    with pytest.raises(InputError, match="holds train and val, which look like a split inside"):
        load_data(tmp_path / "d", 16)


@pytest.mark.parametrize("names", [("seg_train/a", "seg_test/b"), ("trainA", "trainB", "testA", "testB")])
def test_names_that_all_speak_of_sides_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path / "d", *many(*names))
    with pytest.raises(InputError, match="which look like a split; expected names that are understood: rename two"):
        load_data(tmp_path / "d", 16)


@pytest.mark.parametrize(
    "names", [("trn", "tst"), ("tr", "va"), ("Entrenamiento", "Prueba"), ("fold0", "fold1", "fold2")]
)
def test_classes_that_hold_the_same_folders_are_told_to_be_perhaps_a_split(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    put(tmp_path / "d", *many(*(f"{name}/{kind}" for name in names for kind in ("cat", "dog"))))
    (note,) = both(tmp_path / "d")[0].notes
    assert all(name in note for name in names)
    assert "cat, dog" in note
    assert "if they are a split, rename them" in note


def test_a_folder_of_the_same_name_in_every_class_is_no_sign_of_a_split(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("cat/images", "dog/images"))
    assert both(tmp_path / "d")[0].notes == ()


def test_several_names_for_one_side_are_asked_about(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("train/cat", "Training/cat", "val/cat"))
    with pytest.raises(InputError, match="holds Training, train beside val; expected one folder of images to train on"):
        load_data(tmp_path / "d", 16)


@pytest.mark.parametrize("name", ["dev", "test", "val", "train", "Eval"])
def test_a_class_may_be_called_like_a_side(tmp_path: Path, name: str) -> None:
    data = load_data(put(tmp_path / "d", *many("cat", "dog", name)), 16, "all")
    assert data.classes == sorted(["cat", "dog", name])
    assert (
        f"{name} in {tmp_path / 'd'} may name a split, but is read as a class beside cat, dog; expected train and val"
        in data.notes
    )


def test_classes_beside_what_looks_like_a_split_are_asked_about(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("train", "test", "bus", "car"))
    with pytest.raises(
        InputError, match="train and test, which look like a split, beside bus, car, which look like clas"
    ):
        load_data(tmp_path / "d", 16)


def test_what_lies_beside_the_sides_is_counted_and_named(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("train/cat", "val/cat", "test", "extra/cat"), "grid.png")
    data = load_data(tmp_path / "d", 16)
    assert data.passed_over.counts == {"in test/": 12, "in extra/": 12, "beside the split": 1}
    assert "test/00.png" in data.passed_over.first.values()


def test_links_are_read_as_what_they_lead_to(tmp_path: Path) -> None:
    put(tmp_path / "store", *many("cat"), "one.png")
    put(tmp_path / "d", *many("dog"))
    os.symlink(tmp_path / "store" / "cat", tmp_path / "d" / "cat")
    os.symlink(tmp_path / "store" / "one.png", tmp_path / "d" / "dog" / "linked.png")
    data = load_data(tmp_path / "d", 16, "all")
    assert (data.classes, data.counts) == (["cat", "dog"], [12, 13])
    (tmp_path / "all").mkdir()
    for side in ("train", "val"):
        (tmp_path / "all" / side).symlink_to(tmp_path / "d")
    assert [len(data) for data in both(tmp_path / "all")] == [25, 25]


def test_links_in_circles_and_to_nowhere_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("cat"))
    (tmp_path / "d" / "cat" / "again").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "cat" / "self").symlink_to("self")
    (tmp_path / "d" / "cat" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "d" / "cat" / "pipe.png")
    data = load_data(tmp_path / "d", 16, "all")
    counts = {"links that go in circles": 1, "links to nowhere": 2, "no regular files": 1}
    assert (len(data), data.passed_over.counts) == (12, counts)


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("cat"), "cat/.hidden.png")
    for name in ("cat/1.heic", "cat/2.HEIC", "cat/notes.txt", "Thumbs.db", ".DS_Store", "cat/README"):
        (tmp_path / "d" / name).write_text("x")
    (tmp_path / "d" / "__MACOSX").mkdir()
    put(tmp_path / "d", "__MACOSX/1.png")
    train, heldout = both(tmp_path / "d")
    kinds = {".heic": 2, ".txt": 1, ".db": 1, "hidden": 2, "without a suffix": 1, "of the system": 1}
    assert train.passed_over.counts == kinds
    line = told("d", train, heldout)[0]
    assert "8 files (2 .heic, 1 " in line
    assert "cat/1.heic" in line


def test_a_folder_of_nothing_but_unreadable_kinds_says_which(tmp_path: Path) -> None:
    (tmp_path / "1.heic").write_text("x")
    with pytest.raises(InputError, match=r"holds no image .*passed over: 1 file \(1 \.heic\), for instance 1\.heic"):
        load_data(tmp_path, 16)


SUFFIXES = ("ppm", "tga", "jp2", "j2k", "avif", "ico", "pcx", "sgi", "dds", "qoi", "jfif", "dib", "webp", "JPG", "Tiff")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_pillow_can_read_is_read(tmp_path: Path, suffix: str) -> None:
    colour = (200, 30, 60)
    Image.new("RGB", (32, 32), colour).save(tmp_path / f"1.{suffix}")
    means = load_data(tmp_path, 16, "all").images[0].float().mean((1, 2)).tolist()
    assert means == pytest.approx(colour, abs=8)


def table(folder: Path, form: str, rows: Sequence[Mapping[str, object]]) -> None:
    if form == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(f'"{row[c]}"' for c in columns) for row in rows)]
        text = "\r\n".join(lines) + "\r\n"
        (folder / "metadata.csv").write_bytes(("\ufeff" + text).encode())


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("column", ["label", "labels", "class", "category", "Label"])
@pytest.mark.parametrize("place", ["", "images/", "deep/er/"])
def test_labels_in_a_table_are_the_classes(tmp_path: Path, form: str, column: str, place: str) -> None:
    put(tmp_path / "d", *(f"{place}{i:02}.png" for i in range(20)))
    rows = [{"file_name": f"{place}{i:02}.png", "text": "a, b", column: ["cat", "big dog"][i % 2]} for i in range(20)]
    table(tmp_path / "d", form, rows)
    data = load_data(tmp_path / "d", 16, "all")
    assert (data.classes, data.counts) == (["big dog", "cat"], [10, 10])
    assert data.labels.tolist() == [1, 0] * 10
    assert data.notes == (f"labels are the column {column} of {tmp_path / 'd' / f'metadata.{form}'}",)


@pytest.mark.parametrize("top", [True, False])
def test_a_table_may_lie_at_the_top_or_in_each_side(tmp_path: Path, top: bool) -> None:
    folder = put(tmp_path / "d", *many("train", "test"))
    for side in ("train", "test"):
        rows = [{"file_name": f"{i:02}.png", "label": ["cat", "dog"][i % 2]} for i in range(12)]
        table(folder / side, "jsonl", rows)
    if top:
        rows = [{"file_name": f"./{name}", "label": f"{name[-5:-4]}x"} for name in many("train", "test")]
        for side in ("train", "test"):
            (folder / side / "metadata.jsonl").unlink()
        table(folder, "csv", rows)
    train, heldout = both(folder)
    assert (train.classes, len(train), len(heldout)) == (
        sorted(f"{i}x" for i in range(10)) if top else ["cat", "dog"],
        12,
        12,
    )


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_tables_in_folders_count_once_and_say_what_they_replace(tmp_path: Path, form: str) -> None:
    folder = put(tmp_path / "d", *many("a", "b", "c"))
    for name in ("a", "b", "c"):
        table(folder / name, form, [{"file_name": f"{i:02}.png", "label": i % 2} for i in range(12)])
    data = load_data(folder, 16, "all")
    assert (data.classes, data.counts) == (["0", "1"], [18, 18])
    first = folder / "a" / f"metadata.{form}"
    assert data.notes == (f"labels are the column label of {first} and 2 more tables, not the folders a, b, c",)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_numbers_as_labels_are_ids(tmp_path: Path, form: str) -> None:
    folder = put(tmp_path / "d", *(f"{i:02}.png" for i in range(12)))
    table(folder, form, [{"file_name": f"{i:02}.png", "label": [0, 2, 10][i % 3]} for i in range(12)])
    data = load_data(folder, 16, "all")
    assert (data.classes, data.labels[:3].tolist()) == ([str(i) for i in range(11)], [0, 2, 10])
    (folder / "classnames.txt").write_bytes("\ufeffa\r\nb\r\ncafe\u0301\r\n0\n1\n2\n3\n4\n5\n6\n7\n".encode())
    assert load_data(folder, 16, "all").classes[:3] == ["a", "b", "caf\u00e9"]


def test_rows_and_images_that_do_not_meet_are_counted(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", *(f"{i:02}.png" for i in range(12)))
    rows = [{"file_name": f"{i:02}.png", "label": None if i == 3 else "cat"} for i in range(2, 14)]
    table(folder, "jsonl", [*rows, rows[0]])
    data = load_data(folder, 16, "all")
    assert len(data) == 9
    said = " ".join(data.notes)
    assert "2 of 13 files named in" in said
    assert "'12.png'" in said
    assert "3 of 12 images have no label in a table and are left out, for instance 00.png" in said


@pytest.mark.parametrize("row", [{"file_name": "00.png"}, {"label": "cat"}, {"file_name": "00.png", "text": "a cat"}])
def test_a_table_without_files_or_labels_is_not_used_and_that_is_said(tmp_path: Path, row: dict[str, object]) -> None:
    folder = put(tmp_path / "d", *many("cat", "dog"))
    table(folder, "jsonl", [row])
    data = load_data(folder, 16, "all")
    assert data.classes == ["cat", "dog"]
    assert any("metadata.jsonl is not used: it has no column" in note for note in data.notes)


BAD_LINES = {
    "deep": ("[" * 200_000, r"line 2 .* which is no JSON"),
    "digits": ('{"file_name": "00.png", "label": ' + "9" * 5000 + "}", r"line 2 .* which is no JSON"),
    "list": ("[1]", r"line 2 .* is \[1\]; expected a JSON object"),
    "cut": ('{"file_name": ', "line 2 .* which is no JSON"),
    "number": ('{"file_name": 7, "label": "cat"}', "line 2 .* has 7 in the column file_name; expected a file name"),
    "twice": ('{"file_name": "00.png", "label": "dog"}', "line 2 .* gives 00.png a second label .*; expected one"),
    "name": (
        '{"file_name": "01.png", "label": "' + "x" * 3_000_000 + '"}',
        "a class is called 'xxx.*at most 1000 char",
    ),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_table_that_cannot_be_is_refused_in_one_short_sentence(tmp_path: Path, kind: str) -> None:
    folder = put(tmp_path / "d", "00.png", "01.png")
    line, expected = BAD_LINES[kind]
    (folder / "metadata.jsonl").write_text('{"file_name": "00.png", "label": "cat"}\n' + line)
    with pytest.raises(InputError, match=expected) as caught:
        load_data(folder, 16, "all")
    assert len(str(caught.value)) < 600


def test_a_table_of_other_files_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", "00.png", "01.png")
    (folder / "metadata.csv").write_text("file_name,label\n0,cat\n1,dog\n")
    with pytest.raises(InputError, match=r"names 2 files, none of which is an image of the set, for instance '0'"):
        load_data(folder, 16, "all")
    (folder / "metadata.csv").write_bytes("file_name,label\n00.png,caf\u00e9\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"metadata\.csv cannot be read .*in UTF-8"):
        load_data(folder, 16, "all")


@pytest.mark.parametrize("name", ["labels.csv", "dataset.json", "annotations.json", "train.tsv", "classes.txt"])
def test_labels_that_are_not_used_are_named(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "d", *many("cat", "dog"))
    (folder / name).write_text('{"labels": [["cat/00.png", 0]]}')
    data = load_data(folder, 16, "all")
    assert data.classes == ["cat", "dog"]
    assert data.notes == (f"there may be labels in {name}, which is not read",)


@pytest.mark.parametrize("text", ['{"labels": null}', "[]", "7", "{", "[" * 200_000, '{"x": ' + "9" * 5000 + "}", ""])
def test_another_tools_description_is_not_taken_for_ours(tmp_path: Path, text: str) -> None:
    folder = put(tmp_path / "d", *many("cat"))
    (folder / "dataset.json").write_text(text)
    assert load_data(folder, 16, "all").classes == ["cat"]


CAFE = ("cafe\u0301", "caf\u00e9")


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    put(tmp_path / "d", *many(f"train/{CAFE[0]}", f"val/{CAFE[1]}", "train/tea", "val/tea"))
    ours, theirs = both(tmp_path / "d")
    assert (ours.classes, ours.counts, theirs.counts) == ([CAFE[1], "tea"], [12, 12], [12, 12])
    put(tmp_path / "one", *many(*CAFE))
    assert load_data(tmp_path / "one", 16, "all").classes == [CAFE[1]]
    folder = put(tmp_path / "table", f"{CAFE[0]}/1.png", "2.png")
    table(
        folder, "jsonl", [{"file_name": f"{CAFE[1]}/1.png", "label": CAFE[0]}, {"file_name": "2.png", "label": CAFE[1]}]
    )
    assert load_data(folder, 16, "all").counts == [2]
    for i in range(2):
        write(tmp_path / "tars" / f"{i}.tar", {f"{i}.png": png(i), f"{i}.cls": f"\ufeff{CAFE[i]}\r\n".encode()})
    assert load_data(tmp_path / "tars", 16, "all").classes == [CAFE[1]]


@pytest.mark.parametrize("side", ["", "train/"])
def test_a_class_folder_without_a_readable_image_is_named(tmp_path: Path, side: str) -> None:
    put(tmp_path / "d", *many(f"{side}cat", "val/cat" if side else "dog"))
    (tmp_path / "d" / side / "bird").mkdir()
    (tmp_path / "d" / side / "bird" / "1.heic").write_text("x")
    data = load_data(tmp_path / "d", 16)
    assert "bird" not in data.classes
    assert data.notes == ("no image is read in bird, so there is no such class",)


@pytest.mark.parametrize("other", ["Cat", "cat ", "c\u200bat", "\uff43at"])
def test_names_that_look_alike_and_are_different_classes_are_told(tmp_path: Path, other: str) -> None:
    put(tmp_path / "d", *many("cat", other, "dog"))
    ours, _ = both(tmp_path / "d")
    assert len(ours.classes) == 3
    assert [note for note in ours.notes if "'cat'" in note and repr(other) in note and "look alike" in note]


def test_classes_that_are_never_trained_on_are_named(tmp_path: Path) -> None:
    put(tmp_path / "d", *many("train/cat", "train/dog", "val/Cat", "val/dog"))
    assert "1 of 3 classes have no image to train on: Cat" in load_data(tmp_path / "d", 16).notes


def test_numbers_as_names_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", *many("0", "1", "2", "10", "11"))
    data = load_data(folder, 16, "all")
    assert data.classes == ["0", "1", "2", "10", "11"]
    assert data.notes == ("the classes are called 0, 1, 2, 10, 11, but their ids are 0 to 4, in this order",)
    assert [data.classes[label] for label in data.labels.unique()] == data.classes
    put(folder, *many("x"))
    assert load_data(folder, 16, "all").classes == ["0", "1", "10", "11", "2", "x"]
    negative = put(tmp_path / "negative", *many("-1", "0", "2", "10", "1.5"))
    assert load_data(negative, 16, "all").classes == ["-1", "0", "1.5", "2", "10"]
    other = load_data(put(tmp_path / "e", *many("1", "2")), 16, "all")
    assert other.notes == ("the classes are called 1, 2, but their ids are 0 to 1, in this order",)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 12, 24])
@pytest.mark.parametrize("packed", [False, True])
def test_small_sets_have_both_sides(tmp_path: Path, count: int, packed: bool) -> None:
    for trial in range(12):
        names = [f"{trial}-{i}.png" for i in range(count)]
        place = tmp_path / str(trial)
        if packed:
            write(place / "0.tar", {name: png(i) for i, name in enumerate(names)})
        else:
            put(place, *names)
        train, heldout = both(place)
        assert len(train) + len(heldout) == count
        assert len(train) * len(heldout) > 0
        assert sorted(train.names + heldout.names) == sorted(names)
        if len(heldout) == 1 and any("so small" in note for note in train.notes):
            assert any(heldout.names[0] in note for note in train.notes)


def test_of_a_small_set_a_damaged_image_is_not_the_one_that_is_held_out(tmp_path: Path) -> None:
    put(tmp_path / "d", *(f"{i}.png" for i in range(5)))
    first = load_data(tmp_path / "d", 16, "heldout").names[0]
    (tmp_path / "d" / first).write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 of 2 images cannot be read"):
        second = load_data(tmp_path / "d", 16, "heldout").names
    assert second
    assert first not in second


def test_of_one_image_nothing_is_held_out_and_that_is_said(tmp_path: Path) -> None:
    for name in (f"{i}.png" for i in range(20)):
        place = put(tmp_path / name, name)
        assert len(load_data(place, 16, "train")) == 1
        with pytest.raises(InputError, match="holds 1 image, but none of the split 'heldout'; expected one or more"):
            load_data(place, 16, "heldout")


def test_small_images_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", *many("cat"))
    put(folder, "cat/tiny.png", side=8)
    for memory in (None, 0):
        with pytest.raises(InputError, match=r"1 of 13 images are smaller than 16 pixels, .*tiny\.png .*--skip-small"):
            load_data(folder, 16, "all", memory)
        with pytest.warns(UserWarning, match=r"1 of 13 images are smaller than 16 pixels and left out, .*\(8 x 8\)"):
            data = load_data(folder, 16, "all", memory, skip_small=True)
        assert (len(data), data.too_small) == (12, (str(folder / "cat" / "tiny.png"),))
    (folder / "cat" / "tiny.png").unlink()
    assert load_data(folder, 16, "all").hash == data.hash


def test_shards_named_by_their_sides_are_the_sides(tmp_path: Path) -> None:
    for i, word in enumerate(("train", "train", "validation", "test")):
        write(tmp_path / "d" / f"imagenet1k-{word}-{i:04}.tar", {f"{i}.png": png(i)})
    train, heldout = both(tmp_path / "d")
    assert (train.names, heldout.names) == (["0.png", "1.png"], ["2.png"])
    assert train.passed_over.counts == {"of test": 1}
    write(tmp_path / "d" / "more.tar", {"9.png": png(9)})
    with pytest.raises(
        InputError, match=r"names of some shards .* say train and validation, but that of more\.tar says"
    ):
        load_data(tmp_path / "d", 16)


def test_shards_beside_a_split_are_asked_about(tmp_path: Path) -> None:
    for name in ("Train/0.tar", "dev/0.tar"):
        write(tmp_path / "d" / name, {f"{name[0]}.png": png(1)})
    assert [data.names for data in both(tmp_path / "d")] == [["T.png"], ["d.png"]]
    write(tmp_path / "d" / "0.tar", {"9.png": png(9)})
    with pytest.raises(InputError, match="holds shards in the folders Train and dev, which are a split, and outside"):
        load_data(tmp_path / "d", 16)


def test_shards_beside_a_held_out_folder_are_not_mixed_with_it(tmp_path: Path) -> None:
    for name in ("0.tar", "val/0.tar"):
        write(tmp_path / "d" / name, {"1.png": png(1)})
    with pytest.raises(InputError, match=r"holds shards in val, which look held out, and others such as .*0\.tar; exp"):
        load_data(tmp_path / "d", 16)


def test_what_is_passed_over_of_shards_is_counted(tmp_path: Path) -> None:
    files = {f"{i}.{kind}": png(i) if kind == "png" else b"x" for i in range(4) for kind in ("json", "png", "txt")}
    write(tmp_path / "d" / "0.tar", files | {"1.mask.png": png(8), "2.pfm": b"x", ".h.png": b"x"})
    put(tmp_path / "d", "grid.jpg", "cat/1.png")
    for _ in range(2):  # as scanned, and as noted
        data = load_data(tmp_path / "d", 16, "all")
        counts = {".jpg": 1, ".png": 2, ".json": 4, ".txt": 4, ".pfm": 1, "hidden": 1}
        assert (len(data), data.passed_over.counts) == (4, counts)
        assert "labels are read from .cls files or folders in the shards, not from .json or .txt files" in data.notes


def test_a_picture_is_rather_a_usual_one_than_what_lies_beside_it(tmp_path: Path) -> None:
    Image.new("L", (20, 20), 3).save(tmp_path / "0.tga")
    write(tmp_path / "d" / "0.tar", {"0.tga": (tmp_path / "0.tga").read_bytes(), "0.png": png(1), "1.png": png(2)})
    assert load_data(tmp_path / "d", 16, "all").names == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s/{000..999999999}.tar", "means more than 100000 shards; expected fewer"),
        ("s/{000..999999999}/{000..999999999}.tar", "means more than 100000"),
        ("s/" + "{0..9}" * 300 + ".tar", "means more than 100000"),
        ("s/" + "{a,b}" * 3000 + ".tar", "means more than 100000"),
        ("s/{9..1}.tar", r"shards are numbered \{9\.\.1\}; expected numbers upwards"),
        ("s/{0.." + "9" * 5000 + "}.tar", "1 of the 1 shards"),
    ],
    ids=range(6),
)
def test_shards_are_bounded_before_any_is_listed(path: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        load_data(path, 16)
    assert len(str(caught.value)) < 1500


def test_a_folder_may_have_braces_in_its_name(tmp_path: Path) -> None:
    assert len(load_data(put(tmp_path / "d{0..1}", *many("cat")), 16, "all")) == 12


@pytest.mark.parametrize("label", [b"x" * 3_000_000, b"9" * 3_000_000])
def test_endless_labels_are_refused_in_a_short_sentence(tmp_path: Path, label: bytes) -> None:
    write(tmp_path / "d" / "0.tar", {"1.png": png(1), "1.cls": label})
    with pytest.raises(InputError, match=r"at most 1000 characters|expected ids below 100000") as caught:
        load_data(tmp_path / "d", 16)
    assert len(str(caught.value)) < 500


def test_labels_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    labels = {f"{i}.cls": text for i, text in enumerate((b"caf\xe9", b"caf\xe8"))}
    write(tmp_path / "d" / "0.tar", {"0.png": png(0), "1.png": png(1), **labels})
    assert load_data(tmp_path / "d", 16, "all").classes == [r"caf\xe8", r"caf\xe9"]


def test_names_for_ids_may_lie_above_the_sides(tmp_path: Path) -> None:
    for side in ("train", "val"):
        write(tmp_path / "d" / side / "0.tar", {"0.png": png(0), "0.cls": b"1"})
    (tmp_path / "d" / "classnames.txt").write_text("cat\ndog\n")
    assert load_data(tmp_path / "d", 16).classes == ["cat", "dog"]
    write(tmp_path / "e" / "0.tar", {"cat/0.png": png(0)})
    (tmp_path / "e" / "classnames.txt").write_text("cat\n")
    assert "classnames.txt is not used" in " ".join(load_data(tmp_path / "e", 16, "all").notes)


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"0.png": png(0), "0.cls": b"\n", "1.png": png(1), "1.cls": b"cat"})
    with pytest.raises(InputError, match="1 images have an empty class; expected a name or a number"):
        load_data(tmp_path, 16, "all")


def test_links_in_shards_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", {"0.png": png(0)})
    with tarfile.open(tmp_path / "0.tar", "a") as archive:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        archive.addfile(link)
    assert load_data(tmp_path, 16, "all").passed_over.counts["links and the like"] == 1
