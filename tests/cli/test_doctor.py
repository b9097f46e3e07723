"""``nextscale doctor`` finds what is broken, in a process with a really broken environment, and names the repair."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nextscale
from nextscale.cli.doctor import Findings, _add_broken, _again
from nextscale.errors import CheckpointError
from tests.cli.conftest import Command


def doctor(*words: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "nextscale", "doctor", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def examine(**environment: str) -> tuple[int, dict[str, Any]]:
    code, out = doctor("--json", **environment)
    return code, json.loads(out)


def test_the_environment_is_told(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("")
    code, out = doctor(NEXTSCALE_CACHE=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert code == (1 if "broken:" in out else 0)
    for words in (
        torch.__version__,
        sys.executable,
        "threads",
        "auto dtype",
        f"{tmp_path} (writable, ",
        "(not needed)",
    ):
        assert words in out
    # What is broken and what repairs it come in pairs; where the bundled model is there, this environment is sound.
    assert out.count("broken:") == out.count("repair:")
    assert "broken: torchvision" not in out  # one that can be imported is left in peace


def test_a_broken_torchvision_is_found_and_can_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    code, told = examine(PYTHONPATH=str(tmp_path))
    assert code == 1
    (problem,) = [problem for problem in told["problems"] if "torchvision" in problem["what"]]
    assert "operator torchvision::nms does not exist" in problem["what"]
    assert problem["repair"] == f"{sys.executable} -m pip uninstall -y torchvision"


def test_a_package_of_the_wrong_version_and_a_broken_cache_are_found(tmp_path: Path) -> None:
    # A second PyYAML, earlier on the path, that says it is of another version.
    (tmp_path / "pyyaml-1.0.dist-info").mkdir()
    (tmp_path / "pyyaml-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: PyYAML\nVersion: 1.0\n")
    # /proc looks writable to an administrator and is not: only trying tells.
    code, told = examine(PYTHONPATH=str(tmp_path), NEXTSCALE_CACHE="/proc/nextscale")
    assert code == 1
    assert told["packages"]["pyyaml"] == "1.0"
    what = {problem["what"]: problem["repair"] for problem in told["problems"]}
    assert what["pyyaml is 1.0; expected >=6.0"].endswith('-m pip install "pyyaml>=6.0"')
    assert [repair for text, repair in what.items() if "folder /proc/nextscale cannot be written" in text] == [
        "export NEXTSCALE_CACHE=$HOME/nextscale-cache"
    ] * 2
    assert told["models"] == "/proc/nextscale (not writable)"


def without(names: str, folder: Path) -> Path:
    """Everything that is installed here but ``names``, a pattern, in a folder to import from."""
    for entry in Path(torch.__file__).parent.parent.iterdir():
        if not re.match(rf"({names})(-.*)?$", entry.name, re.IGNORECASE):
            (folder / entry.name).symlink_to(entry)
    return folder


def without_torch(folder: Path) -> Path:
    return without("torch|torchgen", folder)


def examine_alone(folder: Path) -> tuple[int, dict[str, Any]]:
    """Examine what is in ``folder`` and nothing else (-S keeps this environment out)."""
    path = os.pathsep.join(map(str, [folder, Path(nextscale.__file__).parent.parent]))
    done = subprocess.run(
        [sys.executable, "-S", "-m", "nextscale", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_a_missing_torch_is_found(tmp_path: Path) -> None:
    code, told = examine_alone(without_torch(tmp_path))
    (problem,) = [problem for problem in told["problems"] if "torch" in problem["what"]]
    assert (code, problem["what"]) == (1, "torch is not installed")
    assert re.search(r'-m pip install "torch[<>=,.\d]+"$', problem["repair"])
    assert told["bundled model"].startswith("not tried")


def test_a_torch_that_is_too_old_is_found(tmp_path: Path) -> None:
    (without_torch(tmp_path) / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('__version__ = "1.13.1"\n')
    (tmp_path / "torch-1.13.1.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: torch\nVersion: 1.13.1\n"
    (tmp_path / "torch-1.13.1.dist-info" / "METADATA").write_text(about)
    code, told = examine_alone(tmp_path)
    (problem,) = [problem for problem in told["problems"] if "torch" in problem["what"]]
    assert code == 1
    assert problem["what"].startswith("torch is 1.13.1; expected ")
    assert told["torch"] == "cannot be used"


@pytest.mark.parametrize(
    ("names", "package"),
    [
        ("safetensors", "safetensors"),
        ("numpy", "numpy"),
        ("PIL|pillow", "pillow"),
        ("packaging", "packaging"),
        ("yaml|_yaml|PyYAML", "pyyaml"),
        ("huggingface_hub", "huggingface-hub"),
    ],
)
def test_a_missing_package_is_found_and_the_rest_is_told_all_the_same(tmp_path: Path, names: str, package: str) -> None:
    code, told = examine_alone(without(names, tmp_path))
    assert code == 1
    (problem,) = told["problems"]
    assert problem["what"] == f"{package} is not installed"
    assert package in problem["repair"]
    assert {"python", "platform", "torch", "CPU", "bundled model"} <= set(told)


def test_a_package_that_is_there_and_broken_is_found(tmp_path: Path) -> None:
    without("PIL", tmp_path)
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('libjpeg is gone', name='PIL._imaging')\n")
    code, told = examine_alone(tmp_path)
    assert code == 1
    assert all("libjpeg is gone" in problem["what"] for problem in told["problems"])
    assert f"{sys.executable} -m pip install --force-reinstall " in told["problems"][0]["repair"]


def test_what_training_lacks_is_told_and_is_nothing_broken(tmp_path: Path) -> None:
    code, told = examine_alone(without("accelerate", tmp_path))
    assert (code, told["problems"]) == (0, [])
    assert "pip install -e '.[train]'" in told["training"]
    assert "pip install 'accelerate>=" in told["training"]


def test_the_load_and_the_locks_of_the_machine_are_told() -> None:
    _, told = examine()
    assert "processor time" in told["load"] or "the machine is busy" in told["load"]
    assert "two runs cannot write to one folder" in told["locks"]


def test_every_bundled_model_is_tried(monkeypatch: pytest.MonkeyPatch, nextscale: Command) -> None:
    def load(name: str, **settings: str) -> None:
        raise CheckpointError(f"{name} is damaged")

    monkeypatch.setattr("nextscale.load", load)
    told = json.loads(nextscale("doctor", "--json").out)
    broken = [problem["what"] for problem in told["problems"] if "bundled model" in problem["what"]]
    assert len(broken) >= 2
    assert "emoji-m-var is damaged" in broken[0]


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ImportError("broken", name="PIL._imaging"), "pillow"),
        (ImportError("broken", name="some_module"), None),
        (AttributeError("module 'os' has no attribute 'statvfs'", name="statvfs"), None),
        (NameError("name 'requests' is not defined", name="requests"), None),
    ],
)
def test_only_packages_that_are_installed_here_are_to_be_installed_again(error: Exception, package: str | None) -> None:
    found = Findings()
    _add_broken(found, "folders", error)
    (problem,) = found.problems
    expected = _again() if package is None else f"{sys.executable} -m pip install --force-reinstall {package}"
    assert problem.repair == expected
