"""The card of a checkpoint on the hub: its own README.md, with the facts that the hub sorts models by in front.

The facts are YAML between two lines of dashes, and their names are the hub's (https://huggingface.co/docs/hub/model-cards).
What a card states is kept; what follows from the checkpoint is added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nextscale import systems
from nextscale.checkpoints.load import saved_conditioner
from nextscale.checkpoints.store import build_component, read_config
from nextscale.conditions.base import Conditioner
from nextscale.documents import parse_yaml, read_text
from nextscale.errors import CheckpointError, InputError
from nextscale.tokenizers.base import Tokenizer

DRAWERS = {"class-conditional": "unconditional-image-generation"}
"""Where the hub puts a sort of models, where it has no drawer of that name."""
FACTS = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
USE = re.compile(r"<!-- use -->.*?<!-- end of use -->\n?", re.DOTALL)
ORDER = ("license", "library_name", "pipeline_tag", "base_model", "datasets", "tags")


def split(card: str) -> tuple[dict[str, Any], str]:
    """The facts and the text of a card; it may have either, both or none.

    Raises ``CheckpointError`` where what stands between the lines of dashes is no table of names and values.
    """
    found = FACTS.match(card)
    if found is None:
        return {}, card
    try:
        facts = parse_yaml(found[1], "the table") or {}
    except InputError as error:
        raise CheckpointError(f"the card begins with facts that are no valid YAML ({error})") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"the card begins with a {type(facts).__name__}; expected a table of names and values")
    return facts, card[found.end() :].lstrip("\n")


def join(facts: Mapping[str, Any], text: str) -> str:
    """The inverse of :func:`split`, the facts in the usual order."""
    names = [*(name for name in ORDER if name in facts), *(name for name in facts if name not in ORDER)]
    told = yaml.safe_dump({name: facts[name] for name in names}, sort_keys=False, allow_unicode=True)
    return f"---\n{told}---\n\n{text}"


def hub_card(folder: Path, repo: str, facts: dict[str, Any]) -> str:
    """The card of the checkpoint ``folder`` as ``repo`` on the hub.

    facts: these replace what its README.md states. A checkpoint without a README.md gets a plain one. Raises
    ``CheckpointError`` for a README.md whose facts cannot be read.
    """
    described = read_config(folder)
    readme = folder / "README.md"
    stated, text = split(read_text(readme, CheckpointError) if readme.is_file() else "")
    conditioner = saved_conditioner(folder)
    tags = ["next-scale", "visual-autoregressive"]
    known: dict[str, Any] = {"library_name": "nextscale"}
    if conditioner is not None:
        kind = described["components"]["model"]["type"]
        tags += ["image-generation", conditioner.sort, kind.replace("_", "-")]
        known["pipeline_tag"] = DRAWERS.get(conditioner.sort, conditioner.sort)
    whole = known | stated | facts
    whole["tags"] = list(dict.fromkeys([*_listed(whole.get("tags")), *tags]))
    use = _use(repo, conditioner)
    text = text or _text(folder, described, conditioner)
    text = USE.sub(lambda _: use, text) if USE.search(text) else f"{text.rstrip()}\n\n{use}"
    return join(whole, text)


def _listed(value: Any) -> list[Any]:
    """The hub takes one value where it takes a list of them."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _use(repo: str, conditioner: Conditioner | None) -> str:
    lines = ["With the Python package `nextscale`:", "", "```python"]
    if conditioner is not None:
        lines += [
            "import nextscale",
            "",
            f'pipe = nextscale.load("{repo}")',
            f"pipe({conditioner.example}, seed=1).images[0]",
        ]
    else:
        lines += ["from huggingface_hub import snapshot_download", "", f'folder = snapshot_download("{repo}")']
    return "\n".join(["<!-- use -->", "## Use", "", *lines, "```", "<!-- end of use -->", ""])


def _text(folder: Path, described: Mapping[str, Any], conditioner: Conditioner | None) -> str:
    """What can be said of a checkpoint that says nothing of itself."""
    parts = {name: build_component(part, str(folder)) for name, part in described["components"].items()}
    lines = [f"# {described.get('name', folder.name)}", ""]
    tokenizer = parts.get("tokenizer")
    if conditioner is not None and isinstance(tokenizer, Tokenizer):
        system = systems.of_type(described["components"]["model"]["type"])
        assert system is not None
        height, width = tokenizer.pixels()
        lines += [
            f"A {conditioner.sort} {system.title} ([arXiv {system.paper}](https://arxiv.org/abs/{system.paper})) that "
            f"draws pictures of {width}x{height} pixels, of {conditioner.about}.",
            "",
        ]
    lines += ["| part | type | parameters |", "| --- | --- | ---: |"]
    for name, module in parts.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        lines.append(f"| {name} | `{described['components'][name]['type']}` | {count:,} |")
    return "\n".join([*lines, ""])
