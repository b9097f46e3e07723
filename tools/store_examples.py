"""Writes ``tests/stored/v1``: what the version of checkpoint and plan format 1 wrote, for ``tests/test_stored.py``.

    git worktree add /tmp/v1 98235ac
    cp tools/store_examples.py /tmp/v1/tools/ && cd /tmp/v1
    PYTHONPATH=src:. python tools/store_examples.py FOLDER

It must be run by the code of that version, so it is kept as a record and not run again: later code reads what it wrote.
Models are tiny and random, in bfloat16; everything is drawn in float32 on a CPU. Seeds are taken whose tokens stay as
they are when every weight is changed by a few parts in 100,000, so that another processor's rounding changes none.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.makers import CODE_DIM, CODES, SIZES, STYLES, randomise
from torch import Tensor, nn

import nextscale
from nextscale.checkpoints import store
from nextscale.checkpoints.convert import var
from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.generate import GivenTokens
from nextscale.layers.mamba2 import Mamba2
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.pipeline import GenerationResult, Pipeline
from nextscale.plan import Plan
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

World = dict[str, Pipeline]
"""The three checkpoints by the names of their folders."""
Draw = Callable[[World, int], GenerationResult]
"""Draws an example from a seed."""

SHARED = {"codes": CODES, "code_dim": CODE_DIM, "sizes": SIZES}
SCALES = " ".join(str(h) for h, _ in SIZES)
EXACT = {"device": "cpu", "dtype": "float32"}
PLAIN = {"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 0.0}


def main() -> None:
    """Write everything into the folder that was named."""
    if store.FORMAT != 1:
        sys.exit(f"checkpoints have format {store.FORMAT} here; expected the code of format 1")
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    _styles().save_pretrained(out / "styles", torch.bfloat16)
    _m_var().save_pretrained(out / "m-var", torch.bfloat16)
    _write(out / "official.json", _converted(out))
    worlds = [_world(out, seed) for seed in range(4)]
    pictures = _pictures(out, worlds)
    _write(out / "pictures.json", pictures)
    _write(out / "plans.json", _plans(worlds, pictures))
    encoded = [str(out / "pictures" / f"{name}.png") for name in ("plain", "guided")]
    command("encode", *encoded, "-o", out / "encoded.safetensors", "--model", out / "styles", "--dtype", "float32")
    command(
        "decode", out / "encoded.safetensors", "-o", out / "decoded", "--model", out / "styles", "--dtype", "float32"
    )
    (taken,) = {_flat(world["styles"].encode(encoded)) for world in worlds}
    print(f"{len(taken)} tokens encoded")


def command(*words: object) -> None:
    """``nextscale WORDS...``"""
    run = "from nextscale.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", run, *map(str, words)], check=True)


def _write(path: Path, found: Any) -> None:
    path.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def _tokenizer(ch: int = 4, mult: tuple[int, ...] = (1, 2, 2), groups: int = 4) -> ResidualTokenizer:
    encoder = AutoencoderConfig(ch=ch, mult=mult, z=CODE_DIM, res_blocks=1, groups=groups)
    tokenizer = ResidualTokenizer(ResidualConfig(**SHARED, autoencoder=encoder))
    randomise(tokenizer)
    return tokenizer


def _var(depth: int, classes: int, seed: int) -> VAR:
    model = VAR(VARConfig(depth=depth, width=16, heads=2, classes=classes, **SHARED))
    randomise(model, seed, 0.4)
    return model


def _styles() -> Pipeline:
    """A VAR of three classes in three styles, one of which lacks a class; with words, defaults and a card."""
    things = (Thing("grinning cat", 0, ("smile",)), Thing("red flag", 2, ("banner", "post")))
    missing = frozenset({("openmoji", "flag")})
    vocabulary = ClassVocabulary(("animal", "face", "flag"), things, STYLES, missing)
    defaults = {"guidance_scale": 1.5, "temperature": 0.9, "top_k": 24, "top_p": 0.95}
    card = "# tiny-styles\n\nA model for tests.\n"
    return Pipeline(_tokenizer(), _var(3, 9, 1), vocabulary, name="tiny-styles", defaults=defaults, card=card)


def _m_var() -> Pipeline:
    """An M-VAR of five classes."""
    model = MVAR(MVARConfig(depth=2, width=16, heads=2, classes=5, state=8, head_dim=8, **SHARED))
    randomise(model, 2, 0.4)
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, Mamba2):
            module.init_decay()
    vocabulary = ClassVocabulary(("animal", "face", "flag", "food", "tool"))
    return Pipeline(_tokenizer(), model, vocabulary, name="tiny-m-var", defaults={"guidance_scale": 2.0})


def _converted(out: Path) -> dict[str, str]:
    """An official VAR pair, converted, in ``out``; the digests of the two official states."""
    tokenizer, model = _tokenizer(32, (1,), 32), _var(2, 9, 3)
    states = {
        "tokenizer": var.tokenizer_to_official(_halved(tokenizer), tokenizer.config),
        "model": var.model_to_official(_halved(model), model.config),
    }
    for name, state in states.items():
        torch.save(state, out / f"{name}.pth")
    files = [out / f"{name}.pth" for name in states]
    command("convert", *files, "-o", out / "converted", "--scales", SCALES)
    for file in files:
        file.unlink()
    for name, state in states.items():
        back = out / f"{name}.safetensors"
        command("convert", out / "converted", "--export", name, "-o", back)
        assert digest(load_file(back)) == digest(state)
        back.unlink()
    return {name: digest(state) for name, state in states.items()}


def _halved(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.bfloat16() for name, t in module.state_dict().items()}


def digest(state: dict[str, Tensor]) -> str:
    """Of names, shapes and numbers; test_stored.py computes it the same way."""
    found = hashlib.sha256()
    for name, t in sorted(state.items()):
        found.update(f"{name} {tuple(t.shape)}".encode() + t.double().contiguous().numpy().tobytes())
    return found.hexdigest()


def _world(out: Path, seed: int) -> World:
    """The checkpoints as written; with a seed beside 0, every weight a little changed."""
    chance = torch.Generator().manual_seed(seed)
    pipes = {name: nextscale.load(out / name, **EXACT) for name in ("styles", "m-var", "converted")}
    for pipe in pipes.values() if seed else ():
        for p in [*pipe.tokenizer.parameters(), *pipe.model.parameters()]:
            p.mul_(1 + 2e-5 * torch.randn(p.shape, generator=chance))
    return pipes


def _steady(worlds: list[World], draw: Draw) -> tuple[int, GenerationResult]:
    """The first seed whose tokens do not hang on the last digits of the weights, and what it draws."""
    for seed in range(1, 1000):
        first, *others = (draw(world, seed) for world in worlds)
        if all(_flat(first.tokens) == _flat(other.tokens) for other in others):
            return seed, first
    raise AssertionError("every seed hangs on the last digits")


def _flat(tokens: list[Tensor]) -> tuple[int, ...]:
    return tuple(int(one) for t in tokens for one in t.flatten())


def _pictures(out: Path, worlds: list[World]) -> dict[str, Any]:
    """PNGs with recipes; per name the checkpoint, the recipe and the tokens."""
    filtered = {"guidance_scale": 3.0, "temperature": 0.9, "top_k": 12, "top_p": 0.8}
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("styles", {"class_labels": "face", "style": "twemoji", **PLAIN}),
        "guided": ("styles", {"class_labels": "animal", "style": "openmoji", **filtered}),
        "defaults": ("styles", {"class_labels": "flag"}),
        "smooth": ("styles", {"class_labels": "face", "smooth": True}),
        "no-class": ("styles", {"class_labels": [None]}),
        "page": ("styles", {"class_labels": ["flag", None, "face"], "style": ["noto", None, "twemoji"]}),
        "m-var": ("m-var", {"class_labels": "tool", "top_k": 20}),
        "m-var-page": ("m-var", {"class_labels": ["food", None], "num_images": 2}),
        "converted": ("converted", {"class_labels": 7}),
    }
    draws: dict[str, tuple[str, Draw]] = {
        name: (folder, lambda world, seed, folder=folder, asked=asked: world[folder](seed=seed, **asked))
        for name, (folder, asked) in asked.items()
    }
    draws["planned"] = "styles", lambda world, seed: _planned(world["styles"], seed)
    found = {}
    for name, (folder, draw) in draws.items():
        _, result = _steady(worlds, draw)
        path = out / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        if len(result) == 1:
            result.save(path)
        else:
            result.grid().save(path)
        found[name] = {"model": folder, "tokens": [t.tolist() for t in result.tokens], "recipe": result.recipe}
    official = worlds[0]["styles"](class_labels="face", generator=torch.Generator().manual_seed(1))
    official.save(out / "pictures" / "not-repeatable.png")
    return found


def _planned(pipe: Pipeline, seed: int) -> GenerationResult:
    """A plan of the caller's own: the first three scales, another temperature at each."""
    rows = pipe.plan(**PLAIN | {"guidance_scale": 2.0}).prefix(3)
    varied = tuple(replace(row, temperature=1.0 - 0.1 * k) for k, row in enumerate(rows.rows))
    return pipe(["animal"], style="noto", seed=seed, plan=replace(rows, rows=varied))


