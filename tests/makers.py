"""Tiny real models for the tests, with every parameter randomised.

Default initialisation makes blocks near-identity (gates of 0.001, biases of 0) and so hides errors; ``randomise``
does not.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features, Source
from nextscale.conditions.classes import ClassVocabulary, class_features
from nextscale.layers.mamba2 import Mamba2
from nextscale.memory.base import Memory
from nextscale.memory.make import look_ahead, make_memory
from nextscale.models.base import NextScaleModel
from nextscale.models.flexvar import FlexVAR, FlexVARConfig
from nextscale.models.hmar import HMAR, HMARConfig
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.pipeline import Pipeline
from nextscale.plan import Plan, default_plan
from nextscale.scales import Size
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.base import Tokenizer
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.tokenizers.direct import DirectConfig, DirectTokenizer
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

SIZES = ((1, 1), (2, 2), (3, 3), (4, 4))
CLASSES, CODES, CODE_DIM = 5, 48, 8
LONGEST, LETTERS = 5, 4
"""States of the longest text that a tiny Infinity reads, and their width."""


def randomise(module: nn.Module, seed: int = 0, std: float = 0.3) -> None:
    """Draw every parameter anew: matrices with ``std`` shrunk by fan-in, everything else around its usual value."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if p.ndim >= 2 and "embedding" not in name and "scale_mul" not in name and "ada_gss" not in name:
                p.copy_(noise * 2 * std / p[0].numel() ** 0.5 * 1.5)
            elif "scale_mul" in name:
                p.copy_(1.4 + 0.3 * noise)
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.1 * noise)
            else:
                p.copy_(std * noise)


def tiny_tokenizer(sizes: tuple[tuple[int, int], ...] = SIZES, phi: int = 4) -> ResidualTokenizer:
    """16x16 pixels (for the default sizes), stride 4."""
    autoencoder = AutoencoderConfig(ch=8, mult=(1, 2, 2), z=CODE_DIM, res_blocks=1, groups=4)
    config = ResidualConfig(codes=CODES, code_dim=CODE_DIM, sizes=sizes, phi=phi, autoencoder=autoencoder)
    tokenizer = ResidualTokenizer(config)
    randomise(tokenizer)
    return tokenizer.eval().requires_grad_(False)


def tiny_bitwise(
    sizes: tuple[tuple[int, int], ...] = SIZES, bits: int = 3, patchify: bool = False, seed: int = 0
) -> BitwiseTokenizer:
    """Four pixels to a latent position, so 16x16 pixels for the default sizes, or 32x32 where patchified."""
    autoencoder = AutoencoderConfig(
        ch=8, mult=(1, 2, 2), z=bits, res_blocks=1, groups=4, attention=False, mid_attention=False
    )
    config = BitwiseConfig(bits=bits, sizes=sizes, patchify=patchify, autoencoder=autoencoder)
    tokenizer = BitwiseTokenizer(config)
    randomise(tokenizer, seed)
    return tokenizer.eval().requires_grad_(False)


def tiny_direct(sizes: tuple[tuple[int, int], ...] = SIZES, seed: int = 0, **changed: Any) -> DirectTokenizer:
    """16x16 pixels (for the default sizes), stride 4."""
    autoencoder = AutoencoderConfig(ch=8, mult=(1, 2, 2), z=6, res_blocks=1, groups=4)
    config = DirectConfig(codes=CODES, code_dim=CODE_DIM, sizes=sizes, autoencoder=autoencoder, **changed)
    tokenizer = DirectTokenizer(config)
    randomise(tokenizer, seed)
    return tokenizer.eval().requires_grad_(False)


def tiny_var(shared_adaln: bool = False, l2_norm: bool = True, seed: int = 0, classes: int = CLASSES) -> VAR:
    config = VARConfig(
        depth=3,
        width=32,
        heads=4,
        classes=classes,
        codes=CODES,
        code_dim=CODE_DIM,
        sizes=SIZES,
        shared_adaln=shared_adaln,
        l2_norm=l2_norm,
    )
    model = VAR(config)
    randomise(model, seed, 0.8)
    return model.eval().requires_grad_(False)


