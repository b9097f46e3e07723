"""``make demo`` draws what the README shows, on every processor, up to rounding."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextscale.checkpoints.load import bundled_names
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]
ROUNDING = 4  # levels of 255 by which instruction sets and numbers of threads may differ
STORED = 3  # levels by which the README's pictures may differ from what was drawn: they have every fourth, to be small


def demo_commands() -> list[list[str]]:
    """The words of every nextscale command of ``make demo``, without the program."""
    asked = ["make", "--dry-run", "--old-file=.venv/run.stamp", "demo"]
    plan = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    lines = plan.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if re.match(r"\S*/nextscale ", line)]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), int)


@pytest.mark.skipif("emoji-m-var" not in bundled_names(), reason="the bundled model is not there yet")
def test_the_demo_draws_the_pictures_of_the_readme(
    nextscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = demo_commands()
    assert len(commands) == 3
    monkeypatch.chdir(ROOT)  # where examples/sentences.txt is
    for words in commands:
        done = nextscale(*[word.replace("out/demo", str(tmp_path)) for word in words])
        assert done.code == 0, done.err
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, made in (("sentences.png", "sentences/grid.png"), ("grid.png", "grid.png"), ("strip.png", "strip.png")):
        assert f"docs/images/{name}" in readme
        shown, drawn = pixels(ROOT / "docs" / "images" / name), pixels(tmp_path / made)
        assert shown.shape == drawn.shape
        assert abs(shown - drawn).max() <= ROUNDING + STORED
