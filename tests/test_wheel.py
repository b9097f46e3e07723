"""The package as users get it: the wheel holds what it should and nothing else, and works away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nextscale import __version__
from nextscale.pictures import read_recipe

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".typed", ".yaml", ".json", ".safetensors", ".md", ".txt", ".html", ".css", ".js", ".svg"}


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def metadata_of(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"nextscale-{__version__}.dist-info/METADATA").decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.suffix in KINDS}
    info = f"nextscale-{__version__}.dist-info/"
    wanted |= {info + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    wanted |= {info + "licenses/" + name for name in ("LICENSE", "THIRD_PARTY_NOTICES.md")}
    with ZipFile(wheel) as archive:
        found = set(archive.namelist())
    assert found == wanted
    assert {"nextscale/py.typed", "nextscale/bundled/emoji/model.safetensors", "nextscale/data/folder.py"} <= found
    assert wheel.name == f"nextscale-{__version__}-py3-none-any.whl"


def test_the_source_holds_what_builds_it_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    allowed = {"src", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md", "CHANGELOG.md", "CITATION.cff"}
    assert {name.split("/")[0] for name in names} == allowed | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    assert [name for name in names if name.startswith("src/") and Path(name).suffix not in KINDS] == []


def test_the_metadata_say_what_the_project_says(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = metadata_of(wheel)
    assert (told["Name"], told["Version"], told["License-Expression"]) == ("nextscale", __version__, "Apache-2.0")
    assert told["Requires-Python"] == project["requires-python"]
    assert told["Summary"] == project["description"]
    assert told["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    assert set(told.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    requirements = [Requirement(line) for line in told.get_all("Requires-Dist", [])]
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        needed = {canonicalize_name(Requirement(line).name) for line in lines} - {"nextscale"}
        given = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]
        assert needed <= {canonicalize_name(one.name) for one in given}
    plain = {one.name for one in requirements if one.marker is None}
    assert plain == {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}


def test_an_environment_of_its_own_draws_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """nextscale comes from the wheel alone. What it needs is borrowed from the environment of the tests, whose own
    nextscale stays out: a path in a .pth file does not bring the .pth files of that folder with it.
    """
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = run(python, "-c", "import nextscale; print(nextscale.__file__)", cwd=elsewhere).strip()
    assert Path(where) == packages / "nextscale" / "__init__.py"
    run(python.with_name("nextscale"), "generate", "-c", "heart", "--seed", 1, "-o", "drawn", cwd=elsewhere)
    assert read_recipe(elsewhere / "drawn" / "heart-noto-1.png")["nextscale"] == __version__
