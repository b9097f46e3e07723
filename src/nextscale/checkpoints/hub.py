"""Over the network to a folder: published checkpoints are fetched and converted once, and repositories of checkpoints
are fetched as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from nextscale.checkpoints.card import join
from nextscale.checkpoints.class_names import imagenet
from nextscale.checkpoints.convert import Official, read_official, save_official
from nextscale.checkpoints.digests import DIGESTS
from nextscale.checkpoints.download import Fetched, Wanted, fetch, fetch_folder, is_disk_error, reason, remember
from nextscale.checkpoints.load import conditioner_type, unchanged, write_origin
from nextscale.checkpoints.published import (
    DATASET,
    LICENCES,
    PUBLISHED,
    Published,
    converted_folder,
    models_cache,
)
from nextscale.checkpoints.store import read_config
from nextscale.errors import CheckpointError


def published_folder(model: Published, revision: str | None = None) -> Path:
    """The folder of a published checkpoint; its official files are fetched and converted if that was not done yet.

    revision: of its own repository, the table's by default. Raises ``CheckpointError`` for files that cannot be had,
    are damaged or hold another model, and for a converted folder that has changed since; no folder is half made.
    """
    folder = converted_folder(model, revision)
    if not folder.exists():
        with _locked():
            if not folder.exists():  # another process may have made it while we waited
                fetched = official_files(model, revision)
                _convert(model, fetched, folder)
                remember([file for _, files in fetched for file in files])
    return unchanged(folder)


def official_files(model: Published, revision: str | None = None) -> list[tuple[Path, list[Fetched]]]:
    """The transformer and the tokenizer of a published checkpoint, fetched if need be: what to convert, and the files
    that it is made of.

    Raises ``CheckpointError`` as :func:`~nextscale.checkpoints.download.fetch`.
    """
    asked = revision or model.revision
    tokenizer = Wanted(*model.tokenizer, asked if model.tokenizer[0] == model.repo else model.revision)
    try:
        if not model.in_folder:
            return [(path, [file]) for path, file in fetch([Wanted(model.repo, model.file, asked), tokenizer])]
        found = fetch_folder(model.repo, model.file.rstrip("/"), asked)
        return [(found[0][0], [file for _, file in found]), *((path, [file]) for path, file in fetch([tokenizer]))]
    except CheckpointError as error:
        if model.in_folder:
            raise CheckpointError(
                f"{error}; or put the whole folder into the hub's own cache: hf download {model.repo} --include "
                f'"{model.file}*"'
            ) from error
        if model.attested:
            raise
        raise CheckpointError(
            f"{error}. The name {model.file} is inferred from that of its siblings, nobody here has seen it: look at "
            f"{constants.ENDPOINT}/{model.repo}, and put the right file there under this name"
        ) from error


def _convert(model: Published, fetched: list[tuple[Path, list[Fetched]]], folder: Path) -> None:
    """Convert beside ``folder``, then rename: it is whole or it is not there."""
    official = read_official([path for path, _ in fetched], model.sizes, system=model.system)
    _check_sizes(model, official)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    files = [file for _, files in fetched for file in files]
    try:
        conditioner, beside = official.conditioner or imagenet(), {"README.md": _card(model, files).encode()}
        save_official(replace(official, conditioner=conditioner), aside, model.name, files=beside)
        write_origin(aside, [asdict(file) for file in files])
        os.replace(aside, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}); it takes {sum(file.bytes for file in files) / 1e9:.2f} "
            "GB. Make room, or set NEXTSCALE_CACHE to a folder elsewhere"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_sizes(model: Published, official: Official) -> None:
    """The file must hold the network that its name promises."""
    found: Any = official.components["model"].config
    expected = model.configs(found)["model"]
    if found != expected:
        raise CheckpointError(
            f"{model.file} of {model.repo} holds a {type(found).__name__} of depth {found.depth} and width "
            f"{found.width} on {len(found.sizes)} scales up to {found.sizes[-1][0]}; expected depth {expected.depth} "
            f"and width {expected.width} on {len(expected.sizes)} up to {expected.sizes[-1][0]} for {model.name}"
        )


def _card(model: Published, files: list[Fetched]) -> str:
    """What ``nextscale info`` says of a converted checkpoint."""
    about = "Class-conditional ImageNet" if model.reads_classes else "Text to image"
    lines = [
        f"# {model.name}",
        "",
        f"{about} at {model.pixels} pixels; as its authors measured it: {model.measured}. Converted without loss from",
        "",
    ]
    for file in files:
        at = file.commit or "an unknown commit, put here by hand"
        lines.append(f"- {file.file} of {constants.ENDPOINT}/{file.repo} at {at}, sha256 {file.sha256}")
    facts: dict[str, Any] = {"license": LICENCES[model.repo], "base_model": [model.repo]}
    facts |= {"datasets": [DATASET]} if model.reads_classes else {}
    terms = "The weights stay under their authors' terms: see those repositories."
    return join(facts, "\n".join([*lines, "", terms, ""]))


def repository_folder(repo: str, revision: str | None) -> Path:
    """A repository that is a checkpoint folder, in the hub's own cache; its configuration is read before its weights
    are fetched. Raises ``CheckpointError`` for one that is not, or cannot be had.
    """
    where = f"{repo}{f' at {revision!r}' if revision else ''}"
    if repo in LICENCES:
        names = ", ".join(model.name for model in PUBLISHED.values() if model.repo == repo)
        raise CheckpointError(f"{repo} holds several models in their authors' files; name one of them: {names}")
    try:
        if not isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str):
            get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=revision))  # fails at once, without retries
        config = Path(hf_hub_download(repo, "config.json", revision=revision))
        commit = config.parent.name  # the cache keeps a folder per commit, so that what is taken fits together
        for part in read_config(config.parent)["components"]:
            hf_hub_download(repo, f"{part}.safetensors", revision=commit)
        for beside in filter(None, (conditioner_type(config.parent)[1].file, "README.md", DIGESTS)):
            with suppress(EntryNotFoundError):
                hf_hub_download(repo, beside, revision=commit)
        return config.parent
    except (CheckpointError, KeyError) as error:
        raise CheckpointError(
            f"{where} on the hub is no nextscale checkpoint ({error}); official weight files are converted with "
            "nextscale convert"
        ) from error
    except Exception as error:  # the client's own exceptions are those of whichever HTTP library it stands on
        if is_disk_error(error):
            raise
        absent = isinstance(error, LocalEntryNotFoundError) and error.__cause__
        why = reason(absent if isinstance(absent, Exception) else error)
        raise CheckpointError(
            f"there is no checkpoint folder {repo} here, and {where} cannot be fetched from the hub: {why}. "
            f"By hand: hf download {repo} --local-dir FOLDER where there is a connection, then load FOLDER"
        ) from error


@contextmanager
def _locked() -> Iterator[None]:
    """One process at a time fetches and converts; the others wait for what it makes."""
    lock = models_cache() / "checkpoints" / ".lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise CheckpointError(
            f"the cache folder {lock.parent} cannot be written ({error.strerror}); set NEXTSCALE_CACHE to one that can"
        ) from error
    with WeakFileLock(lock):
        yield
