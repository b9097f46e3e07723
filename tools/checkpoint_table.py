"""The table of docs/checkpoints.md, computed from the code that it speaks of.

    python tools/checkpoint_table.py            print it
    python tools/checkpoint_table.py --write    put it into the page

A test holds the page to what is printed here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from nextscale import systems
from nextscale.checkpoints.published import PUBLISHED, Published
from nextscale.checkpoints.store import module_of
from nextscale.methods.refine import refined_plan
from nextscale.price import price

PAGE = Path(__file__).parent.parent / "docs" / "checkpoints.md"
START, END = "<!-- table: python tools/checkpoint_table.py -->\n", "<!-- end of table -->\n"

CORE = 94e9
"""FLOP/s of float32 matrix products on one core of the machine that the page speaks of (AMD EPYC, AVX-512)."""

HEAD = (
    "name",
    "file",
    "GB",
    "million parameters",
    "pixels",
    "measured",
    "TFLOP",
    "seconds",
    "weights GB",
    "memory MiB",
)


def table() -> str:
    """The table in Markdown, one line per published checkpoint."""
    rules = ("---" if name in ("name", "file", "measured") else "---:" for name in HEAD)
    lines = [HEAD, rules, *(row(model) for model in PUBLISHED.values())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def row(model: Published) -> tuple[str, ...]:
    """One checkpoint: what is known of it, and what one picture costs by its plan (the published sampling, float32)."""
    system = systems.named(model.system)
    assert system is not None
    configs = model.configs()
    with torch.device("meta"):
        parts = {name: module_of(config) for name, config in configs.items()}
    numbers = sum(p.numel() for module in parts.values() for p in module.parameters())
    plan = refined_plan(
        parts["model"], parts["tokenizer"].stride, **systems.converter(system).sampling(configs["model"])
    )
    priced = price(plan, parts, 1, 4)
    return (
        f"`{model.name}`",
        f"`{model.file}`" if model.attested else f"`{model.file}` (inferred)",
        f"{model.parameters * 4 / 1e9:.2f}",
        f"{model.parameters / 1e6:,.0f}",
        str(model.pixels),
        model.measured,
        f"{priced.flops / 1e12:.2f}",
        f"{priced.flops / CORE:.0f}",
        f"{numbers * 4 / 1e9:.2f}",
        f"{priced.memory / 2**20:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(table(), end="")
        return
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(before + START + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
