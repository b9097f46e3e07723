"""Pictures to be encoded and tokens to be decoded, checked; and tokens in a file that knows their tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nextscale.errors import InputError, quoted
from nextscale.files import kind_of, written_aside
from nextscale.pictures import open_picture
from nextscale.ratios import Shapes
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Tokenizer
from nextscale.tokenizers.bitwise import packed, unpacked
from nextscale.values import listed

Picture = Image.Image | str | Path | np.ndarray
WHOLE = {getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}
FORMAT = "nextscale-tokens-1"
EXPECTED = (
    "expected one map (B, h, w), or (B, h, w, d) of bits, of whole numbers per scale, as pipe.encode or result.tokens "
    "gives them"
)


@dataclass(frozen=True)
class TokenFile:
    """maps: one (B, h, w) or (B, h, w, d) int64 map per scale; names: one per picture; model: by what they were
    encoded; tokenizer: the digest of its tokenizer.
    """

    maps: list[Tensor]
    names: list[str]
    model: str
    tokenizer: str


def pictures_of(given: Any) -> list[Image.Image]:
    """A picture or a list of them as PIL images, see :func:`picture_of`.

    Raises ``InputError`` for anything else.
    """
    several = (
        None if isinstance(given, Image.Image | str | Path) or getattr(given, "ndim", 0) in (2, 3) else listed(given)
    )
    if several == []:
        raise InputError("there is no picture in the list; expected at least one")
    return [picture_of(one) for one in ([given] if several is None else several)]


def picture_of(given: Any, alpha: bool = False) -> Image.Image:
    """A PIL image: this, what the file of this name shows, or a uint8 array (H, W, 3) or (H, W, 4). alpha: leave
    transparent parts of a file as they are.

    Raises ``InputError`` for anything else.
    """
    if isinstance(given, str | Path):
        return open_picture(given, alpha)
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] in (3, 4):
        given = Image.fromarray(given)
    if not isinstance(given, Image.Image):
        about = f"an array {tuple(given.shape)} of {given.dtype}" if hasattr(given, "dtype") else quoted(given)
        raise InputError(
            f"a picture is {about}; expected a PIL image, the name of a file or a uint8 array (height, width, 3)"
        )
    if 0 in given.size:
        raise InputError(f"a picture has {given.width}x{given.height} pixels; expected at least one")
    return given


def token_maps(tokens: Any, tokenizer: Tokenizer, shapes: Shapes | None = None) -> tuple[list[Tensor], ScaleSchedule]:
    """Tokens as one (B, h, w) or (B, h, w, d) int64 map per scale, of all scales or the first few; without B it is one
    picture's. And the schedule that these are scales of, by their sizes.

    shapes: the sizes that pictures may have, by default that of the tokenizer's own schedule alone. Raises
    ``InputError`` for other shapes, other numbers than whole ones, and tokens that the codebook has not.
    """
    given = None if isinstance(tokens, Tensor) else listed(tokens)
    shapes = shapes or Shapes.of_one(tokenizer.schedule, tokenizer.stride)
    schedule = shapes.beginning([_size(one, tokenizer) for one in given or []]) or shapes.default
    sizes = schedule.sizes
    if not given or len(given) > len(sizes):
        count = f"{len(given)} maps" if given else quoted(tokens)
        raise InputError(f"tokens are {count}, and there are {len(sizes)} scales; {EXPECTED}")
    maps = [
        _map(k, one, (*size, *tokenizer.token_shape), tokenizer.choices)
        for k, (one, size) in enumerate(zip(given, sizes))
    ]
    counts = {len(one) for one in maps}
    if len(counts) > 1:
        raise InputError(f"the maps hold {', '.join(map(str, sorted(counts)))} pictures; expected as many in every one")
    return maps, schedule


def _size(given: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Height and width of a map, or nothing where it is none."""
    try:
        shape = tuple(np.shape(given))
    except (TypeError, ValueError, RuntimeError):
        return ()
    return shape[-2 - len(tokenizer.token_shape) :][:2]


