"""The tale's official files: our names behind ``tale.`` and ``pictures.``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from nextscale.checkpoints.convert.renaming import Target, Targets, marked, tensor_of, to_ours, to_theirs
from nextscale.checkpoints.shapes import without_values
from nextscale.conditions.base import Conditioner
from tests.tale.conditioner import Letters
from tests.tale.model import Tale, TaleConfig
from tests.tale.tokenizer import TaleTokenizer, TaleTokenizerConfig

MARKS = {"model": ("tale.null", "tale.letters.weight"), "tokenizer": ("pictures.codebook.weight",)}


def recognises(names: Collection[str]) -> str | None:
    return marked(names, MARKS)


def config(component: str, state: Mapping[str, Tensor], sizes: Iterable[Any] | None = None) -> Any:
    if component == "tokenizer":
        codes, width = tensor_of(state, "pictures.codebook.weight", 2, "tale tokenizer").shape
        return TaleTokenizerConfig(codes=codes, code_dim=width)
    width, letters = tensor_of(state, "tale.letters.weight", 2, "tale").shape
    layers = sum(name.endswith(".query.weight") for name in state)
    codes = len(tensor_of(state, "tale.out.weight", 2, "tale"))
    return TaleConfig(width=width, layers=layers, letters=letters, codes=codes)


def conditioner(config: TaleConfig) -> Conditioner:
    return Letters("abcdefghijklmnopqrstuvwxyz"[: config.letters])


def targets(config: Any) -> Targets:
    prefix, cls = ("tale", Tale) if isinstance(config, TaleConfig) else ("pictures", TaleTokenizer)
    shapes = {name: tuple(t.shape) for name, t in without_values(lambda: cls(config)).state_dict().items()}
    return {name: Target(f"{prefix}.{name}", shape, shape) for name, shape in shapes.items()}


def from_official(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    return to_ours(state, targets(config), "tale", lambda name: False)


def to_official(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    return to_theirs(state, targets(config))


def published(name: str, like: object = None) -> dict[str, Any] | None:
    return {"tokenizer": TaleTokenizerConfig(), "model": TaleConfig(letters=4)} if name == "tale-s" else None


def sampling(config: object) -> Mapping[str, Any]:
    return {"guidance_scale": 2.0, "top_k": 9}
