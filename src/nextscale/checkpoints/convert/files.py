"""Official weight files to one checkpoint folder, and a component of a folder back to an official file.

What a file is, and its configuration, are read off the names and shapes of its tensors; nothing is unpickled unsafely,
and nothing is written before everything fits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from nextscale import systems
from nextscale.checkpoints.convert.read import files_of
from nextscale.checkpoints.convert.renaming import NARROW, readable
from nextscale.checkpoints.convert.states import (
    Found,
    WeightFile,
    check_plain,
    read_weight_file,
    take,
)
from nextscale.checkpoints.load import describe_conditioner, write_origin
from nextscale.checkpoints.published import REFUSED, check_pair
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import (
    build_component,
    component_file,
    is_checkpoint,
    module_of,
    own_files,
    read_config,
    save_checkpoint,
)
from nextscale.checkpoints.weights import check_numbers, check_state, read_weights
from nextscale.conditions.base import Conditioner
from nextscale.conditions.classes import ClassVocabulary
from nextscale.errors import CheckpointError, InputError, one_line, quoted
from nextscale.files import check_new, check_writable, kind_of, written_aside
from nextscale.models.base import NextScaleModel
from nextscale.ratios import ratio_of
from nextscale.scales import ScaleSchedule

WEIGHTS = ("tokenizer.safetensors", "model.safetensors")
"""What our own checkpoints call the files that official ones are converted to."""


@dataclass(frozen=True)
class ConversionReport:
    """What was read and written.

    files: what every file turned out to be; passed_over: the entries of each that were not needed; components: name
    and type; parameters: their number per component; settings: the configuration read off each component's tensors;
    classes: the names that were given to them, empty where none were.
    """

    out: str
    files: dict[str, str]
    passed_over: dict[str, list[str]]
    components: dict[str, str]
    parameters: dict[str, int]
    settings: dict[str, dict[str, Any]]
    classes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{path}: {what}{_left(self.passed_over[path])}" for path, what in self.files.items()]
        for name, kind in self.components.items():
            shown = ", ".join(f"{key} {_short(key, value)}" for key, value in self.settings[name].items())
            lines.append(f"{name}: {kind}, {self.parameters[name]:,} parameters; {shown}")
        if self.classes:
            lines.append(f"classes: {', '.join(self.classes[:3])}, ... ({len(self.classes)} names)")
        return "\n".join([*lines, f"written to {self.out}"])


@dataclass(frozen=True)
class Official:
    """What official files turned out to hold.

    files: what each file was taken for, by path; passed_over: its entries that were not needed; components: our
    modules, whose tensors are those of the files, still on disk; sampling: settings of the authors' evaluation, where
    there is a model; conditioner: what reads a call for it, None for classes that have numbers alone.
    """

    files: Mapping[Path, str]
    passed_over: Mapping[Path, list[str]]
    components: Mapping[str, nn.Module]
    sampling: Mapping[str, Any]
    conditioner: Conditioner | None = None


def convert_files(
    paths: Sequence[Path],
    out: Path,
    dtype: torch.dtype | None = None,
    sizes: Iterable[int | Iterable[int]] | None = None,
    *,
    ema: bool | None = None,
    class_names: ClassVocabulary | None = None,
    system: str | None = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Read official files (a tokenizer, a transformer, or both, in any order; of a model in several files their folder
    or their index) and write the checkpoint folder ``out``.

    dtype: cast the weights to it, by default they keep theirs; sizes: the scale schedule, needed only where the
    transformer's file does not show it. A tokenizer takes its schedule from the transformer that is converted with it.
    ema: take averaged weights (True) or plain ones (False); by default averaged ones where a file has both.
    class_names: what the transformer's classes are called, instead of by number; system: the name of the transformer's,
    needed only where its file does not show it; overwrite: replace a checkpoint there. Two files of the stages of one
    model are merged. Tensors go from file to file one by one. Raises ``CheckpointError`` for files that are damaged,
    unknown or do not fit each other, or a folder with other files in it, and ``InputError`` where ``out`` cannot be
    written or names do not fit; then nothing is written.
    """
    out = Path(os.path.abspath(out))
    check_folder(out, overwrite)
    official = read_official(paths, sizes, ema, dtype, system)
    if class_names is not None:
        _check_names(official, class_names)
        official = replace(official, conditioner=class_names)
    absent = [folder for folder in out.parents if not folder.exists()]
    try:
        save_official(official, out, out.name, dtype, overwrite=overwrite)
    except BaseException as error:
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{' and '.join(map(str, official.files))}: {error}") from None
        raise
    parts = [part for path in official.files for part in files_of(path)]
    write_origin(out, [{"file": part.name, "bytes": part.stat().st_size} for part in parts])
    return _report(out, official, class_names)


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuse a folder that a checkpoint is to be written to before any work is done for it.

    Raises ``CheckpointError`` where it holds anything but a checkpoint, or one that may not be replaced, and
    ``InputError`` where nothing can be written.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise CheckpointError(f"{out} is {kind_of(out)}; expected a folder to write to")
    held = sorted(os.listdir(out)) if out.is_dir() else []
    own = own_files(out) if is_checkpoint(out) else set()
    other = [name for name in held if name not in own]
    if other:
        raise CheckpointError(
            f"{out} is not a checkpoint alone: it holds {readable(other[0])}; choose an empty or new folder"
        )
    if held and not overwrite:
        raise CheckpointError(
            f"{out} is a checkpoint already; choose another folder, or --overwrite (overwrite=True) to replace it"
        )
    check_writable(out.parent)


