"""Shards are read like folders: the same pictures and classes, any image at any time, and no damage passes unseen."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.data import shards
from nextscale.data.cache import cache_file
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData
from nextscale.errors import InputError

COUNT = 24


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))


def png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20 + seed % 3, 20, 3), dtype=np.uint8)).save(content, "png")
    return content.getvalue()


def write(shard: Path, files: dict[str, bytes]) -> None:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def names() -> dict[str, bytes]:
    return {f"{'cat' if i % 2 else 'dog'}/{i:02d}.png": png(i) for i in range(COUNT)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 12 pictures each, as files."""
    for name, content in names().items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    return tmp_path / "photos"


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """The same pictures, packed as ``tar`` packs a folder, in three shards of 8."""
    for k in range(3):
        write(tmp_path / "shards" / f"{k:03d}.tar", {f"./{n}": c for n, c in list(names().items())[8 * k : 8 * k + 8]})
    return tmp_path / "shards"


def content(data: ImageData) -> dict[str, tuple[str, bytes]]:
    pixels = data.read(torch.arange(len(data)))
    return {n: (data.classes[k], p.numpy().tobytes()) for n, k, p in zip(data.names, data.labels, pixels, strict=True)}


@pytest.mark.parametrize("split", ["train", "heldout", "all"])
def test_a_folder_and_its_shards_are_the_same_data(folder: Path, tars: Path, split: str) -> None:
    files, packed = load_data(folder, 16, split), load_data(tars, 16, split)
    assert content(files) == content(packed)
    assert files.classes == packed.classes == ["cat", "dog"]
    assert files.groups == ()
    assert sum(packed.groups) == len(packed)
    braces = load_data(tars / "{000..002}.tar", 16, split)
    assert (braces.hash, braces.names) == (packed.hash, packed.names)


def test_what_is_decoded_on_demand_equals_what_is_in_memory(tars: Path, folder: Path) -> None:
    for place in (tars, folder):
        kept, lazy = load_data(place, 16, "all"), load_data(place, 16, "all", memory=0)
        rows, places = torch.tensor([3, 17, 3, 8]), torch.rand(4, 2)
        assert kept.hash == lazy.hash
        assert kept.groups == lazy.groups
        assert torch.equal(kept.read(rows), lazy.read(rows))
        lazy.prefetch(rows)
        assert torch.equal(kept.read(rows, places), lazy.read(rows, places))
        with pytest.raises(InputError, match="24 images at 16 pixels are too many to hold in memory"):
            _ = lazy.images


def test_classes_from_cls_files(tmp_path: Path) -> None:
    pictures = {f"{i:03d}": png(i) for i in range(4)}
    for text in ("{}", " {}\n"):
        files = {k: v for i, (n, c) in enumerate(pictures.items()) for k, v in ((f"{n}.png", c), (f"{n}.cls", text))}
        numbered = {k: v if isinstance(v, bytes) else v.format(2 * (int(k[:3]) % 2)).encode() for k, v in files.items()}
        write(tmp_path / "s" / "0.tar", {**numbered, "000.mask.png": png(9), "readme.txt": b"no image"})
        data = load_data(tmp_path / "s", 16, "all")
        assert (data.classes, data.labels.tolist()) == (["0", "1", "2"], [0, 2, 0, 2])
        (tmp_path / "s" / "classnames.txt").write_text("tench\ngoldfish\nshark\nray\n")
        assert load_data(tmp_path / "s", 16, "all").classes == ["tench", "goldfish", "shark", "ray"]
        (tmp_path / "s" / "classnames.txt").write_text("tench\n")
        with pytest.raises(InputError, match=r"names 1 classes, but an image of .* has class 2"):
            load_data(tmp_path / "s", 16, "all")
        (tmp_path / "s" / "classnames.txt").unlink()
    write(tmp_path / "t" / "0.tar", {"1.png": png(1), "1.cls": b"ray", "2.png": png(2), "2.cls": b"eel"})
    named = load_data(tmp_path / "t", 16, "all")
    assert (named.classes, named.labels.tolist()) == (["eel", "ray"], [1, 0])
    write(tmp_path / "t" / "0.tar", {"1.png": png(1), "1.cls": b"ray", "2.png": png(2)})
    with pytest.raises(InputError, match=r"1 images of .* have no \.cls file, for instance 2\.png"):
        load_data(tmp_path / "t", 16, "all")


def test_official_splits_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0.tar", {"1.png": png(1), "2.png": png(2)})
    write(tmp_path / "val" / "0.tar", {"3.png": png(3)})
    assert load_data(tmp_path, 16, "train").names == ["1.png", "2.png"]
    assert load_data(tmp_path / "{train,val}" / "0.tar", 16, "heldout").names == ["3.png"]


