"""``nextscale doctor``: the environment for a bug report, what is broken in it, and what repairs each thing."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

import nextscale
from nextscale import __version__
from nextscale.cli.console import DEFAULT_MODEL, AsJson, answer, answer_json
from nextscale.errors import missing
from nextscale.training import system

MINIMUM_PYTHON = (3, 11)
LOCKS = "two runs cannot write to one folder"
NO_LOCKS = "nothing keeps two runs from writing to one folder"


@dataclass(frozen=True)
class Problem:
    """Something broken, and the one command that repairs it."""

    what: str
    repair: str


@dataclass
class Findings:
    """What was looked at, heading by heading, and what is wrong with it."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def doctor(as_json: AsJson = False) -> None:
    """Print the environment for a bug report, name what is broken, and the command that repairs it."""
    found = Findings()
    for what, examine in EXAMINED.items():
        try:
            with warnings.catch_warnings():  # of one package about another, which is examined itself
                warnings.simplefilter("ignore")
                examine(found)
        except Exception as error:  # what is broken breaks in its own way, and the rest is still to be told
            found.facts.setdefault(what, f"not examined ({_first_line(error)})")
            _add_broken(found, what, error)
    if as_json:
        answer_json({**found.facts, "problems": [asdict(problem) for problem in found.problems]})
    else:
        answer(_as_text(found))
    if found.problems:
        raise typer.Exit(1)


def _add_broken(found: Findings, what: str, error: Exception) -> None:
    """A package that is there and cannot be imported; one that is not there has been named before."""
    if isinstance(error, ImportError) and any("is not installed" in problem.what for problem in found.problems):
        return
    module = error.name or "" if isinstance(error, ImportError) else ""  # other errors name an attribute or variable
    package = metadata.packages_distributions().get(module.partition(".")[0], ["nextscale"])[0]
    command = _again() if package == "nextscale" else f"{sys.executable} -m pip install --force-reinstall {package}"
    found.problems.append(Problem(f"{what} could not be examined ({_first_line(error)})", command))


def _as_text(found: Findings) -> str:
    width = max(map(len, found.facts))
    lines = []
    for name, value in found.facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        lines.append(f"{name:<{width}}  {text}")
    lines.append("")
    if not found.problems:
        lines.append("nothing is broken")
    for problem in found.problems:
        lines += [f"broken: {problem.what}", f"repair: {problem.repair}"]
    return "\n".join(lines)


def _python(found: Findings) -> None:
    found.facts["nextscale"] = f"{__version__} in {Path(__file__).parent.parent}"
    found.facts["python"] = f"{platform.python_version()} ({sys.executable})"
    tried = "" if sys.platform == "linux" else " (nextscale has been run on Linux alone so far)"
    found.facts["platform"] = f"{platform.platform()}{tried}"
    which = "of folders" if system.fcntl else "of a file beside a run" if system.msvcrt else "none"
    found.facts["locks"] = f"{which} ({LOCKS if which != 'none' else NO_LOCKS})"
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        found.problems.append(
            Problem(f"Python {platform.python_version()} is too old; expected {wanted} or newer", "make clean demo")
        )


