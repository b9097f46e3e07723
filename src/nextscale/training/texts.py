"""Texts of a data set, encoded once by a frozen text encoder and kept in a file that is read text by text."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from nextscale.conditions.encoder import digest, encoder_folder
from nextscale.conditions.text import TextConditioner
from nextscale.conditions.textfile import TextFeatures
from nextscale.errors import InputError
from nextscale.training.copies import Progress
from nextscale.training.parallel import rank

WAIT = 0.5
"""Seconds between two looks of a process that waits for the main one."""


def noted(conditioner: TextConditioner, styles: Mapping[str, str]) -> TextConditioner:
    """The same with these styles, and the digest of the encoder's weights in its reference. Raises ``CheckpointError``
    where the encoder cannot be loaded.
    """
    reference = conditioner.reference
    sha256 = reference.sha256 or digest(encoder_folder(reference))
    return TextConditioner(replace(reference, sha256=sha256), styles=styles)


def encoded_before(
    conditioner: TextConditioner, texts: Sequence[str], folder: Path, number: str, progress: Progress | None = None
) -> TextConditioner:
    """The conditioner with the states of all these texts in a file. The main process of a run makes the file where it
    is not there, and the others wait. The encoder does not stay in memory.

    number: the number type that the encoder computes in; progress: called with (texts encoded, texts to encode).
    """
    reference = asdict(conditioner.reference)
    key = [reference["sha256"], reference["width"], reference["length"], number, *dict.fromkeys(texts)]
    path = folder / f"texts-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.safetensors"
    while not _there(path):
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            encoder = conditioner.prepared(low_memory=True)
            encoder.save_features(path, texts, overwrite=True, **({} if progress is None else {"step": progress}))
        else:
            time.sleep(WAIT)
    return conditioner.prepared(features=path, low_memory=True)


def _there(path: Path) -> bool:
    """Whether the file is whole: it is written aside, so a process that looks meanwhile sees none."""
    try:
        TextFeatures(path)
    except InputError:
        return False
    return True
