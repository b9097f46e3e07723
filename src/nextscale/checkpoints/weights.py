"""Weights to a safetensors file, one tensor at a time: cast, written and forgotten, so that a model of any size passes
through the memory that its largest tensor takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale.errors import CheckpointError

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


def write_weights(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write ``tensors`` as a safetensors file; dtype: cast floating point ones to it, one by one.

    The file: eight bytes with the length of the header, the header (JSON: number type, shape and place of each tensor),
    then the numbers without gaps, wide types first so that each tensor is aligned. It is whole or not there. Raises
    ``OSError`` with the path, and ``CheckpointError`` for a tensor with values that are not finite numbers.
    """
    types = {name: dtype if dtype and t.is_floating_point() else t.dtype for name, t in tensors.items()}
    order = sorted(tensors, key=lambda name: (-types[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * types[name].itemsize
        header[name] = {
            "dtype": NAMES[types[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # the tensors may well lie in the file that is replaced
    try:
        with aside.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                numbers = tensors[name].detach().to("cpu", types[name]).contiguous()
                if numbers.is_floating_point() and not bool(numbers.isfinite().all()):
                    raise CheckpointError(_not_finite(name, tensors[name], types[name]))
                file.write(numbers.reshape(-1).view(torch.uint8).numpy().data)
        os.replace(aside, path)
    except OSError as error:  # what a full disk says names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def _not_finite(name: str, tensor: Tensor, dtype: torch.dtype) -> str:
    wrong = int((~tensor.isfinite()).sum())
    if wrong:
        return f"{name} has {wrong} values of {tensor.numel()} that are not finite numbers; the weights are damaged"
    return f"{name} has values up to {float(tensor.abs().max()):g}, too large for {dtype}; take bfloat16 or float32"