def _packages(found: Findings) -> None:
    """Every requirement of the installed package: is it there, in a version that was asked for?"""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        found.problems.append(Problem("packaging is not installed", f"{sys.executable} -m pip install packaging"))
        return

    versions: dict[str, str] = {}
    found.facts["packages"] = versions
    try:
        lines = metadata.requires("nextscale") or []
    except metadata.PackageNotFoundError:
        checkout = Path(__file__).parents[3]
        found.problems.append(Problem("nextscale is not installed", f"{sys.executable} -m pip install {checkout}"))
        return
    for line in lines:
        requirement = Requirement(line)
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if not optional:
                versions[requirement.name] = "missing"
                found.problems.append(Problem(f"{requirement.name} is not installed", _install(requirement)))
            elif requirement.name == "accelerate":
                found.facts["training"] = f"not possible here: {missing(requirement.name, 'training')}"
            continue
        versions[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            what = f"{requirement.name} is {version}; expected {requirement.specifier}"
            found.problems.append(Problem(what, _install(requirement)))


def _install(requirement: Any) -> str:
    return f'{sys.executable} -m pip install "{requirement.name}{requirement.specifier}"'


def _torch(found: Findings) -> None:
    try:
        import torch

        from nextscale.device import BFLOAT16_FLAGS, busy, choose_device, choose_dtype, cpu_flags, cpu_name
    except Exception as error:  # a torch that is too old, or half there, fails in whichever way it likes
        found.facts["torch"] = "cannot be used"
        if not any(problem.what.startswith("torch is") for problem in found.problems):
            command = (
                f'{sys.executable} -m pip install --force-reinstall "torch=={_version("torch").partition("+")[0]}"'
            )
            found.problems.append(Problem(f"torch cannot be imported ({_first_line(error)})", command))
        return
    cuda = torch.version.cuda or "none"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    bf16 = [flag for flag in BFLOAT16_FLAGS if flag in cpu_flags()]
    device, device_reason = choose_device("auto")
    dtype, dtype_reason = choose_dtype("auto", device)
    found.facts["torch"] = f"{torch.__version__}, CUDA of the build: {cuda}"
    found.facts["GPU"] = ", ".join(devices) or ("Apple" if torch.backends.mps.is_available() else "none")
    found.facts["CPU"] = (
        f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 in hardware: {', '.join(bf16) or 'no'}"
    )
    found.facts["load"] = busy() or "this process gets the processor time that it asks for"
    found.facts["auto device"] = f"{device} ({device_reason})"
    found.facts["auto dtype"] = f"{str(dtype).removeprefix('torch.')} ({dtype_reason})"


def _torchvision(found: Findings) -> None:
    """nextscale needs no torchvision, but a broken one breaks transformers, torchmetrics and others."""
    if importlib.util.find_spec("torchvision") is None:
        found.facts["torchvision"] = "not installed (and not needed)"
        return
    # In a process of its own: a failed import leaves half of its operators registered.
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        found.facts["torchvision"] = f"{_version('torchvision')} (not needed)"
        return
    lines = [line for line in tried.stderr.splitlines() if line.strip()]
    found.facts["torchvision"] = f"{_version('torchvision')}, broken"
    found.problems.append(
        Problem(
            f"torchvision is installed but cannot be imported ({lines[-1].strip() if lines else 'no message'}); "
            "nextscale does not need it, and packages that find it fail with it",
            f"{sys.executable} -m pip uninstall -y torchvision",
        )
    )


def _folders(found: Findings) -> None:
    """The caches: where they are, whether they can be written (which is tried), and how much room there is."""
    from nextscale.checkpoints.published import models_cache
    from nextscale.data.cache import cache_folder

    places = {"cache": cache_folder}
    if found.facts.get("packages", {}).get("huggingface-hub") != "missing":
        places["models"] = models_cache
    for what, place in places.items():
        folder = place()
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        try:
            tempfile.TemporaryFile(dir=nearest).close()
        except OSError as error:
            found.facts[what] = f"{folder} (not writable)"
            why = f"the {what} folder {folder} cannot be written ({error.strerror})"
            windows = 'setx NEXTSCALE_CACHE "%USERPROFILE%\\nextscale-cache"'
            found.problems.append(
                Problem(why, windows if os.name == "nt" else "export NEXTSCALE_CACHE=$HOME/nextscale-cache")
            )
        else:
            found.facts[what] = f"{folder} (writable, {shutil.disk_usage(nearest).free / 1e9:.0f} GB free)"


def _bundled_model(found: Findings) -> None:
    """Can the models that ship with the package be loaded?"""
    if any(problem.what.startswith("torch ") for problem in found.problems):
        found.facts["bundled model"] = "not tried without a torch that fits"
        return
    from nextscale.checkpoints.load import BUNDLED, bundled_names

    checkout, command = BUNDLED.parents[2], _again()
    if (checkout / ".git").exists():
        command = f"git -C {checkout} checkout -- {BUNDLED.relative_to(checkout)}"

    told = []
    for name in dict.fromkeys([DEFAULT_MODEL, *bundled_names()]):
        try:
            told.append(f"{name}, revision {nextscale.load(name, device='cpu', dtype='float32').revision}")
        except (nextscale.NextscaleError, OSError) as error:
            told.append(f"{name} broken or missing")
            found.problems.append(Problem(f"the bundled model {name} cannot be loaded ({_first_line(error)})", command))
    found.facts["bundled model"] = "; ".join(told)


def _again() -> str:
    """The command that installs nextscale again, from where it came."""
    try:
        origin = json.loads(metadata.distribution("nextscale").read_text("direct_url.json") or "{}").get("url")
    except (metadata.PackageNotFoundError, ValueError):
        origin = None
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {origin or 'A-CLONE-OF-ITS-REPOSITORY'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


EXAMINED: dict[str, Callable[[Findings], None]] = {
    "python": _python,
    "packages": _packages,
    "torch": _torch,
    "torchvision": _torchvision,
    "folders": _folders,
    "bundled model": _bundled_model,
}
"""What is looked at, in this order."""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
