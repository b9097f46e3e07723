"""What surrounds the code says what the code says: versions, pins, notices, sizes, and a line for every folder."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from nextscale import __version__
from nextscale.data.emoji_sources import PACKAGES

ROOT = Path(__file__).parent.parent
MIB = 1 << 20


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """Files that git has or would take; every file of the checkout where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout, so nothing says which files belong to the repository")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_repository_stays_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked()}
    assert sum(sizes.values()) <= 60 * MIB
    weights = {name: n for name, n in sizes.items() if name.startswith("src/") and name.endswith(".safetensors")}
    assert sum(weights.values()) <= 41 * MIB
    assert {name: n for name, n in weights.items() if n > 10 * MIB} == {}
    assert sum(n for name, n in sizes.items() if name.startswith("tests/golden/")) <= 14 * MIB
    encoder = [n for name, n in sizes.items() if name.startswith("src/nextscale/bundled/word-pieces/")]
    assert 0 < sum(encoder) <= 4 * MIB


def test_one_version_everywhere() -> None:
    assert yaml.safe_load(text("CITATION.cff"))["version"] == __version__
    assert f"## {__version__}" in text("CHANGELOG.md")


def test_the_paper_of_every_system_that_stands_is_cited() -> None:
    stand = re.findall(r"\(https://arxiv\.org/abs/([\d.]+)\)|\| ([\d]{4}\.[\d]{5}) \|", text("README.md"))
    papers = {one or other for one, other in stand}
    assert len(papers) >= 2
    cited = {reference["url"].rpartition("/")[2] for reference in yaml.safe_load(text("CITATION.cff"))["references"]}
    assert papers <= cited


def test_the_makefile_installs_a_torch_that_the_package_accepts() -> None:
    pinned = re.search(r"^TORCH := torch==(\S+)$", text("Makefile"), re.MULTILINE)
    assert pinned is not None
    needed = [Requirement(line) for line in tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]]
    (torch,) = [requirement for requirement in needed if requirement.name == "torch"]
    assert torch.specifier.contains(pinned[1])


@pytest.mark.parametrize("package", PACKAGES.values(), ids=lambda package: package.name)
def test_every_source_of_drawings_is_in_the_notices(package: object) -> None:
    name, version = package.name, package.version  # type: ignore[attr-defined]
    assert re.search(rf"\| `{re.escape(name)}` {re.escape(version)} \|", text("THIRD_PARTY_NOTICES.md"))


def test_every_requirement_is_in_the_notices() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    for line in [*project["dependencies"], *extras]:
        assert re.search(
            rf"^\| {re.escape(Requirement(line).name)}[ |]", text("THIRD_PARTY_NOTICES.md"), re.MULTILINE
        ), line


def test_every_folder_has_its_line() -> None:
    tops = ("src/nextscale", "docs", ".ci", "benchmarks", "examples", "integrations")
    folders = {path.parent.relative_to(ROOT).as_posix() for path in tracked()}
    described = set(re.findall(r"^\| `([^`]+)/` \|", text("docs/folders.md"), re.MULTILINE))
    # A line speaks for what lies below it, except that each folder of the package has its own.
    speaking = described - {"src/nextscale"}
    missing = {
        folder
        for folder in folders - described
        if folder.startswith(tops) and not any(folder.startswith(f"{line}/") for line in speaking)
    }
    assert missing == set()
    assert {line for line in described if not (ROOT / line).is_dir()} == set()


def test_every_file_at_the_top_of_the_package_has_its_line() -> None:
    described = re.findall(r"^\| `(\w+\.py)` \|", text("docs/folders.md"), re.MULTILINE)
    files = {path.name for path in (ROOT / "src/nextscale").glob("*.py") if not path.name.startswith("__")}
    assert sorted(described) == sorted(files)
