"""Our own checkpoints: a folder with ``config.json``, one safetensors file per component, and their digests.

A checkpoint knows its model: the type and every size of each component stand in ``config.json``; unknown keys are
refused. What is read is checked first: settings against the types and bounds of their dataclasses, files against their
digests, tensors against the settings before any network is built, and every number against what a weight can be.
Folders are written under a temporary name and renamed, so a half-written one never carries a checkpoint's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nextscale import __version__, settings, systems
from nextscale.checkpoints.digests import DIGESTS, as_json, check_digest, read_digests
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.weights import check_numbers, check_tensors, read_header, read_weights, write_weights
from nextscale.documents import read_json
from nextscale.errors import CheckpointError, InputError, quoted
from nextscale.files import BLOCK, check_writable, kind_of, sha256

FORMAT = 2
READ = (1, FORMAT)
"""Formats that are read; the first had no conditioner."""
SHARED = re.compile(r"\.\./\w[\w.-]*/\w[\w.-]*\.safetensors")
CLASSES = "classes"
"""What ``config.json`` calls the conditioner that belongs to no system, and means where it names none."""

FEATURES = {
    "classifier": ("nextscale.features.classifier", "Classifier", "ClassifierConfig"),
    "perceptual": ("nextscale.features.perceptual", "Perceptual", "PerceptualConfig"),
}
"""Types of component that belong to no system."""

Config = TypeVar("Config")


@dataclass(frozen=True)
class Defaults:
    """Sampling settings that a checkpoint may bring along; their meaning is that of ``default_plan``, and of
    ``refine`` that of ``nextscale.methods.refine.refined``.
    """

    guidance_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    smooth: bool = False
    refine: str = "none"

    def __post_init__(self) -> None:
        settings.check_bounds(self, guidance_scale=(0, 1e6), top_k=(0, 2**32), top_p=(0, 1))
        if not 0 < self.temperature <= 1e6:
            raise InputError(f"temperature is {quoted(self.temperature)}; expected a number above 0")


@dataclass(frozen=True)
class Component:
    """One entry under ``components``. file: see :func:`component_file`."""

    type: str
    config: dict[str, Any]
    file: Any = None


@dataclass(frozen=True)
class ConditionerConfig:
    """What reads a call's arguments, see ``nextscale.checkpoints.load.load_conditioner``; classes in format 1."""

    type: str = CLASSES
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The entries of ``config.json``."""

    format: int
    components: dict[str, Component]
    nextscale: str = ""
    name: str = ""
    defaults: Defaults = Defaults()
    conditioner: ConditionerConfig = ConditionerConfig()


def save_checkpoint(
    folder: Path,
    components: Mapping[str, nn.Module],
    extras: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write modules (each with a ``config`` dataclass) as a checkpoint folder, whole or not at all.

    extras: JSON-able entries of ``config.json`` besides the components; files: further files by name; dtype: cast
    floating point weights to it; overwrite: replace a checkpoint that is there, its own files only: what else lies in
    its folder stays. Raises ``CheckpointError`` if there is one and this was not asked for, or something else is there.
    """
    place = Path(os.path.realpath(folder))
    _check_place(folder, place, overwrite)
    aside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    described = {name: {"type": type_name(part), "config": asdict(part.config)} for name, part in components.items()}  # type: ignore[call-overload]
    whole = {"format": FORMAT, "nextscale": __version__, "components": described, **(extras or {})}
    _check_config(whole, folder / "config.json")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        aside.mkdir()
        (aside / "config.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        for name, content in (files or {}).items():
            (aside / name).write_bytes(content)
        for name, module in components.items():
            write_weights(aside / f"{name}.safetensors", module.state_dict(), dtype)
        write_digests(aside)
        _keep_others(place, aside)
        _swap(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_place(folder: Path, place: Path, overwrite: bool) -> None:
    """Refuse a place for a checkpoint before any work is done for it."""
    if os.path.lexists(place) and not place.is_dir():
        raise CheckpointError(f"{folder} is {kind_of(place)}; expected a folder to write to")
    if place.is_dir() and any(place.iterdir()):
        if not is_checkpoint(place):
            raise CheckpointError(f"{folder} exists and is not a checkpoint; choose an empty or new folder")
        if not overwrite:
            raise CheckpointError(
                f"{folder} holds a checkpoint already; choose another folder, or --overwrite (overwrite=True) to "
                "replace it"
            )
    try:
        check_writable(place.parent)
    except InputError as error:
        raise CheckpointError(str(error)) from None


def _keep_others(place: Path, aside: Path) -> None:
    """Carry over what a user has put beside a checkpoint, before the checkpoint is replaced."""
    if not place.is_dir() or not any(place.iterdir()):
        return
    own = own_files(place)
    for path in place.iterdir():
        target = aside / path.name
        if path.name in own or os.path.lexists(target):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=_link)
        else:
            _link(path, target)


def _link(source: str | Path, target: str | Path) -> None:
    """The same file under a second name, or a copy of it where the file system has no second names."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError, AttributeError):
        shutil.copy2(source, target, follow_symlinks=False)


def _swap(aside: Path, folder: Path) -> None:
    """Put ``aside`` in the place of ``folder``; the old folder goes only after the new one stands."""
    if not folder.exists():
        os.replace(aside, folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old)


def own_files(folder: Path) -> set[str]:
    """Names of the files of a checkpoint that go with it; its README.md may be its owner's, and goes only where another
    one comes.
    """
    weights = {f"{name}.safetensors" for name in _raw_config(folder).get("components", {})}
    beside = {systems.load(name).file for name in conditioners().values()} - {""}
    return {"config.json", "origin.json", DIGESTS} | weights | beside


def read_config(folder: Path) -> dict[str, Any]:
    """The checked content of ``config.json``: every entry is known and of its type, but for the components' own
    settings, which :func:`build_component` checks. Raises ``CheckpointError`` with what is wrong.
    """
    config: dict[str, Any] = _raw_config(folder)
    _check_config(config, folder / "config.json")
    return config


def _check_config(config: Any, path: Path) -> None:
    if not isinstance(config, dict) or type(config.get("format")) is not int or config["format"] not in READ:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path} has format {quoted(found)}; this version reads formats {READ[0]} and {READ[1]}")
    try:
        described = settings.build(Checkpoint, config)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    odd = next((name for name in described.components if not re.fullmatch(r"\w+", name)), None)
    if odd is not None:
        raise CheckpointError(f"{path}: a component is called {quoted(odd)}; expected letters, such as tokenizer")


def _raw_config(folder: Path) -> Any:
    if not os.path.lexists(folder / "config.json"):
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json")
    return read_json(folder / "config.json", CheckpointError)


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of this library, whatever state it is in."""
    try:
        config = _raw_config(folder)
    except CheckpointError:
        return False
    return isinstance(config, dict) and config.get("format") in READ and isinstance(config.get("components"), dict)


def load_component(
    folder: Path, name: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> nn.Module:
    """Build one component of a checkpoint and load its weights, in evaluation mode.

    Raises ``CheckpointError`` as :func:`checked_component`.
    """
    number = dtype or torch.float32
    module, state = checked_component(folder, name, number)
    for key, t in state.items():  # one by one: what is cast or moved leaves no second copy behind
        state[key] = t.to(device, number if t.is_floating_point() else t.dtype).contiguous()
    module.load_state_dict(state, assign=True)
    return module.to(device).eval().requires_grad_(False)


def checked_component(
    folder: Path, name: str, dtype: torch.dtype | None = None
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """One component of a checkpoint as a network without values, and its tensors, mapped from the disk.

    dtype: what they are to be cast to. Raises ``CheckpointError`` for an absent component, an unknown type or setting,
    weights that do not fit or are no numbers, and a file that is not the one that was written.
    """
    components = read_config(folder)["components"]
    if name not in components:
        raise CheckpointError(f"{folder} has no {name}; it has {', '.join(components) or 'no components'}")
    file = component_file(folder, name, components[name])
    found = read_header(file)
    module = build_component(components[name], f"{folder / 'config.json'}, {name}", len(found))
    check_tensors(module, found, str(file))
    check_digest(file, folder, _name_in(folder, file))
    if file.parent != folder:
        check_digest(file, file.parent, file.name)
    state = read_weights(file)
    for key, t in state.items():
        try:
            check_numbers(key, t, dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from None
    return module, state


def component_file(folder: Path, name: str, described: Mapping[str, Any]) -> Path:
    """Where the weights of a component lie: in the checkpoint, or in the one beside it that ``described`` names as
    ``"file": "../other/tokenizer.safetensors"``, so that bundled models share a tokenizer. Raises ``CheckpointError``
    for any other place.
    """
    shared = described.get("file")
    if shared is None:
        return folder / f"{name}.safetensors"
    if not isinstance(shared, str) or not SHARED.fullmatch(shared):
        raise CheckpointError(
            f"{folder / 'config.json'}: the {name} is to be read from {quoted(shared)}; expected a file of a "
            "checkpoint beside this one, such as ../emoji/tokenizer.safetensors"
        )
    return Path(os.path.realpath(folder)).parent / shared.removeprefix("../")


def parts(folder: Path) -> list[Path]:
    """The configuration and every file of weights, also those shared with the checkpoint beside."""
    components = read_config(folder)["components"]
    return [folder / "config.json", *sorted(component_file(folder, *entry) for entry in components.items())]


def revision(folder: Path) -> str:
    """Twelve hex digits that change with the weights or the configuration of a checkpoint.

    They are those that were put down beside the digests when it was written, unless its configuration has been edited
    since; weights that are others than were written are refused when they are loaded.
    """
    noted = read_digests(folder)
    named = [_name_in(folder, path) for path in parts(folder)]
    unedited = set(named) <= set(noted.sha256) and sha256(folder / "config.json") == noted.sha256["config.json"]
    return noted.revision if noted.revision and unedited else computed_revision(folder)


def write_digests(folder: Path) -> None:
    """Put down the digests and the revision of a checkpoint as it is now."""
    digests = {_name_in(folder, path): sha256(path) for path in parts(folder)}
    (folder / DIGESTS).write_text(as_json(digests, computed_revision(folder)), encoding="utf-8")


def _name_in(folder: Path, file: Path) -> str:
    """What the list of ``folder`` calls a file that lies in it, or in the folder beside it."""
    return file.name if file.parent == folder else f"../{file.parent.name}/{file.name}"


def computed_revision(folder: Path) -> str:
    """The same from every byte, whatever was put down; takes a second per gigabyte, or a few."""
    digest = hashlib.sha256()
    for path in parts(folder):
        if not path.is_file():
            raise CheckpointError(f"{path} is {kind_of(path)}; expected a file of the checkpoint")
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()[:12]


def types() -> dict[str, tuple[str, str, str]]:
    """Every type of component with its module, its class and the class of its configuration."""
    return {kind: names for system in systems.SYSTEMS for kind, names in system.types.items()} | FEATURES


def conditioners() -> dict[str, str]:
    """Every type of conditioner, with its class."""
    own = {CLASSES: "nextscale.conditions.classes.ClassVocabulary"}
    return own | {kind: name for system in systems.SYSTEMS for kind, name in system.conditioners.items()}


def build_component(described: Mapping[str, Any], where: str, tensors: int = 50_000) -> nn.Module:
    """A module without weights (on the meta device) from ``{"type": ..., "config": ...}``.

    tensors: how many its file has, beyond which it is not built. Raises ``CheckpointError`` for an unknown type,
    settings that are unknown, of another type or out of bounds, and a network that cannot be that of the file.
    """
    kind = described.get("type")
    known = types()
    if not isinstance(kind, str) or kind not in known:
        raise CheckpointError(f"{where}: unknown type {quoted(kind)}; this version knows {', '.join(known)}")
    path, _, config_name = known[kind]
    config = build_config(getattr(import_module(path), config_name), described.get("config", {}), where)
    try:
        return without_values(lambda: module_of(config), tensors)
    except (InputError, CheckpointError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{where}: {str(error).splitlines()[0]}") from None


def build_config(cls: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """A config dataclass from JSON; see :func:`nextscale.settings.build`. Raises ``CheckpointError``."""
    try:
        return settings.build(cls, data)
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from None


def module_of(config: Any) -> nn.Module:
    """The network that a configuration describes, with new weights."""
    path, class_name = next(
        (path, name) for path, name, config_name in types().values() if _is(type(config), path, config_name)
    )
    module: nn.Module = getattr(import_module(path), class_name)(config)
    return module


def type_name(module: nn.Module) -> str:
    """The name of a module's type in ``config.json``."""
    known = types()
    for name, (path, class_name, _) in known.items():
        if _is(type(module), path, class_name):
            return name
    raise CheckpointError(f"a {type(module).__name__} cannot be saved; known types are {', '.join(known)}")


def _is(cls: type, path: str, name: str) -> bool:
    return (cls.__module__, cls.__name__) == (path, name)
