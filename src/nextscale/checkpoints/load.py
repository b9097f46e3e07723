"""From a model's name to its folder: bundled models by name, checkpoints on disk by path; and what lies beside the
weights.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from nextscale.conditions.classes import ClassVocabulary
from nextscale.errors import CheckpointError

BUNDLED = Path(__file__).parent.parent / "bundled"


def bundled_names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a bundled model or of a checkpoint on disk. Raises ``CheckpointError`` if there is neither."""
    if str(name) in bundled_names():
        return BUNDLED / str(name)
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise CheckpointError(f"{folder} is a folder but no checkpoint: it has no config.json")
    if re.fullmatch(r"(m-)?var-d\d+(-\d+)?", str(name)):
        raise CheckpointError(
            f"there are no weights of {str(name)!r} here; convert the official files first (nextscale convert)"
        )
    bundled = ", ".join(bundled_names()) or "none"
    raise CheckpointError(
        f"there is no model {str(name)!r}: no such bundled model ({bundled}) and no checkpoint folder"
    )


def load_vocabulary(folder: Path, classes: int) -> ClassVocabulary:
    """The class names beside a model, or numbers where a checkpoint has none."""
    path = folder / "classes.json"
    if not path.exists():
        return ClassVocabulary(tuple(str(i) for i in range(classes)))
    try:
        vocabulary = ClassVocabulary.from_dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); the checkpoint is damaged") from None
    if len(vocabulary) != classes:
        raise CheckpointError(f"{path} names {len(vocabulary)} classes, but the model has {classes}")
    return vocabulary


def revision(folder: Path) -> str:
    """Twelve hex digits that change with the weights or the configuration of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
