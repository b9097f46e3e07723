"""Put a trained checkpoint into the package: cast to bfloat16, name it, and write its card.

    python tools/bundle.py RUN/export emoji --card tools/cards/emoji.md
    python tools/bundle.py RUN/export classifier --card tools/cards/classifier.md

    python tools/bundle.py RUN/export emoji-text --card tools/cards/emoji-text.md

    python tools/bundle.py RUN/export emoji-m-var --card tools/cards/emoji-m-var.md --tokenizer-of emoji

    python tools/bundle.py RUN/export emoji --card tools/cards/emoji.md --tokenizer DECODER_RUN/export

With ``--tokenizer-of`` the tokenizer's weights are not stored again: they must be those of that bundled model. With
``--tokenizer`` the model draws with another one whose encoder and codebook are the same: a refined decoder.

The card's text is kept in tools/cards; what it states is measured with the commands it names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from nextscale.checkpoints.load import BUNDLED
from nextscale.checkpoints.store import load_component, read_config, save_checkpoint, write_digests
from nextscale.pipeline import load
from nextscale.training.initial import other_tokens

LIMIT = 41 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--tokenizer-of", metavar="NAME", help="bundled model whose tokenizer this one shares")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer with the same codes and another decoder")
    parser.add_argument("--guidance-scale", type=float, help="default of the bundled model, instead of the recipe's")
    parser.add_argument("--top-p", type=float, help="likewise")
    parser.add_argument("--temperature", type=float, help="likewise")
    given = parser.parse_args()
    target, card = BUNDLED / given.name, given.card.read_text()
    components = read_config(given.checkpoint).get("components", {})
    if "model" in components:
        pipe = load(given.checkpoint, device="cpu", dtype="float32")
        pipe.name, pipe.card = given.name, card
        chosen = {"guidance_scale": given.guidance_scale, "top_p": given.top_p, "temperature": given.temperature}
        pipe.defaults |= {name: value for name, value in chosen.items() if value is not None}
        if given.tokenizer:
            refine(pipe.tokenizer, load_component(given.tokenizer, "tokenizer"))
        pipe.save_pretrained(target, torch.bfloat16, overwrite=True)
    else:  # a feature network
        parts = {name: load_component(given.checkpoint, name) for name in components}
        save_checkpoint(
            target, parts, {"name": given.name}, {"README.md": card.encode()}, torch.bfloat16, overwrite=True
        )
    if given.tokenizer_of:
        share_tokenizer(target, given.tokenizer_of)
    size = sum(path.stat().st_size for path in BUNDLED.rglob("*.safetensors"))
    print(f"wrote {target}; all bundled weights: {size / 2**20:.1f} MiB of at most {LIMIT / 2**20:.0f}")


def refine(tokenizer: nn.Module, refined: nn.Module) -> None:
    """Give ``tokenizer`` the decoder of ``refined``, if all that encodes is the same, number by number."""
    if wrong := other_tokens(tokenizer, refined):
        raise SystemExit(f"{wrong} differs, so the tokens of the two tokenizers do; nothing was written")
    tokenizer.load_state_dict(refined.state_dict())


def share_tokenizer(target: Path, other: str) -> None:
    """Have ``target`` read the tokenizer of the bundled model ``other``, if it is the same, byte for byte."""
    own, shared = target / "tokenizer.safetensors", BUNDLED / other / "tokenizer.safetensors"
    if own.read_bytes() != shared.read_bytes():
        raise SystemExit(f"{own} is another tokenizer than {shared}; the two cannot share one")
    config = read_config(target)
    config["components"]["tokenizer"]["file"] = f"../{other}/{shared.name}"
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    own.unlink()
    write_digests(target)


if __name__ == "__main__":
    main()
