"""Vector files, format 1: weights, inputs and outputs of an official implementation in one safetensors file.

The format is described in ``docs/verify.md``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from nextscale.errors import CheckpointError, InputError

FORMAT = "1"
MOST_DRAWN = 2**28
"""Numbers that a ``state_recipe`` may ask for: a GiB."""


class UnknownFile(InputError):
    """A safetensors file that is for another program, or for another version of this one."""


@dataclass(frozen=True)
class VectorFile:
    """The content of a vector file.

    config: what the official constructors were given, and the settings of every run; tolerance: t in |a - b| <= t + t
    |b|; metadata: all of it, by name, JSON parsed; inputs, outputs, state: tensors by their name below ``in/``,
    ``out/`` and ``state/``, the state in float32, drawn where the file says how; strays: names below none of these.
    """

    path: Path
    system: str
    kind: str
    case: str
    config: Mapping[str, Any]
    tolerance: float
    metadata: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    strays: tuple[str, ...]

    def input(self, name: str) -> Tensor:
        """The tensor ``in/<name>``. Raises ``InputError`` if there is none."""
        if name not in self.inputs:
            raise InputError(f"the file lacks the input in/{name}")
        return self.inputs[name]

    def section(self, name: str) -> Mapping[str, Any]:
        """``config[name]``, a mapping. Raises ``InputError`` if there is none."""
        found = self.config.get(name)
        if not isinstance(found, Mapping):
            raise InputError(f"the file's config lacks {name!r}; it has {', '.join(self.config) or 'nothing'}")
        return found

    def model_state(self, model: str) -> dict[str, Tensor]:
        """The state of one model: below its name where the file lists its models, else the whole state."""
        if not self.metadata.get("models"):
            return dict(self.state)
        prefix = f"{model}/"
        return {name.removeprefix(prefix): t for name, t in self.state.items() if name.startswith(prefix)}


def read_vectors(path: Path) -> VectorFile:
    """Read a vector file. Raises ``InputError`` if it is missing, damaged or has NaN among its inputs and weights, and
    ``UnknownFile`` if it is not of format 1."""
    if not path.is_file():
        what = "a folder without vector files" if path.is_dir() else "no file" if path.exists() else "missing"
        raise InputError(f"{path} is {what}; expected a vector file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
            if "format" not in strings or "kind" not in strings:
                raise UnknownFile(f"{path} is no vector file: its metadata do not name a format and a kind")
            if strings["format"] != FORMAT:
                raise UnknownFile(f"{path} has format {strings['format'][:40]!r}; this version reads format {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None
    metadata = {key: _parse(value) for key, value in strings.items()}
    for key in ("system", "kind"):
        if not isinstance(metadata.get(key), str):
            raise InputError(f"{path} does not say its {key}; expected a word under {key!r} in its metadata")
    if not isinstance(metadata.get("config"), Mapping):
        raise InputError(f"{path} has no readable config in its metadata; expected a JSON mapping")
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "in": {}, "out": {}}
    strays = []
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        if part in parts and rest:
            parts[part][rest] = tensor
        else:
            strays.append(name)
        if tensor.is_complex() or (part != "out" and bool(tensor.isnan().any())):  # among outputs it is a row's finding
            raise InputError(f"{path} holds {'complex numbers' if tensor.is_complex() else 'NaN'} in {name}")
    return VectorFile(
        path=path,
        system=metadata["system"],
        kind=metadata["kind"],
        case=str(metadata.get("case", path.stem)),
        config=metadata["config"],
        tolerance=_tolerance(path, strings),
        metadata=metadata,
        inputs=parts["in"],
        outputs=parts["out"],
        state=_drawn_state(path, metadata) | {name: _as_float32(t) for name, t in parts["state"].items()},
        strays=tuple(strays),
    )


def setting(settings: Mapping[str, Any], name: str, where: str) -> Any:
    """A setting that has no default. Raises ``InputError`` if there is none."""
    if name not in settings:
        raise InputError(f"the config of {where} lacks {name!r}; it has {', '.join(settings) or 'nothing'}")
    return settings[name]


def agree(settings: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises ``CheckpointError`` where a file's settings and what its tensors show differ."""
    for name, value in found.items():
        if name in settings and settings[name] != value:
            raise CheckpointError(f"the file's config says {name} {settings[name]}, but its tensors show {value}")


def draw(name: str, shape: list[int], mean: float, std: float, salt: str) -> Tensor:
    """The tensor that a ``state_recipe`` entry stands for: normal numbers of a Philox generator keyed by salt and name,
    rounded to float16, as float32.

    >>> draw("x", [3], 0, 1, "").tolist()
    [2.43359375, 1.640625, 0.5771484375]
    """
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32((salt + name).encode())))
    numbers = generator.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy((numbers * np.float32(std) + np.float32(mean)).astype(np.float16).astype(np.float32))


def _drawn_state(path: Path, metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    recipe, salt = metadata.get("state_recipe") or {}, metadata.get("state_salt", "")
    if not isinstance(recipe, Mapping) or not all(map(_is_entry, recipe.values())):
        raise InputError(f"{path} has no readable state_recipe; expected [shape, mean, std] for every name")
    numbers = sum(math.prod(shape) for shape, _, _ in recipe.values())
    if numbers > MOST_DRAWN:
        raise InputError(f"{path} asks for {numbers:.3g} numbers in its state_recipe; expected at most {MOST_DRAWN}")
    return {name: draw(name, shape, mean, std, str(salt)) for name, (shape, mean, std) in recipe.items()}


def _is_entry(entry: Any) -> bool:
    match entry:
        case [[*sizes], int() | float(), int() | float()]:
            return all(isinstance(size, int) and size >= 0 for size in sizes)
    return False


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _parse(value: str) -> Any:
    """JSON where it is JSON, the string itself elsewhere; a plain word stays a word."""
    if value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, a number of too many digits, or too deep
        return value


def _tolerance(path: Path, strings: Mapping[str, str]) -> float:
    text = strings.get("tolerance_float", "1e-4")
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < 1:
        raise InputError(f"{path} has a tolerance of {text[:40]!r}; expected a number from 0 to 1")
    return tolerance