def _map(k: int, given: Any, shape: tuple[int, ...], choices: int) -> Tensor:
    try:
        tokens = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the tokens of scale {k} are {quoted(given)}; {EXPECTED}") from None
    if tokens.dtype not in WHOLE:
        raise InputError(f"the tokens of scale {k} are of the type {tokens.dtype}; {EXPECTED}")
    if tokens.layout != torch.strided or tokens.is_meta:
        raise InputError(f"the tokens of scale {k} are {quoted(tokens)}; {EXPECTED}")
    tokens = tokens[None] if tokens.ndim == len(shape) else tokens
    if not tokens.ndim or tuple(tokens.shape[1:]) != shape or not len(tokens):
        raise InputError(
            f"the tokens of scale {k} have the shape {tuple(tokens.shape)}; expected (B, {', '.join(map(str, shape))})"
        )
    tokens = tokens.long()
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= choices:
        raise InputError(f"the tokens of scale {k} go from {low} to {high}; expected 0 to {choices - 1}")
    return tokens


def digest(tokenizer: Tokenizer) -> str:
    """What tells a tokenizer from another: 64 hex digits of its sizes and weights, the same in float32 and bfloat16."""
    sizes = (tokenizer.schedule.sizes, tokenizer.choices, tokenizer.code_dim, tokenizer.stride, *tokenizer.token_shape)
    found = hashlib.sha256(repr(sizes).encode())
    for name, weight in sorted(tokenizer.state_dict().items()):
        rounded = weight.detach().to("cpu", torch.bfloat16).contiguous()
        found.update(name.encode() + rounded.view(torch.int16).numpy().tobytes())
    return found.hexdigest()


def save_tokens(
    path: Path, maps: Sequence[Tensor], names: Sequence[str], model: str, tokenizer: Tokenizer, overwrite: bool = False
) -> None:
    """Write tokens as a safetensors file; arguments as in :class:`TokenFile`, errors as of ``written_aside``."""
    about = {"format": FORMAT, "names": json.dumps(list(names)), "model": model, "tokenizer": digest(tokenizer)}
    tensors = {f"scale_{k}": tokens.to("cpu", torch.int32).contiguous() for k, tokens in enumerate(maps)}
    if tokenizer.draws > 1 and tokenizer.choices == 2:
        about["bits"] = str(tokenizer.draws)
        tensors = {name: packed(tokens) for name, tokens in tensors.items()}
    with written_aside(path, overwrite) as aside:
        save_file(tensors, aside, about)


def load_tokens(path: Path, tokenizer: Tokenizer, shapes: Shapes | None = None) -> TokenFile:
    """Read what :func:`save_tokens` wrote; shapes as for :func:`token_maps`. Raises ``InputError`` for another file, or
    another tokenizer's tokens.
    """
    if not path.is_file():
        seen = f"{path} is {kind_of(path)}" if path.exists() else f"there is no file {path}"
        raise InputError(f"{seen}; expected one that nextscale encode wrote")
    try:
        with safe_open(path, "pt") as file:
            about, found = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = json.loads(about.get("names", "[]"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({quoted(str(error))}); expected one that nextscale encode wrote"
        ) from None
    wanted = [f"scale_{k}" for k in range(len(found))]
    if about.get("format") != FORMAT or sorted(found) != sorted(wanted):
        raise InputError(f"{path} holds other things than tokens; expected a file that nextscale encode wrote")
    if about.get("tokenizer") != digest(tokenizer):
        raise InputError(
            f"{path} holds the tokens of another tokenizer, of the model {quoted(about.get('model'))}; expected the "
            "model that wrote it, or one with the same tokenizer"
        )
    stored = [found[name] for name in wanted]
    if "bits" in about and all(one.ndim == 4 and one.dtype == torch.uint8 for one in stored):
        stored = [unpacked(one, tokenizer.draws) for one in stored]
    maps, _ = token_maps(stored, tokenizer, shapes)
    if not isinstance(names, list) or len(names) != len(maps[0]) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} names its pictures {quoted(names)}; expected one name for each of {len(maps[0])}")
    return TokenFile(maps, names, str(about.get("model")), str(about["tokenizer"]))
