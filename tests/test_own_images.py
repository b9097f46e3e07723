"""The four commands of docs/own-images.md make a tokenizer, a generator and pictures out of a folder of images."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from nextscale.cli.main import main
from tests.test_readme import blocks
from tests.training.tiny import SIDE, TINY, write_images

PAGE = Path(__file__).parent.parent / "docs" / "own-images.md"
SHORT = ["schedule.steps=4", "schedule.epochs=null", "run.validate_every=2", "run.sample_every=4"]


def commands() -> list[list[str]]:
    """The words of the page's commands, which stand in its one block of shell."""
    (block,) = blocks(PAGE, "sh")
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def made_tiny(words: list[str]) -> list[str]:
    """The same command; a training gets tiny sizes on top."""
    if words[1] != "train":
        return words
    sizes = [word for override in [*TINY[words[2]], *SHORT] for word in ("--set", override)]
    return [*words, "--device", "cpu", *sizes]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Tiny pictures of cats and dogs, which the page speaks of."""
    folder = write_images(tmp_path / "pictures")
    for split in ("train", "val"):
        for kind, name in (("warm", "cat"), ("cold", "dog")):
            (folder / split / kind).rename(folder / split / name)
    return folder


def test_four_commands_lead_from_a_folder_to_pictures(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = []
    for words in commands():
        monkeypatch.setattr(sys, "argv", made_tiny(words))
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert stop.value.code in (None, 0), f"{shlex.join(words)}\n{err}"
        said.append(out)

    assert [words[1] for words in commands()] == ["train", "train", "evaluate", "generate"]
    for run in ("tokenizer", "m-var"):
        folder = tmp_path / "runs" / run
        for part in ("recipe.yaml", "price.json", "log.csv", "samples/step-000004.png", "export/config.json"):
            assert (folder / part).is_file(), f"{run}/{part}"
    assert list((tmp_path / "runs/m-var/tokens").iterdir())
    assert "4 of 4 steps done" in said[0]
    assert "perplexity" in said[2].lower()
    assert "accuracy" in said[2].lower()
    drawn = sorted((tmp_path / "drawn").glob("cat-*.png"))
    assert len(drawn) == 16
    with Image.open(drawn[0]) as picture:
        assert picture.size == (SIDE, SIDE)
