"""Put a trained checkpoint into the package: cast to bfloat16, name it, and write its card.

    python tools/bundle.py RUN/export emoji --card tools/cards/emoji.md

The card's text is kept in tools/cards; what it states is measured with the commands it names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from nextscale.checkpoints.load import BUNDLED
from nextscale.pipeline import load

LIMIT = 24 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("--card", type=Path, required=True)
    given = parser.parse_args()
    pipe = load(given.checkpoint, device="cpu", dtype="float32")
    pipe.name, pipe.card = given.name, given.card.read_text()
    pipe.save_pretrained(BUNDLED / given.name, torch.bfloat16)
    size = sum(path.stat().st_size for path in BUNDLED.rglob("*.safetensors"))
    print(f"wrote {BUNDLED / given.name}; all bundled weights: {size / 2**20:.1f} MiB of at most {LIMIT / 2**20:.0f}")


if __name__ == "__main__":
    main()
