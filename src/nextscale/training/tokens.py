"""Tokens of a data set, encoded once by a frozen tokenizer and kept in files that are mapped into memory.

For augmentation several copies of the set are kept: copy 0 shows the images as they are, every further one mirrored,
moved, recoloured or cropped in another way. Each copy is one safetensors file of one tensor ``tokens`` (N, L d). Its
name is the fingerprint of all that its content depends on, so tokens of another tokenizer, other data or another
augmentation are never found; its header holds the sha256 of its content, so that damage does not pass.

Shape letters: ``N`` images of the set, ``B`` of one batch, ``L`` tokens of all scales of an image, ``d`` draws of a
token (1 where it is the index of a code), ``h w`` one token map.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.errors import TrainingError
from nextscale.files import sha256
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Tokenizer
from nextscale.training import system
from nextscale.training.objectives.images import recolour, shift, to_signed
from nextscale.training.order import SampleNoise
from nextscale.training.parallel import processes, rank, sum_over

FORMAT_VERSION = 1
BATCH = 64
NO_DIGEST = "0" * 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Augmentation:
    """How copies differ from the images. flip: share of mirrored ones; unmirrored: names of classes that never are;
    shift: largest displacement in pixels; recolour: share of images whose colour channels are exchanged.
    """

    flip: float = 0.0
    unmirrored: tuple[str, ...] = ()
    shift: int = 0
    recolour: float = 0.0

    def mirrored(self, copy: int) -> bool:
        """Whether a copy shows the images mirrored: a share ``flip`` of all copies does, evenly spread."""
        return math.floor((copy + 1) * self.flip) > math.floor(copy * self.flip)

    def images(self, data: ImageData, rows: Tensor, turned: Tensor, noise: SampleNoise, device: torch.device) -> Tensor:
        """Random variants (B, 3, H, W) in [-1, 1] of the images ``rows`` (B,); turned: (B,) bool, those to mirror."""
        images = to_signed(data.read(rows, noise.uniform(2)), device)
        fixed = [i for i, name in enumerate(data.classes) if name in self.unmirrored]
        turned = turned & ~torch.isin(data.labels[rows], torch.tensor(fixed, dtype=torch.int64))
        images = torch.where(turned.to(device)[:, None, None, None], images.flip(-1), images)
        return recolour(shift(images, self.shift, noise), self.recolour, noise)


PLAIN = Augmentation()


@torch.no_grad()
def encode(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """Tokens (B, L d) int64 of images (B, 3, H, W) in [-1, 1], in float32 whatever the precision of training."""
    with torch.autocast(images.device.type, enabled=False):
        maps = tokenizer.encode(tokenizer.latent(images)).tokens
    return torch.cat([tokens.flatten(1) for tokens in maps], 1)


def token_maps(tokens: Tensor, schedule: ScaleSchedule, draws: int = 1) -> list[Tensor]:
    """Tokens (B, L d) as one token map per scale, (B, h, w) or (B, h, w, d)."""
    parts, several = tokens.split([length * draws for length in schedule.lengths], 1), [draws] if draws > 1 else []
    return [part.unflatten(1, (*size, *several)) for part, size in zip(parts, schedule, strict=True)]


class Tokens:
    """Copies of a data set as tokens; see the module's docstring."""

    groups: tuple[int, ...] = ()

    def __init__(self, copies: list[np.ndarray[Any, Any]]) -> None:
        self._copies, self.count, self.waited = copies, len(copies), 0.0

    def prefetch(self, rows: Tensor) -> None:
        """Nothing to do: the system keeps what was read in memory."""

    def read(self, copies: Tensor, rows: Tensor) -> Tensor:
        """Tokens (B, L d) int64 of the images ``rows`` (B,), each from the copy named in ``copies`` (B,)."""
        start = time.perf_counter()
        found = [self._copies[copy][row] for copy, row in zip(copies.tolist(), rows.tolist(), strict=True)]
        tokens = torch.from_numpy(np.stack(found)).long()
        self.waited += time.perf_counter() - start
        return tokens

    def all(self) -> Tensor:
        """Tokens (N, L d) int64 of copy 0."""
        return torch.from_numpy(self._copies[0].astype(np.int64))


