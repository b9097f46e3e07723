"""The systems of the family: what each is called, and where its parts stand.

A further system adds its entry below and files of its own; docs/dev/systems.md says which. Names are strings, imported
where they are used, and the table is read whenever it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class System:
    """One system, usually one paper.

    name: what users call it, on the command line and in files; title: the paper's name for it; paper: its number on
    arXiv; types: the types of component it brings, as ``config.json`` calls them, each with its module, its class and
    the class of its configuration; converter, verification: modules; recipes: what ``nextscale train`` calls a thing
    to train, and the class of its recipe; conditioners: the types it brings, each with its class, where class labels
    are not what it reads; memories: the policies it brings, each with its ``Policy`` (see ``nextscale.memory.make``).
    """

    name: str
    title: str
    paper: str
    types: Mapping[str, tuple[str, str, str]]
    converter: str
    verification: str
    recipes: Mapping[str, str]
    conditioners: Mapping[str, str] = field(default_factory=dict)
    memories: Mapping[str, str] = field(default_factory=dict)


SYSTEMS = (
    System(
        name="var",
        title="VAR",
        paper="2404.02905",
        types={
            "residual": ("nextscale.tokenizers.residual", "ResidualTokenizer", "ResidualConfig"),
            "var": ("nextscale.models.var", "VAR", "VARConfig"),
        },
        converter="nextscale.checkpoints.convert.var",
        verification="nextscale.verification.var",
        recipes={
            "tokenizer": "nextscale.training.recipes.residual.ResidualTokenizerRecipe",
            "var": "nextscale.training.recipes.var.VARRecipe",
        },
    ),
    System(
        name="hmar",
        title="HMAR",
        paper="2506.04421",
        types={"hmar": ("nextscale.models.hmar", "HMAR", "HMARConfig")},
        converter="nextscale.checkpoints.convert.hmar",
        verification="nextscale.verification.hmar",
        recipes={"hmar": "nextscale.training.recipes.hmar.HMARRecipe"},
    ),
    System(
        name="m-var",
        title="M-VAR",
        paper="2411.10433",
        types={"m_var": ("nextscale.models.m_var", "MVAR", "MVARConfig")},
        converter="nextscale.checkpoints.convert.m_var",
        verification="nextscale.verification.m_var",
        recipes={"m-var": "nextscale.training.recipes.m_var.MVARRecipe"},
    ),
    System(
        name="infinity",
        title="Infinity",
        paper="2412.04431",
        types={
            "bitwise": ("nextscale.tokenizers.bitwise", "BitwiseTokenizer", "BitwiseConfig"),
            "infinity": ("nextscale.models.infinity", "Infinity", "InfinityConfig"),
        },
        converter="nextscale.checkpoints.convert.infinity",
        verification="nextscale.verification.infinity",
        recipes={
            "tokenizer-bitwise": "nextscale.training.recipes.bitwise.BitwiseTokenizerRecipe",
            "infinity": "nextscale.training.recipes.infinity.InfinityRecipe",
        },
        conditioners={"text": "nextscale.conditions.text.TextConditioner"},
    ),
    System(
        name="flexvar",
        title="FlexVAR",
        paper="2502.20313",
        types={
            "direct": ("nextscale.tokenizers.direct", "DirectTokenizer", "DirectConfig"),
            "flexvar": ("nextscale.models.flexvar", "FlexVAR", "FlexVARConfig"),
        },
        converter="nextscale.checkpoints.convert.flexvar",
        verification="nextscale.verification.flexvar",
        recipes={
            "tokenizer-direct": "nextscale.training.recipes.direct.DirectTokenizerRecipe",
            "flexvar": "nextscale.training.recipes.flexvar.FlexVARRecipe",
        },
    ),
)
"""One that builds on another stands below it: of weights that two converters recognise, the lower one is right."""


def named(name: str) -> System | None:
    """The system that users call so."""
    return next((system for system in SYSTEMS if system.name == name), None)


def of_type(kind: object) -> System | None:
    """The system that a type of component belongs to; None for one that belongs to no system."""
    return next((system for system in SYSTEMS if kind in system.types), None)


def converter(system: System) -> Any:
    """Its module in ``checkpoints/convert``; docs/dev/systems.md lists what that offers."""
    return import_module(system.converter)


def load(name: str) -> Any:
    """What a dotted name of the table stands for: ``package.module.Class``."""
    module, _, inside = name.rpartition(".")
    return getattr(import_module(module), inside)
