"""The state dicts in a weight file that we know: found wherever trainers nest them, under whatever prefix, averaged
weights told from plain ones, and what is passed over told by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale import systems
from nextscale.checkpoints.convert.foreign import known_as
from nextscale.checkpoints.convert.read import read_content
from nextscale.checkpoints.convert.renaming import readable
from nextscale.errors import CheckpointError, quoted
from nextscale.systems import System

ROLES = {"model": "transformer", "tokenizer": "tokenizer"}
"""What a component is called in sentences, in the order in which they are taken."""

DEEPEST = 4
"""Trainers nest state dicts (``trainer.var_wo_ddp``); nobody nests deeper than this."""
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""What DataParallel, torch.compile, FSDP, activation checkpointing and Fabric put into names, anywhere in them."""
AVERAGED = re.compile(r"(^|[^a-z])(ema|avg|averaged?|swa|shadow|polyak)([^a-z]|$)")
CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, eq=False)
class Found:
    """One state dict of a component ("model" or "tokenizer") of a system.

    place: the keys that lead to it in the file; prefix: what stands before all of its names; state: its tensors by
    official name; keys: the same by the file's names; made_of: those that it was merged of.
    """

    system: System
    component: str
    place: tuple[str, ...]
    prefix: str
    state: dict[str, Tensor]
    keys: frozenset[str]
    made_of: tuple[Found, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether it is called an average of weights (EMA) where it stands."""
        parts = (CAPITAL.sub("_", part).lower() for part in (*self.place, *self.prefix.split(".")))
        return any(AVERAGED.search(part) for part in parts)

    @property
    def where(self) -> str:
        """Its place, for a sentence; empty where it is the whole file."""
        return readable(".".join((*self.place, *filter(None, self.prefix.split(".")))))

    def __str__(self) -> str:
        """``VAR transformer from ema.module (averaged weights, EMA)``."""
        kind = f"{self.system.title} {ROLES[self.component]}"
        averaged = " (averaged weights, EMA)" if self.averaged else ""
        return f"{kind}{f' from {self.where}' if self.where else ''}{averaged}"


@dataclass(frozen=True)
class WeightFile:
    """What is known in one file: tree is all that it holds, ``found`` has at least one state dict."""

    path: Path
    tree: Any = field(repr=False)
    found: tuple[Found, ...] = field(repr=False)

    def choose(self, component: str, ema: bool | None) -> Found | None:
        """The state dict of a component: averaged weights go first, unless ``ema`` is False. Raises
        ``CheckpointError`` where two are left.
        """
        having = [found for found in self.found if found.component == component]
        preferred = [found for found in having if found.averaged == (ema is not False)]
        chosen = preferred or having
        if len(chosen) > 1:
            places = " and ".join(found.where or "the file itself" for found in chosen[:2])
            raise CheckpointError(
                f"{self.path} holds two {ROLES[component]}s ({places}); expected one, or one that is called ema: save "
                "the one to convert in a file of its own"
            )
        return chosen[0] if chosen else None

    def told(self, taken: Sequence[Found]) -> str:
        """What was taken from the file, and which plain weights could be taken for averaged ones."""
        averaged = {found.component for found in taken if found.averaged}
        both = [found for found in self.found if found.component in averaged]
        plain = [found.where or "the rest" for found in both if not found.averaged]
        text = " and ".join(map(str, taken)) or "nothing of it is needed"
        return f"{text}; --no-ema takes {' and '.join(plain)}" if plain else text

    def passed_over(self, taken: Sequence[Found]) -> list[str]:
        """The entries of the file, by place, that are no part of the state dicts ``taken``."""
        left = [found for found in self.found if found not in taken]

        def walk(tree: Mapping[Any, Any], place: tuple[str, ...]) -> Iterator[str]:
            for key, value in tree.items():
                here = (*place, _key(key))
                if any(found.place == place and key in found.keys for found in taken):
                    continue
                if isinstance(value, Mapping) and any(found.place[: len(here)] == here for found in taken):
                    yield from walk(value, here)
                else:
                    whole = (found.where for found in left if found.place == place and key in found.keys)
                    yield next(whole, readable(".".join(here)))

        return list(dict.fromkeys(walk(self.tree, ())))


def read_weight_file(path: Path, system: str | None = None) -> WeightFile:
    """Read a file and find what we know in it. system: the name of that of its transformer, where tensors leave it
    open. Raises ``CheckpointError`` where nothing is known, or another system.
    """
    tree = read_content(path)
    mappings = list(_mappings(tree, ()))
    found = tuple(found for place, mapping in mappings for found in _known(path, place, mapping, system))
    if not found:
        raise CheckpointError(f"{path} {_unknown(tree, mappings)}")
    return WeightFile(path, tree, found)


def take(files: Iterable[WeightFile], ema: bool | None) -> dict[str, tuple[WeightFile, Found]]:
    """The state dict of each component, and the file that it is in. Raises ``CheckpointError`` where there are several,
    or not what ``ema`` asks for.
    """
    files = list(files)
    taken = {component: pair for component in ROLES if (pair := _only(files, component, ema)) is not None}
    if ema is not None and any(found.averaged for _, found in taken.values()) is not ema:
        option, other = ("--ema", "plain") if ema else ("--no-ema", "averaged (EMA)")
        raise CheckpointError(f"{option} was asked for, but the files hold {other} weights only; leave it out")
    return taken


def _only(files: Iterable[WeightFile], component: str, ema: bool | None) -> tuple[WeightFile, Found] | None:
    """The one file with this component. Where a file holds both (a trainer's), a file of its own goes before it; of two
    trainer's files with the same tensors either will do, and two stages of one model are merged.
    """
    having = [(file, found) for file in files if (found := file.choose(component, ema)) is not None]
    alone = [(file, found) for file, found in having if {other.component for other in file.found} == {component}]
    chosen = alone if len(having) > 1 and alone else having
    if len(chosen) <= 1:
        return chosen[0] if chosen else None
    for file, found in chosen:
        check_plain(file.path, found)
    (file, first), (other, second), *more = chosen
    if not more and not alone and _same(first.state, second.state):
        return file, first
    merge = getattr(systems.converter(first.system), "merge", None)
    if merge is not None and first.system is second.system and not more:
        try:
            state = merge(first.state, second.state)
        except CheckpointError as error:
            raise CheckpointError(f"{file.path} and {other.path}: {error}") from None
        if state is not None:
            return file, replace(first, state=state, made_of=(first, second))
    raise CheckpointError(f"{file.path} and {other.path} both hold a {ROLES[component]}; expected one")


def _same(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in state.items())


def _mappings(tree: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping, with the keys that lead to it."""
    if isinstance(tree, Mapping) and len(place) <= DEEPEST:
        yield place, tree
        for name, value in tree.items():
            yield from _mappings(value, (*place, _key(name)))


def _known(path: Path, place: tuple[str, ...], mapping: Mapping[Any, Any], asked: str | None = None) -> Iterator[Found]:
    """The state dicts among a mapping's own tensors, one per prefix. A tensor without dimensions (a step, a decay) is
    no weight.
    """
    tensors = [(name, value) for name, value in mapping.items() if isinstance(value, Tensor) and value.ndim]
    named = {name: value for name, value in tensors if isinstance(name, str)}
    names, anchors = list(named), _anchors()
    prefixes = sorted({prefix for name in names for prefix in _prefixes(name, anchors)})
    known = {prefix: found for prefix in prefixes if (found := _recognised(path, named, prefix, asked)) is not None}
    for prefix, (system, component) in known.items():
        _check_names(path, mapping)
        inner = tuple(other for other in known if other != prefix and other.startswith(prefix))
        keys = [name for name in names if name.startswith(prefix) and not (inner and name.startswith(inner))]
        state: dict[str, Tensor] = {}
        for key in keys:
            name = _bare(key.removeprefix(prefix))
            if name in state:
                raise CheckpointError(f"{path} holds the tensor {readable(name)} twice, once as {readable(key)}")
            state[name] = mapping[key]
        yield Found(system, component, place, prefix, state, frozenset(keys))


def _key(key: object) -> str:
    """A key of a mapping as text; most are names, some are numbers of any length."""
    return key if isinstance(key, str) else quoted(key)


def _marks() -> list[tuple[str, tuple[str, ...]]]:
    """Every component that a converter knows, for a sentence, and the names by which it does."""
    return [
        (f"{'an' if system.title[0] in 'AEIOU' else 'a'} {system.title} {ROLES[component]}", names)
        for system in systems.SYSTEMS
        for component, names in systems.converter(system).MARKS.items()
    ]


def _anchors() -> set[str]:
    """The first parts of the first marks: what stands before them in a name is a prefix."""
    return {names[0].partition(".")[0] for _, names in _marks()}


def _prefixes(name: str, anchors: set[str]) -> Iterator[str]:
    """What stands before a name that begins as those of a transformer or tokenizer do."""
    parts = name.split(".")
    for anchor in anchors & set(parts):
        yield "".join(f"{part}." for part in parts[: parts.index(anchor)])


def _bare(name: str) -> str:
    """A name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _recognised(path: Path, named: Mapping[str, Tensor], prefix: str, asked: str | None) -> tuple[System, str] | None:
    """Whose component the tensors behind a prefix are, and which. Systems that build on others are asked before them;
    asked: the system that a transformer is said to be of, which decides where tensors leave it open.
    """
    bare = {_bare(name.removeprefix(prefix)): t for name, t in named.items() if name.startswith(prefix)}
    try:
        for system in reversed(systems.SYSTEMS):
            converter = systems.converter(system)
            if component := converter.recognises(bare):
                doubt = converter.doubt(bare) if hasattr(converter, "doubt") else None
                return _named(system, component, doubt, bare, asked)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    return None


def _named(
    system: System, component: str, doubt: str | None, state: Mapping[str, Tensor], asked: str | None
) -> tuple[System, str]:
    """What was recognised, if it is what was asked for."""
    if component != "model" or asked == system.name:
        return system, component
    if asked is None:
        if doubt is not None:
            raise CheckpointError(doubt)
        return system, component
    other = systems.named(asked)
    if other is None or doubt is None or systems.converter(other).recognises(state) != component:
        raise CheckpointError(f"holds a transformer of the system {system.name}; expected one of the system {asked}")
    return other, component


def _check_names(path: Path, mapping: Mapping[Any, Any]) -> None:
    """Among the tensors of a network, none may have something else than a name."""
    unnamed = [key for key, value in mapping.items() if isinstance(value, Tensor) and not isinstance(key, str)]
    if unnamed:
        raise CheckpointError(f"{path} holds a tensor under {quoted(unnamed[0])}; expected a name")


def check_plain(path: Path, found: Found) -> None:
    """All tensors must be plain ones, whose numbers lie in the file: what only claims to be large is not built.

    Raises ``CheckpointError`` naming the first that is not.
    """
    for name, tensor in found.state.items():
        kind = _kind(tensor)
        if kind:
            raise CheckpointError(
                f"{path}: {readable(name)} is a {kind} tensor; expected a plain one of floating point numbers"
            )
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {readable(name)} claims the shape {tuple(tensor.shape)}, but the file does not hold so many "
                "numbers; expected a tensor that is stored whole (.contiguous())"
            )


def _kind(tensor: Tensor) -> str:
    """What is special about a tensor; empty for a plain one."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "meta (empty)"
    return "quantised" if tensor.is_quantized else ""


def _unknown(tree: Any, mappings: Iterable[tuple[tuple[str, ...], Mapping[Any, Any]]]) -> str:
    """What a file is in which nothing is known, for a sentence."""
    named = [[_key(name) for name, v in mapping.items() if isinstance(v, Tensor)] for _, mapping in mappings]
    largest = max(named, key=len, default=[])
    if not largest:
        return f"holds no tensors by name ({_glimpse(tree)}); expected a state dict"
    foreign = known_as(name for names in named for name in names)
    marks = _marks()  # without those that have another's, too
    wanted = [f"{what} ({', '.join(own)})" for what, own in marks if not any(set(own) > set(less) for _, less in marks)]
    if foreign is not None:
        return f"is {foreign}; expected {' or '.join(wanted)}"
    return f"is neither {' nor '.join(wanted)}; it holds {len(largest)} tensors, first {readable(largest[0])}"


def _glimpse(tree: Any) -> str:
    if isinstance(tree, Mapping):
        names = ", ".join(readable(_key(name)) for name in list(tree)[:4])
        return f"found a mapping with {names}" if names else "found an empty mapping"
    return f"found a {type(tree).__name__}"
