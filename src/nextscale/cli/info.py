"""``nextscale info``: what a model is, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nextscale.cli.console import DEFAULT_MODEL, AsJson, answer, answer_json


def info(
    model: Annotated[
        str, typer.Argument(help="A bundled model, a checkpoint folder, or a published model that was fetched before.")
    ] = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Say what a model is: its parts, sizes, classes, styles, defaults and card."""
    from nextscale.checkpoints.card import split
    from nextscale.checkpoints.load import checkpoint_folder, read_card, revision, saved_conditioner
    from nextscale.checkpoints.store import read_config

    folder = checkpoint_folder(model)
    config = read_config(folder)
    card = read_card(folder)
    facts: dict[str, Any] = {
        "name": config.get("name", folder.name),
        "folder": str(folder),
        "revision": revision(folder),
        "format": config["format"],
        "defaults": config.get("defaults", {}),
        "components": {name: _component(folder, name, part) for name, part in config["components"].items()},
    }
    reader = saved_conditioner(folder)
    if reader is not None:
        facts |= {"reads": reader.about, **reader.lists(), "sizes": _sizes(folder, config["components"])}
    if as_json:
        answer_json({**facts, "card": card or None})
        return
    for name in ("name", "folder", "revision", "defaults"):
        answer(f"{name:<10}{_plain(facts[name])}")
    if "reads" in facts:
        answer(f"{'reads':<10}{facts['reads']}")
    if "classes" in facts:
        answer(f"{'classes':<10}{len(facts['classes'])}, listed by nextscale generate --list-classes")
    if "classes" in facts or "styles" in facts:
        answer(f"{'styles':<10}{', '.join(facts['styles']) or 'none'}")
    for ratio, sizes in facts.get("sizes", {}).items():
        answer(f"{'draws':<10}{ratio}: {', '.join(f'{h}x{w}' for h, w in sizes)} pixels (height x width)")
    for name, part in facts["components"].items():
        answer(
            f"{name:<10}{part['type']}, {part['parameters'] / 1e6:.2f} million parameters, "
            f"{part['bytes'] / 2**20:.1f} MiB"
        )
        for key, value in part["config"].items():
            answer(f"{'':<10}  {key} {_setting(key, value)}")
    if card:
        answer("\n" + split(card)[1].strip())


def _component(folder: Path, name: str, described: dict[str, Any]) -> dict[str, Any]:
    """Type, configuration and size of one part; its weights are not read."""
    from nextscale.checkpoints.store import build_component, component_file

    module = build_component(described, f"{folder / 'config.json'}, {name}")
    return {
        "type": described["type"],
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "bytes": component_file(folder, name, described).stat().st_size,
        "config": described["config"],
    }


def _sizes(folder: Path, components: dict[str, Any]) -> dict[str, Any]:
    """The pictures that a generator draws: of every ratio, width to height, the sizes in pixels."""
    from nextscale.checkpoints.store import build_component
    from nextscale.models.base import NextScaleModel
    from nextscale.tokenizers.base import Tokenizer

    built = {name: build_component(part, f"{folder / 'config.json'}, {name}") for name, part in components.items()}
    model, tokenizer = built["model"], built.get("tokenizer")
    assert isinstance(model, NextScaleModel)
    return model.shapes(tokenizer.stride).sizes if isinstance(tokenizer, Tokenizer) else {}


def _setting(name: str, value: Any) -> str:
    """An entry of a configuration; of schedules their ratios, since their scales would fill pages."""
    from nextscale.ratios import ratio_of
    from nextscale.scales import ScaleSchedule

    if name == "schedules":
        return " ".join(ratio_of(ScaleSchedule.of(sizes)) for sizes in value) or "none"
    return str(ScaleSchedule.of(value)) if name == "sizes" else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return (
            " ".join(map(_plain, value)) if not any(isinstance(v, list) for v in value) else " ".join(map(str, value))
        )
    return str(value)
