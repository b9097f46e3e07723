"""Starting from a checkpoint of the same architecture: its weights, and for generators its conditioner or classes.

Classes are matched by name, and by style where both sides have styles. Those of the checkpoint that the data lack stay
in the vocabulary, so that nothing a model knew is lost; new ones start near the mean of the known ones.

Shape letters: ``C`` width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextscale.checkpoints.class_names import called_as
from nextscale.checkpoints.load import checkpoint_folder, load_conditioner
from nextscale.checkpoints.store import load_component, read_config, type_name
from nextscale.conditions.base import Conditioner
from nextscale.conditions.classes import ClassVocabulary, Thing, numbered
from nextscale.errors import CheckpointError
from nextscale.models.base import NextScaleModel
from nextscale.tokenizers.base import Tokenizer

FREE = ("classes", "drop_path", "beta", "full_scales", "subnets")
"""Settings in which the recipe may differ from the checkpoint: they shape no weights, or weights that are matched."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint to start from: what the user called it, where it lies, and the network that is trained on."""

    name: str
    folder: Path
    module: nn.Module

    @classmethod
    def load(cls, name: str, component: str) -> Origin:
        """See ``folder_of``. Raises ``CheckpointError`` where there is no such checkpoint or component."""
        folder = folder_of(name)
        return cls(name, folder, load_component(folder, component))

    def conditioner(self) -> Conditioner:
        """What reads a call for the generator."""
        assert isinstance(self.module, NextScaleModel)
        return load_conditioner(self.folder, self.module.reads)

    def vocabulary(self, data: ClassVocabulary) -> ClassVocabulary:
        """The classes that the checkpoint knows. One that has only numbers for them, as converted ones do, takes the
        names of the data's where there are as many: both count in alphabetical order. ImageNet's classes go by the
        WordNet IDs that the data call them by.
        """
        vocabulary = self.conditioner()
        assert isinstance(vocabulary, ClassVocabulary)
        known = called_as(vocabulary, data.names)
        as_many = len(data.names) == len(known.names) and not set(data.names) & set(known.names)
        return replace(known, names=data.names) if numbered(known.names) and as_many else known

    def known(self, data: ClassVocabulary) -> tuple[ClassVocabulary, Conditioner | None]:
        """The classes of the data and of the checkpoint; where it reads something else, its conditioner is kept."""
        conditioner = self.conditioner()
        if isinstance(conditioner, ClassVocabulary):
            return merged(data, self.vocabulary(data)), None
        return data, conditioner

    def doubts(self, tokenizer: nn.Module, data: ClassVocabulary) -> list[str]:
        """Sentences for whoever trains a generator from it, on the tokens of ``tokenizer`` and the classes ``data``."""
        found = []
        has_own = "tokenizer" in read_config(self.folder).get("components", {})
        if has_own and other_tokens(load_component(self.folder, "tokenizer"), tokenizer):
            found.append(
                f"{self.name} was trained on the tokens of another tokenizer, so most of what it has learnt is lost; "
                "leave --tokenizer out, or --init"
            )
        known = self.conditioner()
        if isinstance(known, ClassVocabulary) and known.styles and not data.styles:
            found.append(f"the images have no styles; they are taken for the first of {self.name}, {known.styles[0]}")
        return found

    def check(self, module: nn.Module) -> None:
        """Raises ``CheckpointError`` where ``module`` has another architecture."""
        wanted, found = type_name(module), type_name(self.module)
        if wanted != found:
            raise CheckpointError(
                f"{self.name} holds a model of type {found}, but the recipe trains one of type {wanted}"
            )
        new, old = _settings(module), _settings(self.module)
        for name in new:
            if new[name] != old[name]:
                found, meant = (_short(settings[name]) for settings in (old, new))
                raise CheckpointError(
                    f"{self.name} has another architecture: its {name} is {found}, but the recipe means {meant}"
                )

    @torch.no_grad()
    def give_weights(self, module: nn.Module, vocabulary: ClassVocabulary | None = None) -> None:
        """Put the checkpoint's weights into ``module``, which passes :meth:`check` or raises as it does.

        vocabulary: of a generator. The embedding of a label that the checkpoint does not know becomes the mean of those
        it knows plus what it was, the noise of the initialisation.
        """
        self.check(module)
        state = self.module.state_dict()
        if vocabulary is not None:
            known, rows = self.vocabulary(vocabulary), state["class_embedding.weight"]
            labels = known_labels(vocabulary, known)
            fresh = module.get_parameter("class_embedding.weight")
            grown = fresh + rows[:-1].mean(0).to(fresh)  # the last row is the null class
            grown[[*labels, -1]] = rows[[*labels.values(), -1]].to(fresh)
            state["class_embedding.weight"] = grown
        module.load_state_dict(module.begun_from(state) if isinstance(module, NextScaleModel) else state)


