"""Images arrive as they are in their files, on the side their path says, and what cannot be used is said."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from nextscale.data.emoji import build_emoji
from nextscale.data.emoji_reader import load_emoji, read_metadata
from nextscale.data.emoji_sources import Package
from nextscale.data.folder import load_data, load_folder
from nextscale.data.pictures import decode
from nextscale.errors import InputError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def save(path: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 20 images."""
    for i in range(20):
        save(tmp_path / "photos" / "cat" / f"{i}.png", RED)
        save(tmp_path / "photos" / "dog" / "deeper" / f"{i}.PNG", GREEN)
    return tmp_path / "photos"


@pytest.fixture
def emoji(tmp_path: Path, packages: dict[str, Package]) -> Path:
    return build_emoji(tmp_path / "set", ("noto", "fluent-emoji"), 16, packages=packages).folder


def test_an_emoji_set_is_read_as_it_was_drawn(emoji: Path) -> None:
    data = load_data(emoji, 16, "all")
    records = read_metadata(emoji)
    assert data.images.shape == (10, 3, 16, 16)
    assert data.images.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert data.classes == ["cat-face", "person-role", "animal-mammal"]
    assert [data.classes[label] for label in data.labels] == [record["class"] for record in records]
    assert data.names == [record["name"] for record in records]
    worker = data.names.index("health worker")
    assert (data.images[worker] == torch.tensor(RED).view(3, 1, 1)).all()


def test_styles_are_known(emoji: Path) -> None:
    data = load_data(emoji, 16, "all")
    assert data.styles == ["noto", "fluent-emoji"]
    assert data.style_labels.dtype == torch.int64
    assert [data.styles[s] for s in data.style_labels] == [record["style"] for record in read_metadata(emoji)]
    drawn = load_emoji(emoji, "all", style="fluent-emoji")
    assert (drawn.styles, drawn.style_labels.tolist()) == (data.styles, [1] * 5)


def test_equal_hashes_are_equal_data(photos: Path, emoji: Path) -> None:
    hashes = [load_data(photos, 16, "all").hash, load_data(photos, 24, "all").hash, load_data(emoji, 16, "all").hash]
    assert load_data(photos, 16, "all").hash == hashes[0]
    (photos / "dog" / "deeper" / "0.PNG").rename(photos / "cat" / "20.png")
    hashes.append(load_data(photos, 16, "all").hash)
    Image.new("RGB", (32, 32), (255, 0, 1)).save(photos / "cat" / "0.png")
    hashes.append(load_data(photos, 16, "all").hash)
    lines = (emoji / "metadata.jsonl").read_text().splitlines()
    swapped = [line.replace('"style": "noto"', '"style": "fluent-emoji"') for line in lines]
    (emoji / "metadata.jsonl").write_text("\n".join(swapped))
    hashes.append(load_data(emoji, 16, "all").hash)
    assert len(set(hashes)) == 6


def test_splits_and_styles_select(emoji: Path) -> None:
    whole = load_emoji(emoji, "all")
    train = load_emoji(emoji, "train")
    drawn = load_emoji(emoji, "train", style="noto")
    held_out = sum(record["split"] == "heldout" for record in read_metadata(emoji))
    assert len(train) == len(whole) - held_out
    assert len(drawn) == len(train) / 2
    assert len({whole.hash, drawn.hash}) == 2
    assert load_emoji(emoji, "train").hash == train.hash