def tiny_m_var(mixer: Literal["mamba2", "attention"] = "mamba2", l2_norm: bool = True, seed: int = 0) -> MVAR:
    config = MVARConfig(
        depth=2,
        width=32,
        heads=4,
        classes=CLASSES,
        codes=CODES,
        code_dim=CODE_DIM,
        sizes=SIZES,
        l2_norm=l2_norm,
        mixer=mixer,
        state=16,
        head_dim=16,
    )
    model = MVAR(config)
    randomise(model, seed, 0.5)
    start_decays(model, seed)
    return model.eval().requires_grad_(False)


def tiny_hmar(mask_blocks: int = 0, seed: int = 0, **changed: Any) -> HMAR:
    """A first stage, or both with so many blocks of the masked branch's own."""
    sizes = {"depth": 3, "width": 32, "heads": 4, "classes": CLASSES, "codes": CODES, "code_dim": CODE_DIM}
    settings: dict[str, Any] = {**sizes, "sizes": SIZES, "mask_blocks": mask_blocks}
    model = HMAR(HMARConfig(**settings | changed))
    randomise(model, seed, 0.5)
    return model.eval().requires_grad_(False)


def tiny_flexvar(seed: int = 0, **changed: Any) -> FlexVAR:
    """Positions are twice as fine as the largest map that it was trained on."""
    settings: dict[str, Any] = {"depth": 3, "width": 32, "heads": 4, "classes": CLASSES, "codes": CODES}
    model = FlexVAR(FlexVARConfig(**settings | {"code_dim": CODE_DIM, "sizes": SIZES, "places": 8} | changed))
    randomise(model, seed, 0.8)
    return model.eval().requires_grad_(False)


def start_decays(model: NextScaleModel, seed: int) -> None:
    """As Mamba-2 starts with them: with random ones the state would die within a token or two."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, Mamba2):
                module.init_decay()


SQUARE: tuple[Size, ...] = (*SIZES, (7, 7))
WIDE: tuple[Size, ...] = ((1, 1), (1, 2), (2, 3), (4, 6), (6, 9))
TALL: tuple[Size, ...] = ((1, 1), (2, 1), (3, 1), (6, 2), (9, 3))


def tiny_infinity(per_chunk: bool = False, seed: int = 0, std: float = 0.5, **changed: Any) -> Infinity:
    """Tokens of eight bits. Rotary positions are counted on maps that are finer than what it draws, one of each of
    three ratios.
    """
    settings: dict[str, Any] = {"depth": 3, "width": 32, "heads": 4, "hidden": 48, "bits": CODE_DIM}
    settings |= {"text_width": LETTERS, "text_length": LONGEST, "text_heads": 2, "levels": 6, "chunks": 3}
    settings |= {"sizes": SIZES, "schedules": (SQUARE, WIDE, TALL), "level_per_chunk": per_chunk}
    model = Infinity(InfinityConfig(**settings | changed))
    randomise(model, seed, std)
    start_decays(model, seed)
    return model.eval().requires_grad_(False)


def tiny_text_m_var(seed: int = 0, **changed: Any) -> Infinity:
    """An Infinity of M-VAR's blocks. Its numbers are smaller, or else rounding would show."""
    return tiny_infinity(seed=seed, std=0.35, mixer="mamba2", state=16, head_dim=16, **changed)


CLASS_MODELS: dict[str, Callable[[], NextScaleModel]] = {
    "var": lambda: tiny_var(),
    "var-plain-attention": lambda: tiny_var(l2_norm=False),
    "var-shared-adaln": lambda: tiny_var(shared_adaln=True),
    "hmar": lambda: tiny_hmar(),
    "hmar-masked": lambda: tiny_hmar(2),
    "m-var": lambda: tiny_m_var(),
    "m-var-plain-attention": lambda: tiny_m_var(l2_norm=False),
    "m-var-attention-between-scales": lambda: tiny_m_var("attention"),
}
FREE_CLASS_MODELS: dict[str, Callable[[], NextScaleModel]] = {"flexvar": lambda: tiny_flexvar()}
"""Those that draw any schedule."""
TEXT_MODELS: dict[str, Callable[[], NextScaleModel]] = {
    "infinity": lambda: tiny_infinity(),
    "infinity-levels-per-chunk": lambda: tiny_infinity(per_chunk=True),
    "infinity-text-mixer": lambda: tiny_infinity(text_mixer=2),
    "infinity-mamba2": lambda: tiny_text_m_var(),
}
MODELS = CLASS_MODELS | FREE_CLASS_MODELS | TEXT_MODELS
"""Every model the laws are run over: name -> maker."""