def other_tokens(tokenizer: nn.Module, other: nn.Module) -> str | None:
    """The first weight by which two tokenizers encode differently; None where at most their decoders differ."""
    own, theirs = (
        {key: t for key, t in one.state_dict().items() if not key.startswith(("decoder.", "post_quant_conv."))}
        for one in (tokenizer, other)
    )
    differ = [
        key for key in own | theirs if key not in own or key not in theirs or not torch.equal(own[key], theirs[key])
    ]
    return min(differ, default=None)


def folder_of(name: str) -> Path:
    """The checkpoint called ``name``: a bundled one, a folder, or the export of a run. Raises ``CheckpointError``."""
    exported = Path(name) / "export"
    return checkpoint_folder(exported if exported.is_dir() else name)


def merged(data: ClassVocabulary, known: ClassVocabulary) -> ClassVocabulary:
    """The classes and styles of the data, which keep their ids, and behind them those that only ``known`` has."""
    names = (*data.names, *(name for name in known.names if name not in data.names))
    styles = (*data.styles, *(style for style in known.styles if style not in data.styles))
    named = {thing.name for thing in data.things}
    more = [thing for thing in known.things if thing.name not in named]
    moved = tuple(Thing(t.name, names.index(known.names[t.class_id]), t.keywords) for t in more)
    seen = _seen(data, styles[:1]) | _seen(known, styles)
    missing = {(style, name) for style in styles for name in names} - seen
    return ClassVocabulary(names, data.things + moved, styles, frozenset(missing))


def _seen(vocabulary: ClassVocabulary, otherwise: tuple[str, ...]) -> set[tuple[str, str]]:
    """The pairs of style and class that there were images of; ``otherwise`` are the styles of one that knows none."""
    return {(s, name) for s in vocabulary.styles or otherwise for name in vocabulary.names} - vocabulary.missing


def known_labels(vocabulary: ClassVocabulary, known: ClassVocabulary) -> dict[int, int]:
    """The label of ``known`` that means the same, for every label of ``vocabulary`` that has one."""
    found = {}
    for label in range(len(vocabulary)):
        style, class_id = divmod(label, len(vocabulary.names))
        name = vocabulary.names[class_id]
        style_name = vocabulary.styles[style] if vocabulary.styles and known.styles else None
        if name in known.names and (style_name is None or style_name in known.styles):
            known_style = known.styles.index(style_name) if style_name else 0
            found[label] = known_style * len(known.names) + known.names.index(name)
    return found


def _short(value: Any) -> str:
    """A setting in a sentence; of a long list (the class names of a classifier) the first entries and the number."""
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"{', '.join(map(str, value[:3]))} and {len(value) - 3} more"
    return str(value)


def _settings(module: nn.Module) -> dict[str, Any]:
    """The configuration of a module, without what it may differ in, nested settings as ``outer.inner``."""
    config, flat = module.config, dict[str, Any]()
    free = (*FREE, *(module.free if isinstance(module, NextScaleModel | Tokenizer) else ()))
    assert is_dataclass(config)
    for name, value in asdict(config).items():
        nested = {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {key: inner for key, inner in nested.items() if key not in free}
    return flat
