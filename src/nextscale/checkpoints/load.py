"""From a model's name to its folder: bundled models by name, checkpoints on disk by path; and what lies beside the
weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from nextscale import systems
from nextscale.checkpoints.digests import DIGESTS
from nextscale.checkpoints.published import PUBLISHED, converted_folder, nearest, published
from nextscale.checkpoints.store import (
    CLASSES,
    build_component,
    computed_revision,
    conditioners,
    load_component,
    parts,
    read_config,
)
from nextscale.checkpoints.store import revision as noted_revision
from nextscale.conditions.base import Conditioner
from nextscale.documents import read_json
from nextscale.errors import CheckpointError, InputError, quoted
from nextscale.features.classifier import Classifier
from nextscale.features.perceptual import Perceptual
from nextscale.models.base import NextScaleModel

BUNDLED = Path(__file__).parent.parent / "bundled"
ORIGIN = "origin.json"
"""What a converted checkpoint was made of, beside its weights."""


def bundled_names(component: str = "model") -> list[str]:
    """Names of the bundled checkpoints that have ``component``: the models, unless another one is asked for."""
    return sorted(name for name in _bundled() if (BUNDLED / name / f"{component}.safetensors").is_file())


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a bundled checkpoint, of one on disk, or of a published one that was fetched before.

    Nothing is fetched here. Raises ``CheckpointError`` if there is none of them.
    """
    if str(name) in _bundled():
        return BUNDLED / str(name)
    folder = Path(name)
    if os.path.isfile(folder / "config.json"):  # False for a name too long, where pathlib's own raises
        return folder
    if os.path.isdir(folder):
        export = folder / "export"
        hint = f"; what this run has trained is {export}" if (export / "config.json").is_file() else ""
        raise CheckpointError(f"{folder} is a folder but no checkpoint: it has no config.json{hint}")
    if model := published(str(name)):
        folder = converted_folder(model)
        if (folder / "config.json").is_file():
            return folder
        raise CheckpointError(
            f"the weights of {model.name} are not here yet; nextscale.load({model.name!r}) or nextscale generate "
            f"--model {model.name} fetches them ({model.file} of {model.repo})"
        )
    if _is_size(str(name)):
        raise CheckpointError(
            f"no weights have been published for {name}; they have for {', '.join(PUBLISHED)}. nextscale plan prices "
            "every size"
        )
    bundled = ", ".join(bundled_names()) or "none"
    meant = next(iter(get_close_matches(str(name), bundled_names(), 1, 0.8)), None) or nearest(str(name))
    hint = f" (did you mean {meant}?)" if meant else ""
    raise CheckpointError(
        f"there is no model {str(name)!r}{hint}: no such bundled model ({bundled}), no published one "
        f"({', '.join(PUBLISHED)}) and no checkpoint folder"
    )


def _bundled() -> list[str]:
    """Names of the bundled checkpoints: a text encoder, which is none, has no digests beside it."""
    return [path.parent.name for path in BUNDLED.glob(f"*/{DIGESTS}")]


def _is_size(name: str) -> bool:
    """Whether it is what the authors of a system would call a size of theirs, be there one or not."""
    try:
        return any(systems.converter(system).published(name) for system in systems.SYSTEMS)
    except InputError:
        return True


def conditioner_type(folder: Path) -> tuple[str, type[Conditioner]]:
    """What reads the arguments of a call for the model of a checkpoint: the name of its type, and its class.

    One that names none, as those of format 1, is of classes. Raises ``CheckpointError`` for an unknown type.
    """
    kind, known = read_config(folder).get("conditioner", {}).get("type", CLASSES), conditioners()
    if kind not in known:
        where = folder / "config.json"
        raise CheckpointError(f"{where}: unknown conditioner {quoted(kind)}; this version knows {', '.join(known)}")
    return kind, systems.load(known[kind])


def load_conditioner(folder: Path, reads: Mapping[str, int]) -> Conditioner:
    """What reads the arguments of a call for the model of a checkpoint, which reads these kinds and sizes.

    Classes without names are numbers. Raises ``CheckpointError`` for an unknown type, for what is damaged, and for what
    is of another model.
    """
    kind, cls = conditioner_type(folder)
    path, data = folder / (cls.file or "config.json"), read_config(folder).get("conditioner", {}).get("config", {})
    if cls.file and data:
        where = folder / "config.json"
        raise CheckpointError(f"{where}: conditioner.config is {quoted(data)}; that of {kind} stands in {cls.file}")
    try:
        if cls.file and os.path.lexists(path):
            data = read_json(path, CheckpointError)
            if not isinstance(data, dict):
                raise CheckpointError(f"{path} holds {quoted(data)}; expected a table")
        elif kind == CLASSES:
            data = {"names": [str(i) for i in range(reads.get("class", 1))]}
        conditioner = cls.from_dict(data)
        conditioner.check(reads)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return conditioner


