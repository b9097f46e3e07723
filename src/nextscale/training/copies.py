"""Copies of a data set in files that are mapped into memory, made once and shared by runs.

A copy is one safetensors file of one tensor, a row per image. Its name is the fingerprint of all that its content
depends on, so a copy by another tokenizer, of other data or with another augmentation is never found; its header holds
the sha256 of its content, so that damage is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.errors import TrainingError
from nextscale.files import sha256
from nextscale.training import system
from nextscale.training.parallel import processes, rank, sum_over

NO_DIGEST = "0" * 64
CODES = {"<i2": "I16", "<i4": "I32", "<f2": "F16"}
"""What safetensors calls the number types."""

Progress = Callable[[int, int], None]


class CopyFile:
    """One copy in a file. key: all that its content depends on; name: of its tensor; dtype: one of ``CODES``."""

    def __init__(self, folder: Path, key: dict[str, Any], name: str, shape: tuple[int, int], dtype: str) -> None:
        self.key, self.name, self.shape, self.dtype = key, name, shape, np.dtype(dtype)
        text = json.dumps(key, sort_keys=True)
        self.path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
        self.aside = self.path.with_suffix(".part")  # until ``begin`` says which
        self._lock: int | None = None
        self._code = CODES[dtype]
        self.start = len(self._header(NO_DIGEST))
        self.bytes = math.prod(self.shape) * self.dtype.itemsize

    def begin(self, number: int) -> None:
        """Make the file under another name, empty, and remove what killed runs have left of it.

        number: tells this run from others that make the same file; it is the same in all processes of a run.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for left in self.path.parent.glob(f"{self.path.stem}*.part"):
            with suppress(OSError):
                handle = os.open(left, os.O_RDWR)
                given_up = system.lock(handle)
                os.close(handle)
                if given_up:
                    left.unlink()
        self.choose(number)
        self._lock = os.open(self.aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | system.BINARY, 0o666)
        system.lock(self._lock)
        os.write(self._lock, self._header(NO_DIGEST))
        os.truncate(self._lock, self.start + self.bytes)

    def choose(self, number: int) -> None:
        """Take the name under which ``begin`` makes the file."""
        self.aside = self.path.with_name(f"{self.path.stem}-{number:08x}.part")

    def write(self, row: int, values: Tensor) -> None:
        """Write values (B, n) from the row ``row`` on."""
        with self.aside.open("r+b") as file:
            file.seek(self.start + row * self.shape[1] * self.dtype.itemsize)
            file.write(values.cpu().numpy().astype(self.dtype).tobytes())

    def finish(self) -> None:
        """Note the digest, and give the file its name."""
        if system.msvcrt is not None:  # Windows neither writes the bytes that are locked nor renames an open file
            self.release()
        digest = sha256(self.aside, self.start)
        with self.aside.open("r+b") as file:
            file.write(self._header(digest))
            os.fsync(file.fileno())
        self.aside.replace(self.path)

    def release(self) -> None:
        """Let go of the file that is being made."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def intact(self) -> bool:
        """Whether header, size and content are what was written."""
        try:
            with self.path.open("rb") as file:
                header = file.read(self.start)
            right_size = self.path.stat().st_size == self.start + self.bytes
            return right_size and header == self._header(sha256(self.path, self.start))
        except OSError:
            return False

    def open(self) -> np.ndarray[Any, Any]:
        """The values (N, n), mapped into memory."""
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape)

    def _header(self, digest: str) -> bytes:
        """The header of a safetensors file: its length, then JSON, filled with spaces to a multiple of 8 bytes."""
        size = math.prod(self.shape) * self.dtype.itemsize
        about = {name: str(value) for name, value in self.key.items()} | {"sha256": digest}
        tensor = {"dtype": self._code, "shape": self.shape, "data_offsets": [0, size]}
        text = json.dumps({"__metadata__": about, self.name: tensor}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Job:
    """A copy that is wanted. rows: its images; make: from the number of a batch and its images ``rows`` (B,) to their
    values (B, n); batch: how many are made at once.
    """

    file: CopyFile
    rows: Tensor
    make: Callable[[int, Tensor], Tensor]
    batch: int


def fill(jobs: Sequence[Job], data: ImageData, folder: Path, progress: Progress | None = None) -> list[str]:
    """Make the copies that are not there; every process of a run calls this, and each makes its share. Returns a
    sentence for each file that was damaged and is built again. progress: called with (images done by this process, all
    it has to do).

    Raises:
        TrainingError: the folder cannot be written.
    """
    damaged, wanting = [], []
    for job in jobs:
        path = job.file.path
        state = torch.tensor([not path.is_file(), path.is_file() and not job.file.intact()])
        missing, broken = (sum_over(state.long()) > 0).tolist()  # as one, or a process would wait for ever
        damaged += [f"the {job.file.name[:-1]} cache {path} is damaged and was built again"] if broken else []
        wanting += [job] if missing or broken else []
    total, before = sum(len(job.rows) for job in wanting) // processes(), 0
    for job in wanting:

        def show(done: int, offset: int = before // processes()) -> None:
            if progress is not None:
                progress(min(offset + done, total), total)

        try:
            _fill_one(job, data, show)
        except OSError as error:
            with suppress(OSError):
                job.file.aside.unlink()
            size = f"{sum(job.file.bytes for job in wanting) / 2**20:.0f} MiB"
            what = f"the {job.file.name[:-1]} cache {folder} ({size})"
            raise TrainingError(f"{what} cannot be written: {error.strerror}") from None
        finally:
            job.file.release()
        before += len(job.rows)
    return damaged


def _fill_one(job: Job, data: ImageData, show: Callable[[int], None]) -> None:
    file, number = job.file, secrets.randbelow(2**31) if rank() == 0 else 0
    if rank() == 0:
        file.begin(number)
    file.choose(int(sum_over(torch.tensor(number))))  # the others wait
    parts = list(enumerate(torch.arange(len(job.rows)).split(job.batch)))[rank() :: processes()]
    done = 0
    for (number, places), following in zip(parts, [*parts[1:], None], strict=False):
        if following is not None:
            data.prefetch(job.rows[following[1]])
        file.write(int(places[0]), job.make(number, job.rows[places]))
        done += len(places)
        show(done)
    sum_over(torch.zeros(1))
    if rank() == 0:
        file.finish()
    sum_over(torch.zeros(1))