@pytest.mark.parametrize("place", ["val", "valid", "validation", "test"])
def test_the_held_out_side_has_several_usual_names(tmp_path: Path, place: str) -> None:
    write(tmp_path / place / "0.tar", {"3.png": png(3), "3.cls": b"1"})
    write(tmp_path / "train" / "0.tar", {"1.png": png(1), "1.cls": b"0", "2.png": png(2), "2.cls": b"1"})
    (tmp_path / "train" / "classnames.txt").write_text("cat\ndog\n")
    for where in (tmp_path, tmp_path / f"{{{place},train}}" / "0.tar"):
        train, held_out = load_data(where, 16, "train"), load_data(where, 16, "heldout")
        assert (train.names, held_out.names, held_out.classes) == (["1.png", "2.png"], ["3.png"], ["cat", "dog"])
    write(tmp_path / "test" / "4.tar", {"4.png": png(4), "4.cls": b"1"})
    if place != "test":
        assert load_data(tmp_path, 16, "heldout").names == ["3.png"]
        assert load_data(tmp_path, 16, "train").names == ["1.png", "2.png"]
    write(tmp_path / "val" / "5.tar", {"5.png": png(4), "5.cls": b"1"})
    if place in ("val", "test"):
        return
    with pytest.raises(InputError, match=r"holds val.* beside train; expected one folder of held-out images"):
        load_data(tmp_path, 16)


def test_a_sample_has_one_picture_and_what_is_hidden_is_none(tmp_path: Path) -> None:
    mask = {"0001.mask.png": png(2), "0001.png": png(1), "0001.jpg": png(3), "0002.mask.png": png(4)}
    write(tmp_path / "s" / "0.tar", mask | {".hidden/1.png": png(5), "deep/.x/2.png": png(6), ".3.png": png(7)})
    write(tmp_path / "s" / "._0.tar", {"9.png": png(9)})
    assert load_data(tmp_path / "s", 16, "all").names == ["0001.png"]
    write(tmp_path / "t" / "0.tar", {"0001.mask.png": png(1)})
    with pytest.raises(InputError, match=r"hold no image; expected .* directly behind the first dot of a name"):
        load_data(tmp_path / "t", 16, "all")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    write(tmp_path / odd / f"{odd}.tar", {f"{odd}/{odd}.png": png(1), f"{odd}/2.png": b"no picture"})
    for memory in (None, 0):
        with pytest.warns(UserWarning, match=r"1 of 2 images cannot be read"):
            data = load_data(tmp_path / odd, 16, "all", memory)
        assert (data.names, data.classes) == ([r"caf\xe9/caf\xe9.png".replace("xe9", "udce9")], [r"caf\udce9"])
        assert "".join(data.unreadable).isprintable()


def test_ids_and_names_that_cannot_be(tmp_path: Path) -> None:
    for text in ("100000", "1" * 5000):
        write(tmp_path / "0.tar", {"1.png": png(1), "1.cls": text.encode(), "2.png": png(2), "2.cls": b"7"})
        with pytest.raises(InputError, match=rf"has class {text[:6]}.*; expected ids below 100000"):
            load_data(tmp_path, 16, "all")
    write(tmp_path / "0.tar", {"1.png": png(1), "1.cls": b"99999"})
    assert len(load_data(tmp_path, 16, "all").classes) == 100_000
    names = tmp_path / "classnames.txt"
    names.write_text("crane\nray\ncrane\n")
    with pytest.raises(InputError, match=r"classnames\.txt holds the name 'crane' 2 times; expected a different name"):
        load_data(tmp_path, 16, "all")
    names.write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"classnames\.txt cannot be read .*in UTF-8"):
        load_data(tmp_path, 16, "all")


def test_the_hash_knows_how_pictures_lie_in_shards(tars: Path, tmp_path: Path) -> None:
    write(tmp_path / "one" / "0.tar", names())
    one, three = load_data(tmp_path / "one", 16, "all"), load_data(tars, 16, "all")
    assert one.names == three.names
    assert one.hash != three.hash