def cached_tokens(
    folder: Path,
    tokenizer: Tokenizer,
    revision: str,
    data: ImageData,
    copies: int = 1,
    augmentation: Augmentation = PLAIN,
    progress: Progress | None = None,
) -> tuple[Tokens, list[str]]:
    """The tokens of ``copies`` copies of ``data`` from ``folder``, which are encoded first where they are not there.

    Every process of a run calls this; each encodes its share. Returns the tokens, and a sentence for each file that
    was damaged and has been built again.

    Args:
        revision: what names the tokenizer's weights.
        progress: called with (images encoded by this process, all it has to encode).

    Raises:
        TrainingError: the folder cannot be written.
    """
    kind = {"images": len(data), "tokens": tokenizer.schedule.tokens * tokenizer.draws, "codes": tokenizer.choices}
    found, damaged, wanting = [], [], []
    for copy in range(copies):
        changes = {} if copy == 0 else asdict(augmentation) | {"copy": copy, "mirrored": augmentation.mirrored(copy)}
        key = {"format": FORMAT_VERSION, "tokenizer": revision, "data": data.hash, **kind, **changes}
        file = CopyFile(folder, key)
        found.append(file)
        state = torch.tensor([not file.path.is_file(), file.path.is_file() and not file.intact()])
        missing, broken = (sum_over(state.long()) > 0).tolist()  # as one, or a process would wait for ever
        damaged += [f"the token cache {file.path} is damaged and was built again"] if broken else []
        wanting += [copy] if missing or broken else []
    for place, copy in enumerate(wanting):
        offset, total = place * len(data) // processes(), len(wanting) * len(data) // processes()

        def show(done: int, offset: int = offset, total: int = total) -> None:
            if progress is not None:
                progress(min(offset + done, total), total)

        try:
            _encode_copy(found[copy], tokenizer, data, copy, augmentation, show)
        except OSError as error:
            with suppress(OSError):
                found[copy].aside.unlink()
            size = f"{found[copy].bytes * len(wanting) / 2**20:.0f} MiB"
            raise TrainingError(f"the token cache {folder} ({size}) cannot be written: {error.strerror}") from None
        finally:
            found[copy].release()
    return Tokens([file.open() for file in found]), damaged


def _encode_copy(
    file: CopyFile,
    tokenizer: Tokenizer,
    data: ImageData,
    copy: int,
    augmentation: Augmentation,
    show: Callable[[int], None],
) -> None:
    device = next(tokenizer.parameters()).device
    number = secrets.randbelow(2**31) if rank() == 0 else 0
    if rank() == 0:
        file.begin(number)
    file.choose(int(sum_over(torch.tensor(number))))  # the others wait
    parts = list(enumerate(torch.arange(len(data)).split(BATCH)))[rank() :: processes()]
    done = 0
    for (number, rows), following in zip(parts, [*parts[1:], None], strict=False):
        if following is not None:
            data.prefetch(following[1])
        if copy == 0:
            images = to_signed(data.read(rows), device)
        else:
            # Keyed by copy and batch alone, so that every run and any number of processes gets the same copies.
            noise = SampleNoise(FORMAT_VERSION, copy * len(data) + number, len(rows), slice(None))
            turned = torch.full((len(rows),), augmentation.mirrored(copy))
            images = augmentation.images(data, rows, turned, noise, device)
        file.write(int(rows[0]), encode(tokenizer, images))
        done += len(rows)
        show(done)
    sum_over(torch.zeros(1))
    if rank() == 0:
        file.finish()
    sum_over(torch.zeros(1))


class CopyFile:
    """One copy in a file. key: all that its content depends on, with the sizes ``images``, ``tokens`` and ``codes``."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.key, self.shape = key, (key["images"], key["tokens"])
        text = json.dumps(key, sort_keys=True)
        self.path = folder / f"tokens-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
        self.aside = self.path.with_suffix(".part")  # until ``begin`` says which
        self._lock: int | None = None
        self.dtype = np.dtype("<i2") if key["codes"] <= 2**15 else np.dtype("<i4")
        self.start = len(self._header(NO_DIGEST))
        self.bytes = math.prod(self.shape) * self.dtype.itemsize

    def begin(self, number: int) -> None:
        """Make the file under another name, empty, and remove what killed runs have left of it.

        number: what tells this run from others that make the same file, the same in all its processes.
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
        """Take the name that ``begin`` gives the file."""
        self.aside = self.path.with_name(f"{self.path.stem}-{number:08x}.part")

    def write(self, row: int, tokens: Tensor) -> None:
        """Write the tokens (B, L d) of the images from ``row`` on."""
        with self.aside.open("r+b") as file:
            file.seek(self.start + row * self.shape[1] * self.dtype.itemsize)
            file.write(tokens.cpu().numpy().astype(self.dtype).tobytes())

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
        """The tokens (N, L d), mapped into memory."""
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape)

    def _header(self, digest: str) -> bytes:
        """The header of a safetensors file: its length, then JSON, filled with spaces to a multiple of 8 bytes."""
        code = {2: "I16", 4: "I32"}[self.dtype.itemsize]
        size = math.prod(self.shape) * self.dtype.itemsize
        about = {name: str(value) for name, value in self.key.items()} | {"sha256": digest}
        tensor = {"dtype": code, "shape": self.shape, "data_offsets": [0, size]}
        text = json.dumps({"__metadata__": about, "tokens": tensor}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text