def saved_conditioner(folder: Path) -> Conditioner | None:
    """What reads a call for the model of a checkpoint, whose weights are not read; None where there is no model."""
    components = read_config(folder)["components"]
    if "model" not in components:
        return None
    model = build_component(components["model"], f"{folder / 'config.json'}, model")
    assert isinstance(model, NextScaleModel)
    return load_conditioner(folder, model.reads)


def describe_conditioner(conditioner: Conditioner) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What ``config.json`` says of a conditioner, and the files beside it, by name."""
    cls, known = type(conditioner), conditioners()
    kind = next((kind for kind, name in known.items() if name == f"{cls.__module__}.{cls.__name__}"), None)
    if kind is None:
        raise CheckpointError(f"a {cls.__name__} cannot be saved; known conditioners are {', '.join(known)}")
    if not conditioner.file:
        return {"type": kind, "config": conditioner.to_dict()}, {}
    return {"type": kind}, {conditioner.file: json.dumps(conditioner.to_dict(), ensure_ascii=False).encode()}


def read_card(folder: Path) -> str:
    """The README.md beside a model, empty where there is none. It is for people: bytes that are no text are shown so,
    and keep nobody from drawing.
    """
    path = folder / "README.md"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def load_classifier(name: str | Path = "classifier", device: torch.device | str = "cpu") -> Classifier:
    """The classifier of a checkpoint: the bundled one, a folder, or the export of a run. Float32, in evaluation mode.

    Raises ``CheckpointError`` where there is none.
    """
    classifier = load_component(checkpoint_folder(name), "classifier", device)
    assert isinstance(classifier, Classifier)
    return classifier


def load_perceptual(name: str | Path = "perceptual", device: torch.device | str = "cpu") -> Perceptual:
    """Perceptual features of a checkpoint, found and loaded as by ``load_classifier``."""
    perceptual = load_component(checkpoint_folder(name), "perceptual", device)
    assert isinstance(perceptual, Perceptual)
    return perceptual


def revision(folder: Path) -> str:
    """Twelve hex digits that change with the weights or the configuration of a checkpoint; for a converted one whose
    files have kept their sizes and times, those that were put down then.
    """
    return _recorded(folder) or noted_revision(folder)


def _recorded(folder: Path) -> str | None:
    """The revision of a converted checkpoint whose files look as they did when it was put down."""
    record = read_origin(folder)
    return str(record["revision"]) if record and record["state"] == _state(folder) else None


def read_origin(folder: Path) -> dict[str, Any]:
    """What :func:`write_origin` wrote into a converted checkpoint; empty for every other one.

    Raises ``CheckpointError`` for a record that is damaged.
    """
    path = folder / ORIGIN
    if not os.path.lexists(path):
        return {}
    found = read_json(path, CheckpointError)
    if not isinstance(found, dict) or {"files", "revision", "state"} - set(found):
        raise CheckpointError(f"{path} is damaged; expected a table with files, revision and state")
    return found


def write_origin(folder: Path, files: Sequence[Mapping[str, Any]]) -> None:
    """Put down what a checkpoint was converted from, and its revision, which later loads then need not compute."""
    whole = {"files": list(files), "revision": noted_revision(folder), "state": _state(folder)}
    (folder / ORIGIN).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def unchanged(folder: Path) -> Path:
    """A converted folder of the cache. Raises ``CheckpointError`` if it is another than was put there."""
    try:
        found, recorded = _recorded(folder) or computed_revision(folder), read_origin(folder).get("revision")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); delete the folder, and it is made anew") from error
    if found != recorded:
        raise CheckpointError(
            f"{folder} has changed since it was converted (revision {found}, recorded {recorded}); delete the folder, "
            "and it is made anew"
        )
    return folder


def _state(folder: Path) -> dict[str, list[int]]:
    """Size and time of every file that the revision is made of."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in parts(folder)}
