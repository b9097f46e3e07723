"""The card of what a run exports: what was trained, on what, from what, how far, and its numbers on held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nextscale.data.emoji_reader import read_licences
from nextscale.documents import parse_json, read_yaml


def run_card(run: Path, step: int, total: int) -> str:
    """Markdown for the README.md beside the weights of ``step``, out of the run folder's recipe, log and data set.

    The numbers are those of the last validation up to now.
    """
    described = read_yaml(run / "recipe.yaml")
    recipe, version = described["recipe"], described["version"]
    commit = f" at commit {version['commit'][:12]}" if version["commit"] else ""
    lines = [
        f"# {run.resolve().name}",
        "",
        f"Trained by `nextscale train {recipe['kind']}`, {step:,} of {total:,} steps of {recipe['run']['batch']} "
        f"images, with nextscale {version['nextscale']}{commit} and PyTorch {version['torch']}. "
        "The recipe stands at the end.",
        "",
        "## Data",
        "",
        *_data(described),
        *_numbers(run / "log.jsonl"),
        "## Recipe",
        "",
        "```yaml",
        yaml.safe_dump(recipe, sort_keys=False).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _data(described: dict[str, Any]) -> list[str]:
    """Images and their licences, and the checkpoints that a run stands on."""
    source, facts = Path(described["source"]), described["data"]
    side = described["recipe"]["data"]["resolution"]
    size = f"at {side}x{side} pixels" if side else "in the shapes that the recipe says"
    captioned = " with captions" if "captions" in facts else ""
    lines = [f"`{source.name}`: {facts['images']:,} training images{captioned} {size}, hash {facts['hash'][:12]}."]
    licences = [f"- {of['name']} by {of['author']}, {of['licence']}, {of['url']}" for of in read_licences(source)]
    lines += ["", *licences]
    for what, told in (("init", "Started from the checkpoint"), ("tokenizer", "On the tokens of the tokenizer")):
        if what in facts:
            lines += ["", f"{told} of revision {facts[what]}."]
    return [*lines, ""]


def _numbers(log: Path) -> list[str]:
    written = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    entries = [parse_json(line, str(log)) for line in written]
    measured = [entry for entry in entries if entry["kind"] == "validation"]
    if not measured:
        return []
    last = measured[-1]
    rows = [f"| {name} | {value:.4g} |" for name, value in last.items() if name not in ("step", "kind")]
    return ["## Held-out numbers", "", f"| number | at step {last['step']:,} |", "| --- | ---: |", *rows, ""]