def read_official(
    paths: Sequence[Path],
    sizes: Iterable[int | Iterable[int]] | None = None,
    ema: bool | None = None,
    dtype: torch.dtype | None = None,
    system: str | None = None,
) -> Official:
    """The modules that official files hold; arguments and errors as for :func:`convert_files`."""
    if system is not None and systems.named(system) is None:
        known = ", ".join(one.name for one in systems.SYSTEMS)
        raise InputError(f"the system (--system) is {quoted(system)}; expected one of {known}")
    if not paths:
        raise CheckpointError("no file was given; expected those of a tokenizer, a transformer, or both")
    for path in map(Path, paths):
        if is_checkpoint(path) or (path.name in WEIGHTS and is_checkpoint(path.parent)):
            raise CheckpointError(f"{path} is a nextscale checkpoint already, or part of one; load it as it is")
    files = {path: _read(path, system) for path in map(Path, paths)}
    taken = take(files.values(), ema)
    components: dict[str, nn.Module] = {}
    sampling: dict[str, Any] = {}
    conditioner = None
    for component, (file, found) in taken.items():
        converter = systems.converter(found.system)
        with _checked(file, found, dtype) as state:
            config = converter.config(component, state, sizes)
            components[component] = _build(config, converter.from_official(state, config))
        model = components[component]
        if isinstance(model, NextScaleModel):
            sizes = model.schedule.sizes
            conditioner = converter.conditioner(model.config) if hasattr(converter, "conditioner") else None
            given = converter.sampling(model.config).items()
            sampling = {name: min(value, model.choices) if name == "top_k" else value for name, value in given}
    if len(components) == 2:
        check_pair(*(taken[component][0].path.name for component in ("model", "tokenizer")))
        _check_fit(components["tokenizer"], components["model"])
    parts = [part for _, found in taken.values() for part in (found.made_of or (found,))]
    used = {path: [part for part in parts if part in file.found] for path, file in files.items()}
    return Official(
        {path: files[path].told(found) for path, found in used.items()},
        {path: files[path].passed_over(found) for path, found in used.items()},
        components,
        sampling,
        conditioner,
    )