def test_broken_emoji_sets(emoji: Path) -> None:
    with pytest.raises(InputError, match="drawn at 16 pixels; expected 64: build another with --resolution 64"):
        load_data(emoji, 64)
    with pytest.raises(InputError, match="holds no style 'openmoji'; expected one of noto, fluent-emoji"):
        load_emoji(emoji, "train", style="openmoji")
    with pytest.raises(InputError, match="there is no split 'test'; expected one of train, heldout, all"):
        load_emoji(emoji, "test")
    (emoji / "images" / "noto" / "1f63a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"1f63a\.png is missing or damaged; build the set again"):
        load_emoji(emoji, "all")
    text = (emoji / "dataset.json").read_text()
    (emoji / "dataset.json").write_text(text.replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(InputError, match="format version 99; expected 1"):
        load_data(emoji, 16)
    (emoji / "dataset.json").write_text(text[:50])
    with pytest.raises(InputError, match="cannot be read as the description"):
        load_data(emoji, 16)


def test_class_folders_are_classes(photos: Path) -> None:
    data = load_data(photos, 16, "all")
    assert data.classes == ["cat", "dog"]
    assert data.labels.tolist() == [0] * 20 + [1] * 20
    assert (data.images[data.labels == 1] == torch.tensor(GREEN).view(3, 1, 1)).all()
    assert data.names[-1].startswith("dog/deeper/")


def test_the_held_out_part_is_fixed_and_apart(photos: Path) -> None:
    train, held_out = (load_folder(photos, 16, split, 0.3) for split in ("train", "heldout"))
    assert 0 < len(held_out) < len(train)
    assert sorted(train.names + held_out.names) == sorted(load_folder(photos, 16, "all").names)
    save(photos / "cat" / "new.png")
    assert set(held_out.names) <= set(load_folder(photos, 16, "heldout", 0.3).names)
    assert load_folder(photos, 16, "heldout", 0.3).classes == ["cat", "dog"]


def test_official_splits_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat" / "1.png")
    save(tmp_path / "train" / "dog" / "2.png")
    save(tmp_path / "val" / "dog" / "3.png")
    assert load_folder(tmp_path, 16, "train").names == ["train/cat/1.png", "train/dog/2.png"]
    held_out = load_folder(tmp_path, 16, "heldout")
    assert (held_out.names, held_out.classes, held_out.labels.tolist()) == (["val/dog/3.png"], ["cat", "dog"], [1])


@pytest.mark.parametrize("place", ["valid", "validation", "test"])
def test_the_held_out_side_has_several_usual_names(tmp_path: Path, place: str) -> None:
    save(tmp_path / "train" / "cat" / "1.png")
    save(tmp_path / place / "cat" / "2.png")
    assert load_folder(tmp_path, 16, "train").names == ["train/cat/1.png"]
    held_out = load_folder(tmp_path, 16, "heldout")
    assert (held_out.names, held_out.classes) == ([f"{place}/cat/2.png"], ["cat"])
    save(tmp_path / "val" / "cat" / "3.png")
    if place == "test":
        assert load_folder(tmp_path, 16, "heldout").names == ["val/cat/3.png"]
        return
    with pytest.raises(InputError, match=rf"holds val, {place} beside train; expected one folder of held-out images"):
        load_folder(tmp_path, 16)


def test_train_alone_is_split_like_any_folder(photos: Path) -> None:
    (photos.parent / "whole").mkdir()
    photos.rename(photos.parent / "whole" / "train")
    for split in ("train", "heldout"):
        outer = load_folder(photos.parent / "whole", 16, split, 0.3)
        inner = load_folder(photos.parent / "whole" / "train", 16, split, 0.3)
        assert outer.classes == ["cat", "dog"]
        assert (outer.hash, outer.names) == (inner.hash, [f"train/{name}" for name in inner.names])
    save(photos.parent / "whole" / "ship" / "1.png")  # beside other classes, trains are one more
    assert load_folder(photos.parent / "whole", 16, "all").classes == ["ship", "train"]


def test_what_is_hidden_is_no_picture_and_no_class(photos: Path) -> None:
    before = load_folder(photos, 16, "all").hash
    save(photos / ".ipynb_checkpoints" / "1.png")
    save(photos / "cat" / ".thumbnails" / "1.png")
    save(photos / "cat" / "._1.png")
    assert load_folder(photos, 16, "all").hash == before
    photos.rename(photos.parent / ".photos")
    assert len(load_folder(photos.parent / ".photos", 16, "all")) == 40


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    save(tmp_path / odd / odd / f"{odd}.png")
    for memory in (None, 0):
        data = load_folder(tmp_path / odd, 16, "all", memory=memory)
        assert (data.names, data.classes) == ([r"caf\udce9/caf\udce9.png"], [r"caf\udce9"])


def test_pictures_are_turned_as_their_metadata_say() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form in ("jpeg", "png", "tiff", "webp"):
            content = io.BytesIO()
            Image.fromarray(noise).save(content, form, exif=exif)
            turned = decode(content.getvalue())
            with Image.open(io.BytesIO(content.getvalue())) as opened:
                expected = ImageOps.exif_transpose(opened).convert("RGB")
            assert turned is not None
            assert (turned.size, turned.tobytes()) == (expected.size, expected.tobytes())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_metadata_damage_no_picture() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x010E], exif[0x0132] = 6, 72.0, "a note", "2026"
    sound = exif.tobytes()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    for place in range(6, len(sound)):
        for value in (0, 5, 26, 84):
            content = io.BytesIO()
            noise.save(content, "jpeg", exif=sound[:place] + bytes([value]) + sound[place + 1 :])
            picture = decode(content.getvalue())
            assert picture is not None
            assert picture.size in ([(24, 32)] if place == 17 else [(24, 32), (32, 24)])  # 17: the type of the note


def test_a_flat_folder_is_one_class(tmp_path: Path) -> None:
    save(tmp_path / "faces" / "1.jpg")
    (tmp_path / "faces" / "notes.txt").write_text("not an image, and no reason to complain")
    data = load_folder(tmp_path / "faces", 16, "all")
    assert (data.classes, data.labels.tolist()) == (["faces"], [0])


def test_the_centre_is_cropped(tmp_path: Path) -> None:
    wide = np.zeros((90, 270, 3), np.uint8)
    wide[:, 90:180] = RED
    (tmp_path / "x").mkdir()
    Image.fromarray(wide).save(tmp_path / "x" / "wide.png")
    pixels = load_folder(tmp_path, 80, "all").images[0]
    assert (pixels == torch.tensor(RED).view(3, 1, 1)).all()


def test_every_kind_of_pixel_becomes_colour_on_white(tmp_path: Path) -> None:
    save(tmp_path / "1.png", (0, 0, 0, 0), mode="RGBA")
    save(tmp_path / "2.png", (255, 0), mode="LA")
    Image.new("L", (32, 32), 100).save(tmp_path / "3.png")
    Image.fromarray(np.full((32, 32), 100 * 256, np.uint16)).save(tmp_path / "4.png")
    Image.new("P", (32, 32), 0).save(tmp_path / "5.png", transparency=0)
    images = load_folder(tmp_path, 16, "all").images
    assert [image.unique().tolist() for image in images] == [[255], [255], [100], [100], [255]]


def test_damaged_images_are_counted(photos: Path) -> None:
    (photos / "cat" / "0.png").write_bytes(b"no picture")
    whole = (photos / "cat" / "1.png").read_bytes()
    (photos / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="2 of 40 images cannot be read and are left out, for instance .*cat/0.png"):
        data = load_folder(photos, 16, "all")
    assert data.unreadable == (str(photos / "cat" / "0.png"), str(photos / "cat" / "1.png"))
    assert len(data) == len(data.images) == len(data.names) == 38


def test_folders_that_cannot_be_used(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected an emoji set or a folder of images"):
        load_data(tmp_path / "nowhere", 16)
    with pytest.raises(InputError, match="is a file"):
        load_data(photos / "cat" / "0.png", 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        load_data(tmp_path / "empty", 16)
    with pytest.raises(InputError, match=r"40 of 40 images are smaller than 64 pixels, .*\(32 x 32\)"):
        load_folder(photos, 64, "all")
    with pytest.raises(InputError, match="none of the split 'heldout'"):
        load_folder(photos, 16, "heldout", held_out=0)
    with pytest.raises(InputError, match=r"held_out is 1\.5; expected a share from 0 to below 1"):
        load_folder(photos, 16, held_out=1.5)
    save(photos / "single.png")
    with pytest.raises(InputError, match="both single images and folders"):
        load_folder(photos, 16, "all")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of the 1 images"):
        load_folder(tmp_path / "broken", 16, "all")
