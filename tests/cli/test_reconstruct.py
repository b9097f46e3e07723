"""``nextscale reconstruct`` shows every scale and the original, and measures what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nextscale.cli.reconstruct import psnr
from nextscale.pictures import open_picture, read_recipe
from tests.cli.conftest import Command


def test_a_strip_with_every_scale_and_the_original(nextscale: Command, tiny_model: Path) -> None:
    Image.effect_noise((40, 30), 80).save("photo.png")
    done = nextscale("reconstruct", "photo.png", "--model", tiny_model, "-o", "seen")
    assert done.code == 0, done.err
    strip = open_picture("seen/photo-scales.png")
    assert strip.width == 8 + 5 * (64 + 8)  # four scales and the original, enlarged four times
    assert [line.split()[3] for line in done.out.splitlines() if "PSNR" in line] == ["1x1", "2x2", "3x3", "4x4"]
    assert read_recipe("seen/photo-scales.png")["picture"] == "photo.png"
    assert "tiny on cpu" in done.err


def test_json_tells_the_same(nextscale: Command, tiny_model: Path) -> None:
    Image.new("RGB", (16, 16), "red").save("red.png")
    told = json.loads(nextscale("reconstruct", "red.png", "--model", tiny_model, "--json").out)
    assert told["scales"] == ["1x1", "2x2", "3x3", "4x4"]
    assert len(told["psnr"]) == 4
    assert all(0 < db < 100 for db in told["psnr"])


def test_a_strip_of_a_reconstruction_is_no_recipe_to_repeat(nextscale: Command, tiny_model: Path) -> None:
    Image.new("RGB", (16, 16), "red").save("red.png")
    nextscale("reconstruct", "red.png", "--model", tiny_model)
    done = nextscale("generate", "--like", "out/red-scales.png", "--model", tiny_model)
    assert done.code == 2
    assert "has no" in done.err


@pytest.mark.parametrize("name", ["none.png", "text.png", "."])
def test_what_is_no_picture_is_refused(nextscale: Command, tiny_model: Path, name: str) -> None:
    Path("text.png").write_text("hello")
    done = nextscale("reconstruct", name, "--model", tiny_model)
    assert done.code == 2
    assert done.err.startswith("nextscale: ")
    assert name in done.err
    assert not Path("out").exists()


def test_a_turned_photo_is_reconstructed_upright(nextscale: Command, tiny_model: Path) -> None:
    upright = Image.new("RGB", (16, 16), "white")
    upright.paste("red", (0, 0, 4, 16))
    upright.save("upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    for name in ("upright", "turned"):
        assert nextscale("reconstruct", f"{name}.png", "--model", tiny_model, "--dtype", "float32").code == 0
    assert open_picture("out/upright-scales.png").tobytes() == open_picture("out/turned-scales.png").tobytes()


def test_what_of_a_picture_is_not_taken_is_said(nextscale: Command, tiny_model: Path) -> None:
    Image.new("RGB", (16, 16), "red").save("a.gif", save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")])
    done = nextscale("reconstruct", "a.gif", "--model", tiny_model)
    assert done.code == 0
    assert "a.gif hold several frames or pages, of which the first is taken\n" in done.err


def test_psnr_of_a_known_difference() -> None:
    black, grey = Image.new("RGB", (4, 4), (0, 0, 0)), Image.new("RGB", (4, 4), (51, 51, 51))
    assert psnr(black, grey) == pytest.approx(-20 * -0.69897, abs=1e-3)  # 51/255 = 0.2
    assert psnr(grey, grey) == 100
