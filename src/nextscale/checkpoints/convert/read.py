"""Reading foreign weight files: tensors only, nothing is ever executed, and what is wrong is said in one sentence."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors.torch import load_file

from nextscale.documents import read_json
from nextscale.errors import CheckpointError, one_line, quoted
from nextscale.files import free_name, kind_of

INDEX, PART = ".index.json", re.compile(r"(.+)-\d+-of-(?!0*1\.)\d+(\.\w+)")
"""What the hub's tools call a model in several files: the list of its tensors, and each of the files."""

STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched: git lfs pull"),
    (b"<!doctype", "a web page: the download went wrong, or the address was that of the page beside the file"),
    (b"<html", "a web page: the download went wrong, or the address was that of the page beside the file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"bzh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zxz", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"rar!", "a RAR archive; unpack it first"),
    (b"\x89hdf", "an HDF5 file, as Keras writes them"),
    (b"\x93numpy", "a NumPy array"),
    (b"gguf", "a GGUF file, as llama.cpp reads them"),
    (b"{", "JSON text, which holds no weights"),
)
"""How files begin (in lower case) that people take for weight files, and what they are."""

RESAVE = """\
import torch
def tensors(x): return x if isinstance(x, torch.Tensor) else {{k: tensors(v) for k, v in getattr(x, "state_dict", lambda: x)().items() if isinstance(v, (torch.Tensor, dict, torch.nn.Module))}}
torch.save(tensors(torch.load({old!r}, map_location="cpu", weights_only=False)), {new!r})"""  # noqa: E501 - three lines to paste


def files_of(path: Path) -> list[Path]:
    """The files that ``path`` stands for: itself, or an index and what it lists; a folder stands for the index in it.

    Raises ``CheckpointError`` for an index that is damaged, and where files are missing or left over.
    """
    path = _index_of(path)
    return [path, *sorted(path.parent / file for file in set(_listed(path).values()))] if _is_index(path) else [path]


def read_content(path: Path) -> Any:
    """The content of a ``.safetensors`` or PyTorch file, told by its first bytes, or of the files that an index
    lists, or the index in a folder: tensors by name, perhaps nested and among other things.

    Raises ``CheckpointError`` if a file is missing, truncated, not a weight file, or holds more than tensors and
    plain data.
    """
    path = _index_of(path)
    if _is_index(path):
        return _read_indexed(path)
    part = PART.fullmatch(path.name)
    if part is not None:
        raise CheckpointError(f"{path} is one of several files of a model; give their index, {part[1]}{part[2]}{INDEX}")
    return _read_file(path)


def _is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def _index_of(path: Path) -> Path:
    """The index in a folder of several files; every other path as it is."""
    found = sorted(path.glob(f"*{INDEX}")) if path.is_dir() else []
    if len(found) > 1:
        raise CheckpointError(f"{path} holds {len(found)} models in several files; give the index of one: {found[0]}")
    return found[0] if found else path


