"""Official weight files to one checkpoint folder, and a component of a folder back to an official file.

What a file is, and its configuration, are read off the names and shapes of its tensors; nothing is unpickled unsafely,
and nothing is written before everything fits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nextscale.checkpoints.convert import m_var, var
from nextscale.checkpoints.convert.read import read_states
from nextscale.checkpoints.load import write_origin
from nextscale.checkpoints.store import build_component, component_file, is_checkpoint, read_config, save_checkpoint
from nextscale.checkpoints.weights import check_state, read_weights
from nextscale.errors import CheckpointError
from nextscale.models.class_transformer import ClassTransformerConfig
from nextscale.models.m_var import MVAR
from nextscale.models.var import VAR
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

DEFAULTS: Mapping[str, Any] = {"guidance_scale": 2.5, "top_k": 900, "top_p": 0.96}
"""Sampling of VAR's published evaluation (cfg 1.5, which is w = 2.5)."""

WEIGHTS = ("tokenizer.safetensors", "model.safetensors")
"""What our own checkpoints call the files that official ones are converted to."""

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ConversionReport:
    """What was read and written.

    files: what every file turned out to be; components: name and type; parameters: their number per component;
    settings: the configuration read off each component's tensors.
    """

    out: str
    files: dict[str, str]
    components: dict[str, str]
    parameters: dict[str, int]
    settings: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{path}: {what}" for path, what in self.files.items()]
        for name, kind in self.components.items():
            shown = ", ".join(f"{key} {_short(key, value)}" for key, value in self.settings[name].items())
            lines.append(f"{name}: {kind}, {self.parameters[name]:,} parameters; {shown}")
        return "\n".join([*lines, f"written to {self.out}"])


@dataclass(frozen=True)
class Official:
    """What official files turned out to hold.

    files: per path, the state dicts in it by role; components: our modules, whose tensors are those of the files,
    still on disk.
    """

    files: Mapping[Path, Mapping[str, dict[str, Tensor]]]
    components: Mapping[str, nn.Module]


def convert_files(
    paths: Sequence[Path],
    out: Path,
    dtype: torch.dtype | None = None,
    sizes: Iterable[int | Iterable[int]] | None = None,
) -> ConversionReport:
    """Read official files (a tokenizer, a transformer, or both, in any order) and write the checkpoint folder ``out``.

    dtype: cast the weights to it, by default they keep theirs; sizes: the scale schedule, needed only where the
    transformer's file does not show it. A tokenizer takes its schedule from the transformer that is converted with it.
    Tensors go from file to file one by one. Raises ``CheckpointError`` for files that are damaged, unknown or do not
    fit each other; then nothing is written.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file; expected a folder to write")
    official = read_official(paths, sizes)
    save_official(official, out, out.name, dtype)
    write_origin(out, [{"file": path.name, "bytes": path.stat().st_size} for path in official.files])
    return _report(out, official.files, official.components)


def read_official(paths: Sequence[Path], sizes: Iterable[int | Iterable[int]] | None = None) -> Official:
    """The modules that official files hold; arguments and errors as for :func:`convert_files`."""
    if not paths:
        raise CheckpointError("no file was given; expected a VAR tokenizer, a VAR transformer, or both")
    for path in map(Path, paths):
        if is_checkpoint(path) or (path.name in WEIGHTS and is_checkpoint(path.parent)):
            raise CheckpointError(f"{path} is a nextscale checkpoint already, or part of one; load it as it is")
    found = {Path(path): _recognise(Path(path)) for path in paths}
    transformer = _only(found, "transformer")
    tokenizer = _only(found, "tokenizer")
    components: dict[str, nn.Module] = {}
    if transformer is not None:
        path, state = transformer
        with _named(path):
            components["model"] = model = _model(state, sizes)
            sizes = model.config.sizes
    if tokenizer is not None:
        path, state = tokenizer
        with _named(path):
            config_t = var.tokenizer_config(state) if sizes is None else var.tokenizer_config(state, sizes)
            weights = var.tokenizer_from_official(state, config_t)
            components["tokenizer"] = _build(lambda: ResidualTokenizer(config_t), weights)
    if len(components) == 2:
        _check_fit(components["tokenizer"], components["model"])
    return Official(found, components)


def save_official(
    official: Official,
    out: Path,
    name: str,
    dtype: torch.dtype | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write what was read as a checkpoint called ``name``; ``files``: further files beside it."""
    extras: dict[str, Any] = {"name": name}
    if "model" in official.components:
        config: Any = official.components["model"].config
        extras["defaults"] = {**DEFAULTS, "top_k": min(DEFAULTS["top_k"], config.codes)}
    save_checkpoint(out, official.components, extras, files, dtype)


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
    if isinstance(module, MVAR):
        _check_model_exports(module.config)
        return m_var.model_to_official(state, module.config)
    if isinstance(module, VAR):
        _check_model_exports(module.config)
        return var.model_to_official(state, module.config)
    if isinstance(module, ResidualTokenizer):
        _check_tokenizer_exports(module.config)
        return var.tokenizer_to_official(state, module.config)
    raise CheckpointError(f"{folder}: there is no official format for a {type(module).__name__}")


