"""The whole road with real processes: emoji set, tokenizer, an interrupted and resumed model, pictures, and again.

The drawings come from tiny packages in the download cache, so that no network is needed; everything else is real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextscale.data.emoji import build_emoji
from nextscale.data.emoji_sources import Package
from nextscale.pictures import read_recipe
from tests.data.conftest import GROUPS, INFO, _base, cache, pack
from tests.training.tiny import SIDE, TINY

__all__ = ["cache"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def packages(cache: Path) -> dict[str, Package]:
    """One style of sixteen drawings in two classes, enough for a class to hold some out."""
    codes = [f"{0x1F400 + i:x}" for i in range(16)]
    known = [_base(code, f"thing {i}", *((0, 12), (3, 34))[i % 2], i) for i, code in enumerate(codes)]
    bodies = {
        code: {"body": f'<rect x="{i % 4}" width="{4 + i % 3}" height="{2 + i % 6}" fill="#{i * 16:02x}8040"/>'}
        for i, code in enumerate(codes)
    }
    contents: dict[str, dict[str, Any]] = {
        "emojibase": {"en/data.json": known, "meta/groups.json": GROUPS},
        "noto": {
            "icons.json": {"width": 8, "height": 8, "icons": bodies},
            "info.json": INFO,
            "chars.json": {c: c for c in codes},
        },
    }
    found = {}
    for name, files in contents.items():
        unpinned = Package(f"@tiny/{name}", "1.0.0", "")
        found[name] = Package(unpinned.name, unpinned.version, pack(cache / unpinned.file_name, files))
    return found


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "nextscale", *map(str, words)]


def run(*words: str | Path) -> str:
    done = subprocess.run(command(*words), env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def settings(values: list[str], **more: object) -> list[str | Path]:
    return [word for value in [*values, *(f"{k}={v}" for k, v in more.items())] for word in ("--set", value)]


def interrupted(words: list[str], log: Path) -> None:
    """Start a training, wait until it has logged a few steps, and press Ctrl-C."""
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error.decode()


@pytest.mark.parametrize("kind", ["var", "m-var"])
def test_from_drawings_to_pictures(kind: str, tmp_path: Path, packages: dict[str, Package]) -> None:
    drawings, tokenizer, model = tmp_path / "set", tmp_path / "tokenizer", tmp_path / "model"
    build_emoji(drawings, ("noto",), SIDE, packages=packages)

    train: list[str | Path] = [
        "train",
        "tokenizer",
        "--recipe",
        "tokenizer-emoji",
        "--data",
        drawings,
        "-o",
        tokenizer,
        "--device",
        "cpu",
    ]
    run(*train, *settings(TINY["tokenizer"]))

    steps = settings(TINY[kind], **{"schedule.epochs": "null", "schedule.steps": 40, "run.log_every": 1})
    frozen: list[str | Path] = ["--data", drawings, "--tokenizer", tokenizer / "export", "-o", model, "--device", "cpu"]
    train = ["train", kind, "--recipe", f"{kind}-emoji", *frozen, *steps]
    interrupted(command(*train), model / "log.jsonl")
    run(*train)
    logged = [line for line in (model / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert '"step": 40' in logged[-1]

    export, pictures = model / "export", tmp_path / "pictures"
    run("generate", "-c", "cat-face", "-n", "2", "--seed", "3", "--model", export, "-o", pictures, "--dtype", "float32")
    drawn = sorted(pictures.glob("cat-face-*.png"))
    assert [read_recipe(path)["seed"] for path in drawn] == [3, 4]

    again = tmp_path / "again"
    run("generate", "--like", drawn[1], "--model", export, "-o", again)
    assert np.array_equal(np.asarray(Image.open(again / drawn[1].name)), np.asarray(Image.open(drawn[1])))
    run("reconstruct", drawn[0], "--model", export, "-o", tmp_path / "reconstruction")
