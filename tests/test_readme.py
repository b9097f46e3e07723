"""What the README and the docs tell people to type works: the commands and the Python of their code blocks are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nextscale.checkpoints.load import bundled_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Commands that are shown but not run here: they make environments, train for long, or need files from elsewhere.
SHOWN_ONLY = tuple(
    [f"{program} " for program in ("make", "git", "pip", "python -m pip", "cd", "accelerate")]
    + [f"nextscale {verb} " for verb in ("train", "data", "convert", "evaluate", "verify")]
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The single commands of a page, in their order, with continued lines joined and remarks cut off."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def to_run(page: Path) -> list[str]:
    return [command for command in commands(page) if not command.startswith(SHOWN_ONLY)]


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: page.name)
@pytest.mark.skipif("emoji" not in bundled_names(), reason="the bundled model is not there yet")
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    Image.effect_noise((80, 60), 90).save(tmp_path / "picture.png")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in to_run(page):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
@pytest.mark.skipif("emoji" not in bundled_names(), reason="the bundled model is not there yet")
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in files if not (page.parent / target).exists()] == []


def test_every_verb_that_a_page_names_is_one() -> None:
    from nextscale.cli.main import VERBS

    named = {verb for page in PAGES for verb in re.findall(r"\bnextscale ([a-z]+)\b", "\n".join(commands(page)))}
    assert named <= set(VERBS)
    assert "generate" in named