def _read_file(path: Path) -> Any:
    """One file, told by its first bytes."""
    _check_regular(path)
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{" and start[4:8] == bytes(4):
        return _read_safetensors(path)
    if start[:4] == b"PK\x03\x04":
        _check_archive(path)
        if path.suffix == ".safetensors":  # PyTorch's reader goes by the name
            raise CheckpointError(f"{path} is a PyTorch file; give it a name that ends in .pth")
        return _read_torch(path, mapped=True)
    what = next((what for begin, what in STARTS if start.lstrip().lower().startswith(begin)), None)
    if what is None and start[257:262] == b"ustar":
        what = "a tar archive; unpack it first"
    if what is not None:
        raise CheckpointError(f"{path} is {what}; expected a weight file (.pth or .safetensors)")
    if start[:1] == b"\x80":
        return _read_torch(path, mapped=False)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise CheckpointError(
        f"{path} begins with {start[:4]!r} and is not a PyTorch weight file; expected .pth or .safetensors"
    )


def _check_regular(path: Path) -> None:
    """Raises ``CheckpointError`` for anything but a file with something in it: a pipe or a device may never end."""
    if path.is_dir():
        weights = sorted(f for f in os.listdir(path) if f.endswith((".pth", ".pt", ".bin", ".ckpt", ".safetensors")))
        holds = f", such as {path / weights[0]}" if weights else ""
        raise CheckpointError(f"{path} is a folder; expected a weight file{holds}")
    if not path.is_file():
        raise CheckpointError(f"{one_line(path)} is {kind_of(path)}; expected a weight file")
    if not path.stat().st_size:
        raise CheckpointError(f"{path} is empty; expected a weight file")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # whatever stumbles over a damaged header
        raise CheckpointError(f"{path} is not a whole safetensors file ({one_line(error)})") from None


def _check_archive(path: Path) -> None:
    """Refuse archives that are no weights; a broken one is left to the reader of weights."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError, ValueError, NotImplementedError):
        return
    if any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, which would have to be run; expected tensors only. Save them with "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW) if you trust the file"
        )
    if not any(name.endswith("data.pkl") for name in names):
        kind = "NumPy" if any(name.endswith(".npy") for name in names) else "ZIP"
        first = f" (first: {quoted(names[0])})" if names else ""
        raise CheckpointError(f"{path} is a {kind} archive{first} and holds no PyTorch weights; expected a weight file")


def _read_torch(path: Path, mapped: bool) -> Any:
    """The content of a ``.pth`` file; the unpickler knows tensors and plain data and refuses to build anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the unpickler remarks on newer pickle protocols before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign or "Unsupported" in str(error):
            raise _holds_objects(path, foreign[1] if foreign else "") from None
        raise CheckpointError(f"{path} is not a PyTorch weight file; its pickle cannot be read") from None
    except Exception:  # what the unpickler says of damage depends on where it lies
        expected = "expected a whole .pth or .safetensors file"
        size = path.stat().st_size
        raise CheckpointError(f"{path} ({size} bytes) is truncated or not a PyTorch weight file; {expected}") from None


def _holds_objects(path: Path, named: str) -> CheckpointError:
    """The refusal of a file that would have to be run to be read, with the lines that save its tensors as a note."""
    new = free_name(path.with_name(f"{path.stem}-tensors.pth"))
    error = CheckpointError(
        f"{path} holds Python objects{f' ({named[:80]})' if named else ''}, which could run code when read; expected "
        f"tensors only, and nothing was run. If you trust the file, save its tensors again with these three lines of "
        f"Python, where it was made, and convert {new}"
    )
    error.add_note(RESAVE.format(old=str(path), new=str(new)))
    return error


def listed(path: Path) -> dict[str, str]:
    """The files beside an index, there or not, by the tensors that it lists. Raises ``CheckpointError`` for what is no
    index, or names files elsewhere.
    """
    try:
        found: dict[str, str] = read_json(path, CheckpointError)["weight_map"]
        outside = sorted(file for file in set(found.values()) if os.path.basename(file) != file)
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is no index of weight files; expected one with a weight_map") from None
    if outside:
        raise CheckpointError(f"{path} names {quoted(outside[0])}, which lies elsewhere; expected files beside it")
    return found


def _listed(path: Path) -> dict[str, str]:
    """The same for an index whose files are all there, and no more."""
    found = listed(path)
    files = set(found.values())
    whole = path.name.removesuffix(INDEX)
    parts = [name for name in os.listdir(path.parent) if (part := PART.fullmatch(name)) and part[1] + part[2] == whole]
    for file in sorted({*files, *parts}):
        if not os.path.lexists(path.parent / file):
            raise CheckpointError(f"{path.parent / file} is missing; {path.name} lists tensors in it")
        if file not in files:
            raise CheckpointError(f"{path.parent / file} is left over: {path.name} lists no tensor in it")
    return found


def _read_indexed(path: Path) -> dict[str, Any]:
    """The tensors of a model in several files, by the list of them that lies beside them."""
    places, tensors = _listed(path), dict[str, Any]()
    for file in sorted(set(places.values())):
        found = _read_file(path.parent / file)
        if not isinstance(found, Mapping):
            raise CheckpointError(f"{path.parent / file} holds no tensors by name; expected a part of a model")
        for name in found:
            if places.get(name) != file:
                place = f"lists in {places[name]}" if name in places else "does not list"
                raise CheckpointError(f"{path.parent / file} holds {quoted(name)}, which {path.name} {place}")
        tensors |= found
    absent = sorted(set(places) - set(tensors))
    if absent:
        raise CheckpointError(f"{path} lists the tensor {quoted(absent[0])}, which none of its files holds")
    return tensors
