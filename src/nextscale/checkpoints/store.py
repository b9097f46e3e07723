"""Our own checkpoints: a folder with ``config.json`` and one safetensors file per component.

A checkpoint knows its model: the type and every size of each component stand in ``config.json``; unknown keys are
refused. Folders are written under a temporary name and renamed, so a half-written one never carries a checkpoint's
name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load_file
from torch import nn

from nextscale import __version__
from nextscale.checkpoints.weights import write_weights
from nextscale.errors import CheckpointError

FORMAT = 1
SHARED = re.compile(r"\.\./\w[\w.-]*/\w[\w.-]*\.safetensors")

TYPES = {
    "residual": ("nextscale.tokenizers.residual", "ResidualTokenizer", "ResidualConfig"),
    "var": ("nextscale.models.var", "VAR", "VARConfig"),
    "m_var": ("nextscale.models.m_var", "MVAR", "MVARConfig"),
    "classifier": ("nextscale.features.classifier", "Classifier", "ClassifierConfig"),
    "perceptual": ("nextscale.features.perceptual", "Perceptual", "PerceptualConfig"),
}

Config = TypeVar("Config")


def save_checkpoint(
    folder: Path,
    components: Mapping[str, nn.Module],
    extras: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write modules (each with a ``config`` dataclass) as a checkpoint folder; an existing checkpoint there is
    replaced.

    extras: JSON-able entries of ``config.json`` besides the components; files: further files by name; dtype: cast
    floating point weights to it. Raises ``CheckpointError`` if the folder exists and holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder to write to")
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} exists and is not a checkpoint; choose an empty or new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir()
        described: dict[str, Any] = {}
        for name, module in components.items():
            config = module.config
            assert is_dataclass(config)
            described[name] = {"type": type_name(module), "config": asdict(config)}
            write_weights(aside / f"{name}.safetensors", module.state_dict(), dtype)
        whole = {"format": FORMAT, "nextscale": __version__, "components": described, **(extras or {})}
        (aside / "config.json").write_text(json.dumps(whole, indent=2) + "\n")
        for name, content in (files or {}).items():
            (aside / name).write_bytes(content)
        _swap(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(aside: Path, folder: Path) -> None:
    """Put ``aside`` in the place of ``folder``; the old folder goes only after the new one stands."""
    if not folder.exists():
        os.replace(aside, folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old)


def read_config(folder: Path) -> dict[str, Any]:
    """The checked content of ``config.json``. Raises ``CheckpointError`` with what is missing or unknown."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); the checkpoint is damaged") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{path} has format {found!r}; this version reads format {FORMAT}")
    return config


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of this library, whatever state it is in."""
    try:
        return "components" in read_config(folder)
    except CheckpointError:
        return False


def load_component(
    folder: Path, name: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> nn.Module:
    """Build one component of a checkpoint and load its weights, in evaluation mode.

    Raises ``CheckpointError`` for an absent component, an unknown type or setting, or weights that do not fit.
    """
    components = read_config(folder).get("components", {})
    if name not in components:
        raise CheckpointError(f"{folder} has no {name}; it has {', '.join(components) or 'no components'}")
    module = build_component(components[name], f"{folder / 'config.json'}, {name}")
    file = component_file(folder, name, components[name])
    state = read_weights(file)
    check_state(module, state, str(file))
    for key, t in state.items():  # one by one: what is cast or moved leaves no second copy behind
        number = (dtype or torch.float32) if t.is_floating_point() else t.dtype
        state[key] = t.to(device, number).contiguous()
    module.load_state_dict(state, assign=True)
    return module.to(device).eval().requires_grad_(False)


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
            f"{folder / 'config.json'}: the {name} is to be read from {shared!r}; expected a file of a checkpoint "
            "beside this one, such as ../emoji/tokenizer.safetensors"
        )
    return folder.parent / shared.removeprefix("../")


def build_component(described: Mapping[str, Any], where: str) -> nn.Module:
    """A module without weights (on the meta device) from ``{"type": ..., "config": ...}``."""
    kind = described.get("type")
    if kind not in TYPES:
        raise CheckpointError(f"{where}: unknown type {kind!r}; this version knows {', '.join(TYPES)}")
    path, class_name, config_name = TYPES[kind]
    source = import_module(path)
    config = build_config(getattr(source, config_name), described.get("config", {}), where)
    with torch.device("meta"):
        module: nn.Module = getattr(source, class_name)(config)
    return module


def build_config(cls: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """A config dataclass from JSON: lists become tuples, nested configs are built, unknown keys are refused."""
    assert is_dataclass(cls)
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise CheckpointError(f"{where}: unknown setting {unknown[0]!r}; {cls.__name__} has {', '.join(known)}")
    values = {}
    for name, value in data.items():
        nested: Any = known[name].default_factory
        is_config = is_dataclass(nested) and isinstance(value, Mapping)
        values[name] = build_config(nested, value, where) if is_config else _tuples(value)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises ``CheckpointError`` if it is missing, truncated or something else."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing from the checkpoint") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from None


def check_state(module: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Raises ``CheckpointError`` naming the first tensor that is missing, left over or of another shape."""
    expected = {key: tuple(t.shape) for key, t in module.state_dict().items()}
    for key, shape in expected.items():
        if key not in state:
            raise CheckpointError(f"{where} lacks the tensor {key}, expected with the shape {shape}")
        if tuple(state[key].shape) != shape:
            raise CheckpointError(f"{where}: {key} has the shape {tuple(state[key].shape)}; expected {shape}")
    left = sorted(set(state) - set(expected))
    if left:
        raise CheckpointError(f"{where} has {len(left)} tensors this model does not know, first {left[0]}")


def type_name(module: nn.Module) -> str:
    """The name of a module's type in ``config.json``."""
    for name, (_, class_name, _) in TYPES.items():
        if type(module).__name__ == class_name:
            return name
    raise CheckpointError(f"a {type(module).__name__} cannot be saved; known types are {', '.join(TYPES)}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