def export_file(folder: Path, component: str, path: Path) -> None:
    """Write :func:`export_official` as a safetensors file. Raises ``CheckpointError`` for an unknown component or
    suffix."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} does not end in .safetensors, which is what is written")
    state = export_official(folder, component)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.contiguous() for name, t in state.items()}, aside, metadata={"format": "pt"})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _recognise(path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts of a file that we know, by role. Raises ``CheckpointError`` if there is none, or two of one
    role."""
    roles: dict[str, dict[str, Tensor]] = {}
    places: dict[str, str] = {}
    states = read_states(path)
    for where, state in states.items():
        role = "transformer" if var.is_transformer(state) else "tokenizer" if var.is_tokenizer(state) else ""
        if role in roles:
            raise CheckpointError(f"{path} holds two {role}s ({places[role]} and {where}); expected one")
        if role:
            roles[role], places[role] = state, where
    if not roles:
        largest = max(states.values(), key=len)
        raise CheckpointError(
            f"{path} is neither a VAR tokenizer (quantize.embedding.weight, encoder.down.*) nor a VAR transformer "
            f"(pos_1LC, word_embed.weight); it holds {len(largest)} tensors, first {next(iter(largest))}"
        )
    return roles


def _only(found: Mapping[Path, Mapping[str, dict[str, Tensor]]], role: str) -> tuple[Path, dict[str, Tensor]] | None:
    """The one file with this role. Where a file holds both parts (a trainer's), a file of its own goes before it."""
    having = [path for path, roles in found.items() if role in roles]
    alone = [path for path in having if len(found[path]) == 1]
    chosen = alone if len(having) > 1 and alone else having
    if len(chosen) > 1:
        raise CheckpointError(f"{chosen[0]} and {chosen[1]} both hold a {role}; expected one")
    return (chosen[0], found[chosen[0]][role]) if chosen else None


def _model(state: dict[str, Tensor], sizes: Iterable[int | Iterable[int]] | None) -> VAR | MVAR:
    """The transformer whose names these are."""
    if m_var.is_transformer(state):
        config = m_var.model_config(state, sizes)
        return _build(lambda: MVAR(config), m_var.model_from_official(state, config))
    config_v = var.model_config(state, sizes)
    return _build(lambda: VAR(config_v), var.model_from_official(state, config_v))


def _build(make: Callable[[], Module], state: dict[str, Tensor]) -> Module:
    """A module that holds the tensors of ``state``, which are not copied."""
    with torch.device("meta"):
        module = make()
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Puts a file's name before what is wrong with its content."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check_fit(tokenizer: nn.Module, model: nn.Module) -> None:
    for setting, what in (("codes", "codes"), ("code_dim", "channels per code")):
        ours, theirs = getattr(tokenizer.config, setting), getattr(model.config, setting)
        if ours != theirs:
            raise CheckpointError(
                f"the tokenizer has {ours} {what} but the transformer expects {theirs}; they do not belong together"
            )


def _check_tokenizer_exports(config: ResidualConfig) -> None:
    """What no tensor of an official file shows must be as the official builder has it."""
    for name, ours, official in (
        ("cosine", config.cosine, (False,)),
        ("phi_ratio", config.phi_ratio, (0.0, 0.5)),
    ):
        if ours not in official:
            raise CheckpointError(
                f"the tokenizer has {name} {ours}; an official file cannot say so and means {official[-1]}"
            )


def _check_model_exports(config: ClassTransformerConfig) -> None:
    if config.norm_eps != 1e-6:
        raise CheckpointError(
            f"the model has norm_eps {config.norm_eps}; an official file cannot say so and means 1e-06"
        )
    if not config.l2_norm and config.heads * 64 != config.width:
        raise CheckpointError(
            f"the model has {config.heads} heads at a width of {config.width} without L2 normalisation; an official "
            f"file cannot say so and means {config.width / 64:g}"
        )
    if any(h != w for h, w in config.sizes):
        raise CheckpointError(
            f"the model draws the scales {ScaleSchedule(config.sizes)}; the official class has square ones only"
        )


def _report(
    out: Path, found: Mapping[Path, Mapping[str, dict[str, Tensor]]], components: Mapping[str, nn.Module]
) -> ConversionReport:
    return ConversionReport(
        out=str(out),
        files={str(path): " and ".join(_described(*role) for role in roles.items()) for path, roles in found.items()},
        components={name: type(module).__name__ for name, module in components.items()},
        parameters={name: sum(p.numel() for p in module.parameters()) for name, module in components.items()},
        settings={name: asdict(module.config) for name, module in components.items()},  # type: ignore[call-overload]
    )


def _described(role: str, state: Mapping[str, Tensor]) -> str:
    return f"{'M-VAR' if m_var.is_transformer(state) else 'VAR'} {role}"


def _short(name: str, value: Any) -> str:
    if name == "sizes":
        return f"[{ScaleSchedule(value)}]"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(key, inner)}" for key, inner in value.items()) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
