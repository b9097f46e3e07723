"""From the name that a user gives to a folder, over the network only where need be: what is here goes first, and the
hub's client, which takes a second to import, comes in only when something is to be fetched.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nextscale.checkpoints.load import bundled_names, checkpoint_folder, unchanged
from nextscale.checkpoints.published import converted_folder, published
from nextscale.errors import InputError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def model_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: bundled, on disk, published (``var-d16``), or a checkpoint on the hub (``org/repo``).

    revision: a branch, tag or commit of what comes from the hub. Raises ``CheckpointError`` if there is no such model,
    it cannot be fetched, or was changed after it was; and ``InputError`` for a revision of what has none.
    """
    if isinstance(name, str) and name not in bundled_names() and not os.path.exists(name):
        if model := published(name):
            folder = converted_folder(model, revision)
            if folder.is_dir():
                return unchanged(folder)
            from nextscale.checkpoints.hub import published_folder

            return published_folder(model, revision)
        if REPOSITORY.fullmatch(name) and not _on_disk(Path(name)):
            from nextscale.checkpoints.hub import repository_folder

            return repository_folder(name, revision)
    if revision is not None:
        raise InputError(f"the revision {revision!r} of {str(name)!r} was asked for; only models from the hub have one")
    return checkpoint_folder(name)


def _on_disk(path: Path) -> bool:
    """Whether a name that could be a repository's means a folder that is missing, which the hub need not be asked for:
    one in a folder that is there, or what training calls its result.
    """
    return os.path.isdir(path.parent) or path.name == "export"