def _plans(worlds: list[World], pictures: dict[str, Any]) -> dict[str, Any]:
    """Plans as plain data; per name the checkpoint, the call beside the plan, and the tokens that it gave."""
    pipe, linear = worlds[0]["styles"], worlds[0]["m-var"]
    one, two = pipe.plan(**PLAIN), pipe.plan(guidance_scale=2.5, temperature=0.8, top_k=30, top_p=0.9)
    kept = {
        "tokens": [[maps[0]] * 2 for maps in pictures["plain"]["tokens"]],
        "masks": [[[j < w / 2 for j in range(w)]] * h for h, w in SIZES],
    }
    taken_over = [replace(row, model="refiner" if k > 1 else "model", top_k=10 * k) for k, row in enumerate(two.rows)]
    plans: dict[str, tuple[str, Plan, dict[str, Any]]] = {
        "one-branch": ("styles", one, {}),
        "two-branches": ("styles", two, {}),
        "order": ("styles", two.with_column(order=two.rows[0].order[::-1]), {}),
        "smooth": ("styles", pipe.plan(guidance_scale=2.0, smooth=True), {}),
        "keep": ("styles", two.with_column(keep="given"), {"given": kept}),
        "blocks": ("styles", two.with_column(blocks=(0, 2)), {}),
        "prefix": ("styles", two.prefix(2), {}),
        "not-decoded": ("styles", replace(one, decode=False), {}),
        "recurrent": ("m-var", linear.plan(top_k=20), {}),
        "recurrent-blocks": ("m-var", linear.plan(guidance_scale=1.0).with_column(blocks=(1,)), {}),
        "two-models": ("styles", replace(two, rows=tuple(taken_over)), {"refiner": "converted"}),
    }
    found = {}
    for name, (folder, plan, parts) in plans.items():
        call: dict[str, Any] = {"class_labels": ["face", None]}
        seed, result = _steady(worlds, _drawing(folder, call, plan, parts))
        tokens = [t.tolist() for t in result.tokens]
        call |= {"seed": seed}
        found[name] = {"model": folder, "call": call, "parts": parts, "plan": plan.to_dict(), "tokens": tokens}
    return found


def _drawing(folder: str, call: dict[str, Any], plan: Plan, parts: dict[str, Any]) -> Draw:
    return lambda world, seed: world[folder](**call, seed=seed, plan=plan, parts=_alive(world, parts))


def _alive(world: World, parts: dict[str, Any]) -> dict[str, Any]:
    """The parts that a stored plan names: given tokens, or the model of a checkpoint."""
    return {
        name: world[part].model
        if isinstance(part, str)
        else GivenTokens([torch.tensor(t) for t in part["tokens"]], [torch.tensor(m) for m in part["masks"]])
        for name, part in parts.items()
    }


if __name__ == "__main__":
    main()