def save_official(
    official: Official,
    out: Path,
    name: str,
    dtype: torch.dtype | None = None,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write what was read as a checkpoint called ``name``; ``files``: further files beside it; ``overwrite``: replace a
    checkpoint there."""
    extras: dict[str, Any] = {"name": name}
    if official.sampling:
        extras["defaults"] = dict(official.sampling)
    beside = dict(files or {})
    if official.conditioner is not None:
        extras["conditioner"], more = describe_conditioner(official.conditioner)
        beside |= more
    save_checkpoint(out, official.components, extras, beside, dtype, overwrite)


def export_official(folder: Path, component: str) -> dict[str, Tensor]:
    """A component ("tokenizer" or "model") of a checkpoint folder under official names, buffers included.

    Raises ``CheckpointError`` where the official builder has no such model.
    """
    described = read_config(folder).get("components", {})
    if component not in described:
        raise CheckpointError(f"{folder} has no {component}; it has {', '.join(described) or 'no components'}")
    module = build_component(described[component], f"{folder / 'config.json'}, {component}")
    weights = component_file(folder, component, described[component])
    state = read_weights(weights)
    check_state(module, state, str(weights))
    system = systems.of_type(described[component]["type"])
    if system is None:
        raise CheckpointError(f"{folder}: there is no official format for a {type(module).__name__}")
    official: dict[str, Tensor] = systems.converter(system).to_official(state, module.config)
    return official


def export_file(folder: Path, component: str, path: Path, overwrite: bool = False) -> None:
    """Write :func:`export_official` as a safetensors file. Raises ``CheckpointError`` for an unknown component or
    suffix, and ``InputError`` for a file that exists, unless it is to be replaced."""
    check_new(path, overwrite)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} does not end in .safetensors, which is what is written")
    state = export_official(folder, component)
    with written_aside(path, overwrite) as aside:
        try:
            save_file({name: t.contiguous() for name, t in state.items()}, aside, metadata={"format": "pt"})
        except SafetensorError as error:  # what its writer makes of a full disk
            raise CheckpointError(f"{path} cannot be written ({one_line(error)})") from None


def _check_names(official: Official, names: ClassVocabulary) -> None:
    model = official.components.get("model")
    if model is None:
        raise InputError("class names were given, but no transformer whose classes they could name")
    config: Any = model.config
    if official.conditioner is not None:
        raise InputError(f"class names were given, but the transformer reads {official.conditioner.about}")
    if len(names) != config.classes:
        raise InputError(
            f"{len(names)} class names were given ({names.names[0]}, ..., {names.names[-1]}), but the transformer has "
            f"{config.classes} classes; expected one for each, in the order of their numbers"
        )


@contextmanager
def _checked(file: WeightFile, found: Found, dtype: torch.dtype | None) -> Iterator[dict[str, Tensor]]:
    """The tensors of a file, once they are plain ones; puts the file's name before what is wrong with them."""
    check_plain(file.path, found)
    narrow = [name for name, t in found.state.items() if t.dtype in NARROW]
    if narrow and dtype is None:
        raise CheckpointError(
            f"{file.path} holds {found.state[narrow[0]].dtype} ({readable(narrow[0])}), in which nothing is computed; "
            "--dtype bf16 (dtype=torch.bfloat16) takes every one as it is into a wider type"
        )
    try:
        yield found.state
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error}{_known_of(file.path)}") from None


def _read(path: Path, system: str | None = None) -> WeightFile:
    """What a file holds; says what is known of the file where it cannot be read."""
    try:
        return read_weight_file(path, system)
    except CheckpointError as error:
        if path.name not in REFUSED:
            raise  # it may carry more than its sentence
        raise CheckpointError(f"{error}{_known_of(path)}") from None


def _known_of(path: Path) -> str:
    """What is known of a published file that does not fit, for the end of a sentence."""
    return f"; {REFUSED[path.name]}" if path.name in REFUSED else ""


def _build(config: Any, state: dict[str, Tensor]) -> nn.Module:
    """A module that holds the tensors of ``state``, which are not copied. Raises ``CheckpointError`` for numbers that
    are no weights."""
    for name, tensor in state.items():
        check_numbers(name, tensor)
    module = without_values(lambda: module_of(config), len(state))
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def _check_fit(tokenizer: nn.Module, model: nn.Module) -> None:
    for setting, what in (("choices", "codes"), ("draws", "draws per token"), ("code_dim", "channels per code")):
        ours, theirs = getattr(tokenizer, setting), getattr(model, setting)
        if ours != theirs:
            raise CheckpointError(
                f"the tokenizer has {ours} {what} but the transformer expects {theirs}; they do not belong together"
            )


def _report(out: Path, official: Official, names: ClassVocabulary | None) -> ConversionReport:
    components = official.components
    return ConversionReport(
        out=str(out),
        files={str(path): text for path, text in official.files.items()},
        passed_over={str(path): rest for path, rest in official.passed_over.items()},
        components={name: type(module).__name__ for name, module in components.items()},
        parameters={name: sum(p.numel() for p in module.parameters()) for name, module in components.items()},
        settings={name: asdict(module.config) for name, module in components.items()},  # type: ignore[call-overload]
        classes=[] if names is None else list(names.names),
    )


def _left(entries: Sequence[str]) -> str:
    """What was passed over, for a line."""
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return f"; passed over: {', '.join(entries[:5])}{more}" if entries else ""


def _short(name: str, value: Any) -> str:
    if name == "sizes":
        return f"[{ScaleSchedule(value)}]"
    if name == "schedules":
        return f"[{' '.join(ratio_of(ScaleSchedule(sizes)) for sizes in value)}]"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(key, inner)}" for key, inner in value.items()) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
