"""From a folder to the hub: a checkpoint and its card, whole, in one commit."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]

from nextscale import __version__
from nextscale.checkpoints.card import hub_card, split
from nextscale.checkpoints.digests import DIGESTS, as_json
from nextscale.checkpoints.download import reason
from nextscale.checkpoints.load import load_conditioner
from nextscale.checkpoints.load import revision as revision_of
from nextscale.checkpoints.store import checked_component, component_file, read_config
from nextscale.errors import CheckpointError, InputError
from nextscale.files import sha256
from nextscale.models.base import NextScaleModel


def publish(
    folder: Path,
    repo: str,
    *,
    license: str | None = None,
    datasets: Sequence[str] = (),
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Put a checkpoint folder on the hub as ``repo`` (``org/name``), which is made if need be; returns its address.

    A component that lies in the folder beside is written whole. license, datasets: for the card, by the hub's names;
    private: for a new repository; revision: a branch, made if need be; token: by default that of ``hf auth login`` or
    ``$HF_TOKEN``. Warns where neither the card nor ``license`` names a licence. Raises ``InputError`` for an impossible
    name, and ``CheckpointError`` for a folder that could not be loaded again, and where the hub refuses or cannot be
    reached: then none of its files has changed.
    """
    check_repository(repo, token)
    given = {"license": license, "datasets": list(datasets)}
    card = hub_card(folder, repo, {name: value for name, value in given.items() if value})
    if "license" not in split(card)[0]:
        warnings.warn(
            f"the card of {repo} names no licence, which permits nobody to use it; give one, such as apache-2.0",
            stacklevel=2,
        )
    additions = [CommitOperationAdd("README.md", card.encode())]
    additions += [CommitOperationAdd(name, content) for name, content in _files(folder).items()]
    message = commit_message or f"Checkpoint {repo.partition('/')[2]}, written by nextscale {__version__}"
    with _refusals(repo):
        api = HfApi(token=token)
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        if revision not in (None, "main"):
            api.create_branch(repo, branch=str(revision), exist_ok=True)
            address += f"/tree/{revision}"
        api.create_commit(repo, additions, commit_message=message, revision=revision)
    return address


def publish_saved(save: Callable[[Path], None], repo: str, *, token: str | None = None, **about: Any) -> str:
    """The same for a checkpoint that ``save(folder)`` writes, into a temporary folder; about: further arguments of
    :func:`publish`.
    """
    check_repository(repo, token)
    with TemporaryDirectory(prefix="nextscale-") as aside:
        folder = Path(aside) / "checkpoint"
        try:
            save(folder)
        except OSError as error:
            raise CheckpointError(f"{error}; make room there, or set TMPDIR to a folder elsewhere") from error
        return publish(folder, repo, token=token, **about)


def check_repository(repo: str, token: str | None = None) -> None:
    """What can be checked before anything is written or sent. Raises as :func:`publish` for the name or no token."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no name of a repository ({error}); expected org/name") from None
    if "/" not in repo:
        raise InputError(f"{repo!r} names no owner; expected org/name, the owner being you or your organisation")
    with _refusals(repo):
        if "authorization" not in build_hf_headers(token=token):
            raise LocalTokenNotFoundError("you are not logged in; run hf auth login, set HF_TOKEN, or give a token")


def _files(folder: Path) -> dict[str, str | bytes]:
    """The checkpoint without its card: names on the hub to paths here, or to content where it differs there."""
    described = read_config(folder)
    parts = described["components"]
    files: dict[str, str | bytes] = {"config.json": str(folder / "config.json")}
    if any("file" in part for part in parts.values()):
        alone = {name: {key: value for key, value in part.items() if key != "file"} for name, part in parts.items()}
        files["config.json"] = (json.dumps(described | {"components": alone}, indent=2) + "\n").encode()
    for name, part in parts.items():
        file = component_file(folder, name, part)
        module, _ = checked_component(folder, name)
        files[f"{name}.safetensors"] = str(file)
        if isinstance(module, NextScaleModel):
            beside = load_conditioner(folder, module.reads).file
            if beside and (folder / beside).is_file():
                files[beside] = str(folder / beside)
    digests = {name: _sha256(files[name]) for name in files if name.endswith(("config.json", ".safetensors"))}
    own = files["config.json"] == str(folder / "config.json")
    files[DIGESTS] = as_json(digests, revision_of(folder) if own else None).encode()
    return files


def _sha256(content: str | bytes) -> str:
    return sha256(Path(content)) if isinstance(content, str) else hashlib.sha256(content).hexdigest()


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """Whatever the hub's client raises inside the block becomes one sentence."""
    try:
        yield
    except Exception as error:  # its exceptions are those of whichever HTTP library it stands on
        raise CheckpointError(f"{repo} cannot be written on {constants.ENDPOINT}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of a large file, which the client sends from a thread
    if isinstance(error, HfHubHTTPError):
        said = (error.server_message or "").strip()
        if error.response.status_code == 401:
            return "it does not know this token; log in anew with hf auth login, or give another one"
        if error.response.status_code == 403:
            return f"this token may not ({said or 'forbidden'}); expected one that may write, and a place of your own"
        return f"it answered {error.response.status_code} ({said})" if said else reason(error)
    return " ".join(str(error).split()) if isinstance(error, ValueError) else reason(error)
