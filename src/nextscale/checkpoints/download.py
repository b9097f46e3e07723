"""Fetch files from the hub so that whatever interrupts it, the next try goes on where it stopped.

huggingface_hub resumes a broken connection, but throws its partial file away when the call ends (2.4), which is dear
with files of up to 14 GB. So address, session, retries and progress bar are the hub client's, and the partial file is
ours. A file that lies in its place already, put there by hand perhaps, or in the hub's own cache is taken from there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from nextscale.checkpoints.convert.read import listed
from nextscale.checkpoints.published import in_one_name, models_cache
from nextscale.documents import read_json
from nextscale.errors import CheckpointError, InputError
from nextscale.files import sha256, write_text
from nextscale.settings import build

REASONS: Sequence[tuple[type[Exception], str]] = (
    (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
    (GatedRepoError, "its owners ask you to accept their terms on its page, and to log in with: hf auth login"),
    (RepositoryNotFoundError, "there is no such repository, or it is private and you are not logged in"),
    (RevisionNotFoundError, "the repository has no such revision"),
    (RemoteEntryNotFoundError, "the repository has no such file"),
)


INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""What the hub's tools call the list of the files of a model, in the order in which they look for it."""


@dataclass(frozen=True)
class Wanted:
    """A file of a repository on the hub, at a branch, tag or commit."""

    repo: str
    file: str
    revision: str

    @property
    def url(self) -> str:
        return hf_hub_url(self.repo, self.file, revision=self.revision)

    @property
    def place(self) -> Path:
        """Where it is kept, and looked for first."""
        return models_cache() / "official" / in_one_name(self.repo) / in_one_name(self.revision) / self.file

    @property
    def record(self) -> Path:
        """Where its hash is kept."""
        return self.place.with_name(f"{self.place.name}.json")


@dataclass(frozen=True)
class Fetched:
    """A file that is here. commit: what the revision stood for when it was fetched; None if it was put here by hand."""

    repo: str
    file: str
    revision: str
    commit: str | None
    sha256: str
    bytes: int


def fetch_folder(repo: str, folder: str, revision: str) -> list[tuple[Path, Fetched]]:
    """A model in several files, which lie in a folder of a repository: their index first. Errors as for :func:`fetch`.

    All lie beside one another: in the hub's own cache where that has every one, else where fetched files are kept.
    """
    index = _index(repo, folder, revision)
    parts = [
        Wanted(repo, f"{folder}/{file}", revision) for file in sorted(set(listed(_one(index, [index])[0]).values()))
    ]
    files = [index, *parts]
    ours = any(one.place.is_file() for one in files) or not all(map(_cached, files))
    return [_one(one, files, ours) for one in files]


def _index(repo: str, folder: str, revision: str) -> Wanted:
    """The index of a folder: the one that is here, else the first that the hub has."""
    *others, last = [Wanted(repo, f"{folder}/{name}", revision) for name in INDEXES]
    for one in (*others, last):
        if one.place.is_file() or _cached(one):
            return one
    for one in others:
        try:
            _one(one, [one])
        except CheckpointError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise
        else:
            return one
    return last


def _cached(wanted: Wanted) -> str | None:
    """Where a file lies in the hub's own cache: .../snapshots/COMMIT/FILE."""
    found = try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    return found if isinstance(found, str) else None


def fetch(files: Sequence[Wanted]) -> list[tuple[Path, Fetched]]:
    """The files on this machine, downloaded where they are not yet, and checked against what is known of them.

    Raises ``CheckpointError`` if one cannot be had, with what to fetch by hand and where to put it; if it arrives
    damaged; or if it is another than the one recorded for this revision.
    """
    return [_one(wanted, files) for wanted in files]


def remember(files: Sequence[Fetched]) -> None:
    """Record the hashes of files, unless that was done before: of fetched ones at once, of those put here by hand when
    they have proved good.
    """
    for fetched in files:
        record = Wanted(fetched.repo, fetched.file, fetched.revision).record
        if not record.exists():
            write_text(record, json.dumps(asdict(fetched), indent=2) + "\n", overwrite=True)


