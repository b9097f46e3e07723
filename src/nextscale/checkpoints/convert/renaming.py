"""Strict renaming of tensors between official names and ours: every tensor must be known, present and of the right
shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.errors import CheckpointError, quoted


@dataclass(frozen=True)
class Target:
    """Where one of our tensors comes from: its official name and shape, and our shape with as many elements."""

    name: str
    shape: tuple[int, ...]
    ours: tuple[int, ...]


Targets = Mapping[str, Target]
"""Our names to where their tensors come from."""

NARROW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
NUMBERS = {torch.float64, torch.float32, torch.bfloat16, torch.float16, *NARROW}
"""Floating point numbers that weights may be: of the narrow ones nothing here computes, they are cast on the way."""
INDEX = re.compile(r"[0-9]{1,9}")


def marked(names: Collection[str], marks: Mapping[str, Iterable[str]]) -> str | None:
    """The first component all of whose marks are among ``names``; ``encoder.down.*`` stands for any that begins so."""

    def has(mark: str) -> bool:
        return any(name.startswith(mark[:-1]) for name in names) if mark.endswith("*") else mark in names

    return next((component for component, own in marks.items() if all(map(has, own))), None)


def to_ours(
    state: Mapping[str, Tensor], targets: Targets, what: str, is_buffer: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Official tensors under our names, in our shapes; values and number types stay as they are, buffers are left out.

    what: the name of the format in errors. Raises ``CheckpointError`` naming the first tensor that is missing, of
    another shape, not floating point, or left over.
    """
    left = {name for name in state if not is_buffer(name)} - {target.name for target in targets.values()}
    found = {}
    for ours, target in targets.items():
        if target.name not in state:
            raise CheckpointError(f"the {what} lacks the tensor {target.name}, expected with the shape {target.shape}")
        tensor = state[target.name]
        if tuple(tensor.shape) != target.shape:
            raise CheckpointError(
                f"{target.name} of the {what} has the shape {tuple(tensor.shape)}; expected {target.shape}"
            )
        if tensor.dtype not in NUMBERS:
            raise CheckpointError(f"{target.name} of the {what} holds {tensor.dtype}; expected floating point numbers")
        found[ours] = tensor.reshape(target.ours)
    if left:
        raise CheckpointError(
            f"the {what} has {len(left)} tensors that do not belong there, first {readable(min(left))}"
        )
    return found


def to_theirs(state: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
    """Our tensors under their official names, in the official shapes; the inverse of :func:`to_ours` but for
    buffers."""
    return {target.name: state[ours].reshape(target.shape) for ours, target in targets.items()}


def respelt(state: Mapping[str, Tensor], spelling: Callable[[str], str], what: str) -> dict[str, Tensor]:
    """The same tensors under the names that ``spelling`` makes of theirs. Raises ``CheckpointError`` where two names
    are spellings of one."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (spelt := spelling(name)) in found:
            raise CheckpointError(f"the {what} has the tensor {readable(spelt)} twice, once as {readable(name)}")
        found[spelt] = tensor
    return found


def tensor_of(state: Mapping[str, Tensor], name: str, ndim: int, what: str) -> Tensor:
    """One tensor that a configuration is read off. Raises ``CheckpointError`` if it is missing, empty or has another
    rank."""
    if name not in state:
        raise CheckpointError(f"this is no {what}: it lacks the tensor {name}")
    shape = tuple(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise CheckpointError(f"{name} of the {what} has the shape {shape}; expected {ndim} dimensions, none empty")
    return state[name]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many entries of a module list the names below ``prefix`` show. Raises ``CheckpointError`` where one is left
    out, so that a large index alone builds nothing."""
    rests = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    found = {int(index) for index in rests if INDEX.fullmatch(index)}
    absent = next((i for i in range(len(found)) if i not in found), None)
    if absent is not None:
        raise CheckpointError(f"there is a {prefix}{max(found)} but no {prefix}{absent}; expected each from 0 on")
    return len(found)


def readable(name: str) -> str:
    """A tensor's name as a sentence may show it: on one line, and not for pages."""
    return name if name.isprintable() and len(name) <= 100 else quoted(name, 100)


def zeros_like_first(state: Mapping[str, Tensor], *shape: int) -> Tensor:
    """Float32 zeros on the device of the first tensor."""
    return torch.zeros(shape, device=next(iter(state.values())).device)