def test_a_full_disk_leaves_no_notes_and_no_trouble(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, *_: object, **__: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    note = cache_file("shards", str(tars / "000.tar"), ".json")
    assert note is not None
    assert len(shards.index(tars / "000.tar")) == 8
    assert list(note.parent.iterdir()) == []
    looks = cache_file("looks", str(tars), ".jsonl")
    assert looks is not None
    looks.symlink_to("/dev/full")
    assert len(load_data(tars, 16, "all", memory=0)) == 24


def test_damaged_images_are_counted(tars: Path) -> None:
    whole = names()
    files = dict(list(whole.items())[:8]) | {"dog/00.png": b"no picture", "cat/01.png": whole["cat/01.png"][:300]}
    write(tars / "000.tar", files)
    for memory in (None, 0):
        with pytest.warns(
            UserWarning, match=r"2 of 24 images cannot be read and are left out, .*000\.tar: dog/00\.png"
        ):
            data = load_data(tars, 16, "all", memory)
        assert [text.split(": ")[1] for text in data.unreadable] == ["dog/00.png", "cat/01.png"]
        assert (len(data), data.groups) == (22, (6, 8, 8))
    with pytest.raises(InputError, match=r"22 of 24 images are smaller than 64 pixels, .* \(20 x 22\)"):
        load_data(tars, 64, "all")


def test_a_stale_or_damaged_index_is_not_used(tars: Path) -> None:
    first = shards.index(tars / "000.tar")
    note = cache_file("shards", str(tars / "000.tar"), ".json")
    assert note is not None
    marked = json.loads(note.read_text())
    marked["members"] = marked["members"][:1]
    note.write_text(json.dumps(marked))
    assert len(shards.index(tars / "000.tar")) == 1  # the note is what is read while the shard is the same
    write(tars / "000.tar", dict(list(names().items())[:9]))
    assert len(shards.index(tars / "000.tar")) == 9
    write(tars / "000.tar", dict(list(names().items())[:8]))
    note.write_text("{")
    assert [member.name for member in shards.index(tars / "000.tar")] == [member.name for member in first]


def test_a_large_set_is_looked_through_once(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    first = load_data(tars, 16, "all", 0, lambda *at: seen.append(at))
    assert seen == [(i + 1, 24) for i in range(24)]
    note = cache_file("looks", str(tars), ".jsonl")
    assert note is not None
    lines = note.read_text().splitlines()
    assert len(lines) == 24
    note.write_text("\n".join([*lines[:20], lines[20][:10]]))  # as a kill leaves it
    assert load_data(tars, 16, "all", 0).hash == first.hash
    write(tars / "002.tar", {"cat/new.png": png(99)})
    assert load_data(tars, 16, "all", 0).names[-1] == "cat/new.png"


def test_shards_that_cannot_be_used(tars: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of the 4 shards .* do not exist, for instance .*003\.tar"):
        load_data(tars / "{000..003}.tar", 16)
    whole = (tars / "000.tar").read_bytes()
    (tars / "000.tar").write_bytes(whole[: len(whole) // 2 + 200])
    with pytest.raises(InputError, match=r"the shard .*000\.tar is damaged after \d+ images"):
        load_data(tars, 16)
    second = whole.index(b"./cat/01.png")
    (tars / "000.tar").write_bytes(whole[:second] + b"\xff" * 200 + whole[second + 200 :])
    with pytest.raises(InputError, match=r"damaged after 1 images, .*a header is damaged"):
        load_data(tars, 16)
    (tars / "000.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(InputError, match="damaged after 0 images"):
        load_data(tars, 16)
    write(tmp_path / "none" / "0.tar", {"readme.txt": b"nothing"})
    with pytest.raises(InputError, match=r"the 1 shards .* hold no image"):
        load_data(tmp_path / "none", 16)
    write(tmp_path / "both" / "0.tar", {"1.png": png(1), "cat/2.png": png(2)})
    with pytest.raises(InputError, match="both single images and folders"):
        load_data(tmp_path / "both", 16)


def test_the_end_of_a_shard_is_its_end(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    write(shard, {f"{i}.png": png(i) for i in range(4)})
    whole = shard.read_bytes()
    ends = len(whole.rstrip(b"\0")) + 511 & -512
    third = whole.index(b"3.png")
    damaged = {
        "the two empty blocks at its end are missing": [whole[:third], whole[:ends], whole[: ends + 512]],
        "there is more behind its end": [whole * 2, whole + b"x" * 512, whole[: ends + 1024] * 2],
        "it is filled up with zeros": [whole[:third] + b"\0" * 50_000, whole[: ends - 600] + b"\0" * 50_000],
    }
    for why, contents in damaged.items():
        for content in contents:
            shard.write_bytes(content)
            with pytest.raises(InputError, match=rf"damaged after [34] images, or is no plain \.tar file \({why}\)"):
                load_data(tmp_path, 16, "all")
    for padding in (1024, 512 + 10_240):  # the least and the most that tar leaves there
        shard.write_bytes(whole[:ends] + b"\0" * padding)
        assert len(load_data(tmp_path, 16, "all")) == 4


def test_an_image_that_changes_under_way(folder: Path) -> None:
    lazy = load_data(folder, 16, "all", memory=0)
    (folder / lazy.names[5]).write_bytes(b"gone")
    assert lazy.read(torch.tensor([4])).shape == (1, 3, 16, 16)
    with pytest.raises(InputError, match=r"cat/11\.png changed after the set was looked through"):
        lazy.read(torch.tensor([5]))