def _one(wanted: Wanted, others: Sequence[Wanted], ours: bool = False) -> tuple[Path, Fetched]:
    """ours: never take it from the hub's own cache."""
    path, commit = wanted.place, None
    if not path.is_file():
        if not ours and (cached := _cached(wanted)):
            path = Path(cached)
            commit = path.parents[wanted.file.count("/")].name
        else:
            commit = _download(wanted, others)
    fetched = Fetched(wanted.repo, wanted.file, wanted.revision, commit, sha256(path), path.stat().st_size)
    if wanted.record.is_file():
        try:
            known = build(Fetched, read_json(wanted.record))
        except InputError as error:
            raise CheckpointError(f"{wanted.record} is damaged ({error}); delete it to trust {path}") from None
        if known.sha256 != fetched.sha256:
            raise CheckpointError(
                f"{path} has sha256 {fetched.sha256[:16]}..., but {known.sha256[:16]}... was recorded when "
                f"{wanted.file} of {wanted.repo} at {wanted.revision!r} was first used; delete {path} to fetch it "
                f"again, or {wanted.record} to trust the new one"
            )
        fetched = known
    elif commit is not None:
        remember([fetched])
    return path, fetched


def _download(wanted: Wanted, others: Sequence[Wanted]) -> str:
    """Download into place; returns the commit. What has arrived stays for the next try, whatever happens."""
    try:
        about = get_hf_file_metadata(wanted.url)
        if about.commit_hash is None or about.etag is None or about.size is None:
            raise OSError(f"{wanted.url} is not answered by a hub: commit, ETag or size is missing")
        part = wanted.place.with_name(f"{wanted.place.name}.{about.etag[:16]}.part")
        _make_room(part, about.size)
        exact = hf_hub_url(wanted.repo, wanted.file, revision=about.commit_hash)
        _transfer(exact, part, about.size, wanted.file)
    except CheckpointError:
        raise
    except Exception as error:  # the client's own exceptions are those of whichever HTTP library it stands on
        if is_disk_error(error):
            raise CheckpointError(
                f"{wanted.place.parent} cannot be written ({error}) while {wanted.file} is fetched; what has "
                "arrived is kept and continued. Make room, or set NEXTSCALE_CACHE to a folder elsewhere"
            ) from error
        raise CheckpointError(
            f"{wanted.file} of {wanted.repo} at {wanted.revision!r} cannot be fetched ({reason(error)}). "
            f"To fetch it by hand, {_by_hand(others)}"
        ) from error
    if re.fullmatch(r"[0-9a-f]{64}", about.etag) and sha256(part) != about.etag:
        part.unlink()
        raise CheckpointError(
            f"{wanted.file} of {wanted.repo} arrived damaged: its sha256 is not {about.etag[:16]}..., which the hub "
            "states; it was deleted, so run this again"
        )
    os.replace(part, wanted.place)
    return about.commit_hash


def _make_room(part: Path, size: int) -> None:
    """The folder of a partial file, without parts of other versions; refused where the rest will not fit."""
    part.parent.mkdir(parents=True, exist_ok=True)
    for other in part.parent.glob(f"{part.name.rsplit('.', 2)[0]}.*.part"):
        if other != part or other.stat().st_size > size:
            other.unlink()
    missing, free = size - _size(part), shutil.disk_usage(part.parent).free
    if missing > free:
        raise CheckpointError(
            f"{part.parent} has {free / 1e9:.2f} GB free, but {missing / 1e9:.2f} GB are still to come; make room, or "
            "set NEXTSCALE_CACHE to a folder elsewhere"
        )


def _transfer(url: str, part: Path, size: int, shown: str) -> None:
    """Append what is missing. The client tries again where a server hangs up; a reset connection is left to us."""
    part.touch()
    while (had := _size(part)) < size:
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        try:
            with part.open("ab") as file:
                http_get(url, file, resume_size=had, headers=headers, expected_size=size, displayed_filename=shown)
        except OSError:  # the hub's refusals, and the disk's
            raise
        except Exception:
            if _size(part) == had:
                raise


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_disk_error(error: Exception) -> bool:
    """Whether it is the disk's refusal and not the hub's, whose exceptions are ``OSError`` too."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, HfHubHTTPError)


def reason(error: Exception) -> str:
    """Why the hub did not deliver, in a few words."""
    for kind, words in REASONS:
        if isinstance(error, kind):
            return words
    said = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    return said if isinstance(error, OSError) else f"no connection to {constants.ENDPOINT}: {said}"


def _by_hand(files: Sequence[Wanted]) -> str:
    missing = [wanted for wanted in files if not wanted.place.is_file()]
    return " and ".join(f"download {wanted.url} to {wanted.place}" for wanted in missing)
