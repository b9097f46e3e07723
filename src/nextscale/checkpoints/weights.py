"""Weights to a safetensors file and back.

They are written one tensor at a time: cast, written and forgotten, so that a model of any size passes through the
memory that its largest tensor takes. What is read must be the tensors of the network that it is for, and numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from nextscale.errors import CheckpointError, one_line
from nextscale.files import kind_of, written_aside

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Number types as the format spells them."""


LARGEST = 1e6
"""Weights are smaller: those of trained networks stay below a few hundred, while a bit that flipped in an exponent, or
memory of something else, reads as up to 1e38. Beyond it a network draws noise, though all its numbers are finite.
"""


def write_weights(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write ``tensors`` as a safetensors file; dtype: cast floating point ones to it, one by one.

    The file: eight bytes with the length of the header, the header (JSON: number type, shape and place of each tensor),
    then the numbers without gaps, wide types first so that each tensor is aligned. It is whole or not there. Raises
    ``OSError`` with the path, and ``CheckpointError`` for values that are no numbers, or no weights.
    """
    types = {name: dtype if dtype and t.is_floating_point() else t.dtype for name, t in tensors.items()}
    order = sorted(tensors, key=lambda name: (-types[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        if types[name] not in NAMES:
            raise CheckpointError(f"{name} is of {types[name]}, in which no weights are kept; cast it to float32")
        start, end = end, end + tensors[name].numel() * types[name].itemsize
        header[name] = {
            "dtype": NAMES[types[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with (
            written_aside(path, overwrite=True) as aside,
            aside.open("wb") as file,
        ):  # the tensors may lie in the old one
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                check_numbers(name, tensors[name], types[name], math.inf)
                numbers = tensors[name].detach().to("cpu", types[name]).contiguous()
                file.write(numbers.reshape(-1).view(torch.uint8).numpy().data)
    except OSError as error:  # what a full disk says names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_numbers(name: str, tensor: Tensor, dtype: torch.dtype | None = None, largest_weight: float = LARGEST) -> None:
    """Raises ``CheckpointError`` for a tensor with values that are not finite numbers, larger than a weight can be, or
    too large for ``dtype``. One pass at the speed of memory.
    """
    if tensor.is_meta or tensor.layout != torch.strided:
        raise CheckpointError(f"{name} is a {'meta' if tensor.is_meta else 'sparse'} tensor; expected plain numbers")
    if not tensor.is_floating_point() or not tensor.numel():
        return
    numbers = tensor.detach() if tensor.dtype in NAMES else tensor.detach().float()
    low, high = (float(end) for end in numbers.aminmax())  # both NaN, where there is one
    largest = max(-low, high) if low == low else math.nan
    if not largest < math.inf:
        wrong = int((~tensor.isfinite()).sum())
        raise CheckpointError(
            f"{name} has {wrong} values of {tensor.numel()} that are not finite numbers; the weights are damaged"
        )
    if largest > largest_weight:
        raise CheckpointError(
            f"{name} has values up to {largest:g}; expected at most {largest_weight:g}, which no trained weight comes "
            "near. The weights are damaged, or their training diverged"
        )
    if dtype is not None and dtype.is_floating_point and largest > torch.finfo(dtype).max:
        raise CheckpointError(f"{name} has values up to {largest:g}, too large for {dtype}; take bfloat16 or float32")


def read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and number type of every tensor of a safetensors file, whose numbers are not read; errors as for
    :func:`read_weights`.
    """
    if not path.is_file():
        found = kind_of(path)
        what = "is missing from the checkpoint" if found == "missing" else f"is {found}; expected a file of weights"
        raise CheckpointError(f"{path} {what}")
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
            return {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({one_line(error)})") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ``CheckpointError`` if it is missing, truncated or something else."""
    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, AttributeError) as error:  # the last two for types torch does not have
        raise CheckpointError(f"{path} is not a readable safetensors file ({one_line(error)})") from None


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raises ``CheckpointError`` naming the first tensor that is missing, left over, of another shape or of a number
    type that is no weight's.
    """
    check_tensors(module, {key: (tuple(t.shape), NAMES.get(t.dtype, str(t.dtype))) for key, t in state.items()}, where)


def check_tensors(module: nn.Module, found: Mapping[str, tuple[tuple[int, ...], str]], where: str) -> None:
    """The same from what :func:`read_header` found; arguments and errors as for :func:`check_state`."""
    expected = module.state_dict()
    for key, t in expected.items():
        if key not in found:
            raise CheckpointError(f"{where} lacks the tensor {key}, expected with the shape {tuple(t.shape)}")
        shape, number = found[key]
        if shape != tuple(t.shape):
            raise CheckpointError(f"{where}: {key} has the shape {shape}; expected {tuple(t.shape)}")
        numbers = ("F32", "BF16", "F16", "F64") if t.is_floating_point() else (NAMES[t.dtype],)
        if number not in numbers:
            raise CheckpointError(f"{where}: {key} holds numbers of type {number}; expected {' or '.join(numbers)}")
    left = sorted(set(found) - set(expected))
    if left:
        raise CheckpointError(f"{where} has {len(left)} tensors this model does not know, first {one_line(left[0])}")