def remembers(model: NextScaleModel) -> bool:
    """Whether it sees more of earlier scales than the canvas."""
    return model.memory != "none"


def features_of(model: NextScaleModel, images: int = 2) -> Features:
    """What up to three images are to show, by whatever the model reads; each is unlike the others. Texts have other
    numbers of states, and numbers where they have none; the second image has no negative text.
    """
    if "text" not in model.reads:
        return class_features(torch.tensor([1, 3, 0])[:images])
    texts = {"text": text_source([3, 1, 4]), "negative": text_source([2, 2, 5], 7)}
    texts["negative"] = replace(texts["negative"], dropped=torch.tensor([False, True, False]))
    return Features(3, texts).select(torch.arange(images))


def text_source(lengths: Sequence[int], seed: int = 5) -> Source:
    """Texts of so many states."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(lengths), LONGEST, LETTERS, generator=generator)
    return Source("text", {"states": states, "mask": torch.arange(LONGEST) < torch.tensor(lengths)[:, None]})


def nothing_of(model: NextScaleModel, images: int) -> Features:
    """Images that have nothing of what the model reads, where a text is as short as can be."""
    if "text" not in model.reads:
        return class_features(torch.zeros(images, dtype=torch.long), dropped=torch.ones(images, dtype=torch.bool))
    return Features(images, {"text": text_source([1] * images)}).drop("text", torch.ones(images, dtype=torch.bool))


def branches_of(model: NextScaleModel) -> Branches:
    """What the model reads, and nothing."""
    return (model.sources, NULL)


def tokenizer_of(model: NextScaleModel) -> Tokenizer:
    """A tokenizer whose tokens the model predicts."""
    if isinstance(getattr(model, "config", None), FlexVARConfig):
        return tiny_direct()
    return tiny_tokenizer() if model.draws == 1 else tiny_bitwise(bits=CODE_DIM)


def few(model: NextScaleModel, top_k: int) -> int:
    """As many of the likeliest choices, or all there are."""
    return min(top_k, model.choices)


def tiny_pipeline(model: NextScaleModel | None = None, **defaults: object) -> Pipeline:
    vocabulary, model = ClassVocabulary(("animal", "face", "flag", "food", "tool")), model or tiny_var()
    return Pipeline(tokenizer_of(model), model, vocabulary, name="tiny", defaults=defaults)


STYLES = ("noto", "twemoji", "openmoji")


def tiny_pipeline_of_styles(**defaults: object) -> Pipeline:
    """Three classes in three styles: nine labels."""
    vocabulary = ClassVocabulary(("animal", "face", "flag"), styles=STYLES)
    return Pipeline(tiny_tokenizer(), tiny_var(classes=9), vocabulary, name="tiny", defaults=defaults)


NULL: tuple[str, ...] = ()
BOTH: Branches = (("class",), NULL)
"""The branches of a guided generation of a class model."""


def new_memory(model: NextScaleModel, rows: int, plan: Plan | None = None) -> Memory:
    """The memory of a generation by ``plan``, empty."""
    plan = plan or default_plan(model)
    planned = plan.memories["model"]
    outlook = look_ahead(planned, plan.course(0, model))
    return make_memory(planned, outlook, rows, torch.float32, torch.device("cpu"))


def some_inputs(model: NextScaleModel, images: int = 2, seed: int = 1) -> list[Tensor]:
    """Random inputs (B, c, h_k, w_k) of all scales after the first."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((images, model.code_dim, h, w), generator=generator) for h, w in model.schedule.sizes[1:]]


def load_tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
