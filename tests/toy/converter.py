"""The toy's official files: our names behind ``toy.`` for the model and ``bits.`` for the tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from nextscale.checkpoints.convert.renaming import Target, Targets, marked, tensor_of, to_ours, to_theirs
from nextscale.checkpoints.shapes import without_values
from tests.toy.model import Toy, ToyConfig
from tests.toy.tokenizer import ToyTokenizer, ToyTokenizerConfig

Config = ToyConfig | ToyTokenizerConfig
MARKS = {"model": ("toy.null", "toy.words.weight"), "tokenizer": ("bits.encoder.weight",)}


def recognises(names: Collection[str]) -> str | None:
    return marked(names, MARKS)


def config(component: str, state: Mapping[str, Tensor], sizes: Iterable[Any] | None = None) -> Config:
    if component == "tokenizer":
        return ToyTokenizerConfig(bits=len(tensor_of(state, "bits.encoder.weight", 4, "toy tokenizer")))
    width, words = tensor_of(state, "toy.words.weight", 2, "toy").shape
    bits = tensor_of(state, "toy.inputs.weight", 2, "toy").shape[1]
    layers = sum(name.endswith(".mlp.weight") for name in state)
    return ToyConfig(width=width, layers=layers, words=words, bits=bits)


def targets(config: Config) -> Targets:
    """Where our tensors come from."""
    model = isinstance(config, ToyConfig)
    module = without_values(lambda: Toy(config) if isinstance(config, ToyConfig) else ToyTokenizer(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return {name: Target(f"{'toy' if model else 'bits'}.{name}", shape, shape) for name, shape in shapes.items()}


def from_official(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    return to_ours(state, targets(config), "toy", lambda name: False)


def to_official(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    return to_theirs(state, targets(config))


def published(name: str, like: object = None) -> dict[str, Any] | None:
    return {"tokenizer": ToyTokenizerConfig(), "model": ToyConfig(words=3)} if name == "toy-s" else None


def sampling(config: object) -> Mapping[str, Any]:
    return {"temperature": 0.9, "top_k": 2}
