"""Every shipped recipe runs: two steps at tiny width, validated, sampled, saved and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest

import nextscale
from nextscale.checkpoints.store import load_component
from nextscale.training.recipe import load_recipe, shipped_recipes
from nextscale.training.start import start
from tests.training.tiny import TINY, of_world


@pytest.mark.parametrize("name", shipped_recipes())
def test_two_steps(
    name: str, images: Path, tokenizer: Path, direct: Path, eyes: Path, world: Path, tmp_path: Path
) -> None:
    kind, output = load_recipe(name).kind, tmp_path / "run"
    trains_tokenizer, of_text = kind.startswith("tokenizer"), kind == "infinity"
    frozen = None if trains_tokenizer or kind == "classifier" else str(direct if kind == "flexvar" else tokenizer)
    more = [*TINY[kind], "run.sample_every=2"]
    if trains_tokenizer:
        more += [f"loss.perceptual={{weight: 0.01, network: {eyes}}}"]  # published networks are not at hand
    if of_text:
        images, frozen, more = world / "pictures", str(world / "tokenizer"), [*more, *of_world(world)]
    origin = None
    if name.endswith("-masked"):  # it goes on from a first stage
        first, origin = name.removesuffix("-masked"), str(tmp_path / "first")
        start(kind, first, images, tmp_path / "first", frozen, more, "cpu").run(max_steps=1)
        more += ["model.mask_blocks=1", "sampling.refine=1,3"]
    if name.endswith("-variant"):  # it goes on from a model of all blocks
        more += ["model.depth=3"]
        start(kind, name.removesuffix("-variant"), images, tmp_path / "first", frozen, more, "cpu").run(max_steps=1)
        frozen, origin = None, str(tmp_path / "first")
        more += ["supernet.scales=2", "supernet.depths=[2]"]
    trainer = start(kind, name, images, output, frozen, more, "cpu", init=origin)
    metrics = trainer.run(max_steps=2)
    assert trainer.step == 2 < trainer.total
    assert ("psnr" if trains_tokenizer else "accuracy") in metrics
    assert (output / "samples" / "step-000002.png").is_file()
    if trains_tokenizer:
        load_component(output / "export", "tokenizer")
    elif kind == "classifier":
        load_component(output / "export", name.partition("-emoji")[0])
    else:
        pipe = nextscale.load(output / "export", device="cpu", dtype="float32")
        assert of_text or pipe.vocabulary.names == ("cold", "warm")
        drawn = pipe(prompt="a fox", seed=1) if of_text else pipe(class_labels="warm", seed=1)
        assert drawn.images[0].size == (16, 16)
