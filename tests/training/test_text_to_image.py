"""Recipes of text-to-image models: the published sizes, what a run leaves and starts from, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import nextscale
from nextscale.checkpoints.convert import infinity as convert
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import load_component, save_checkpoint
from nextscale.conditions.base import Features
from nextscale.conditions.encoder import BUNDLED, digest
from nextscale.conditions.text import TextConditioner
from nextscale.data.emoji_reader import load_emoji
from nextscale.errors import NextscaleError
from nextscale.models.infinity import Infinity
from nextscale.ratios import PUBLISHED
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.optim import lr_factor, parameter_groups
from nextscale.training.recipe import load_recipe
from nextscale.training.recipes.infinity import InfinityRecipe
from nextscale.training.room import check_room
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.evaluation.conftest import draw_emoji
from tests.training.tiny import SCHEDULES, TINY_INFINITY, TINY_VAR, of_world

RUN = ["schedule.steps=3", "run.save_every=2"]
SEVERAL = ["data.resolution=null", f"data.schedules={SCHEDULES}"]


def begin(world: Path, run: Path, *more: str, init: str | None = None, tokenizer: str | None = "own") -> Trainer:
    overrides = [*TINY_INFINITY, *of_world(world), *RUN, *more]
    frozen = str(world / "tokenizer") if tokenizer == "own" else tokenizer
    return start("infinity", "infinity-125m", world / "pictures", run, frozen, overrides, "cpu", init=init)


def published(name: str) -> InfinityRecipe:
    recipe = load_recipe(f"infinity-{name}", kind="infinity")
    assert isinstance(recipe, InfinityRecipe)
    return recipe


def tokenizer_of(bits: int) -> BitwiseTokenizer:
    """A small one with so many bits in a token, 16 pixels to its side."""
    z = bits if bits % 4 or bits < 56 else bits // 4
    mult = (1,) * (4 if z < bits else 5)
    sizes = AutoencoderConfig(ch=8, mult=mult, z=z, res_blocks=1, groups=4, attention=False, mid_attention=False)
    return BitwiseTokenizer(BitwiseConfig(bits=z, patchify=z < bits, autoencoder=sizes))


@pytest.mark.parametrize(
    ("name", "bits", "millions"), [("125m", 32, 125.2), ("1b", 32, 940.9), ("2b", 32, 2204.6), ("8b", 56, 8376)]
)
def test_the_published_sizes_and_numbers(name: str, bits: int, millions: float) -> None:
    recipe, fitted = published(name), published(name).fitted(tokenizer_of(bits))
    model = without_values(lambda: recipe.new_model(fitted, recipe.text.width))
    assert isinstance(model, Infinity)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=5e-4)
    assert (model.schedules, model.lengths) == (PUBLISHED, (7,))
    assert fitted.schedule.grid == (16, 16)
    assert recipe.shapes(fitted) == [(16 * h, 16 * w) for h, w in (one.prefix(7).grid for one in PUBLISHED)]
    known = convert.published(f"infinity-{name}")
    if known is not None:  # so a run can start from the authors' weights
        free = {"sizes", "lengths", "drop_path"}
        given, meant = asdict(known["model"]), asdict(model.config)
        assert {key for key, value in meant.items() if value != given[key]} <= free
    optim = recipe.optim
    assert optim.lr == pytest.approx(6e-5 * recipe.run.batch / 4096)
    assert (optim.betas, optim.eps, optim.weight_decay, optim.clip, optim.ema) == ((0.9, 0.97), 1e-8, 0.005, 5, 0)
    assert {
        lr_factor(recipe.schedule.form, i, 100, recipe.schedule.warmup, end=recipe.schedule.end) for i in range(100)
    } == {1}
    assert (recipe.correction.strength, recipe.correction.scales, recipe.loss.label_drop) == (0.3, 13, 0.1)
    assert (recipe.model.drop_path, recipe.loss.scale_weights) == (0.1, "balanced")
    decayed, spared = parameter_groups(model.named_parameters(), 0.005)
    learned = {"null", "pos_start", "level_embedding", "pool.query", "blocks.0.ada_gss", "blocks.0.attention.scale_mul"}
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    assert learned <= {names[id(one)] for one in spared["params"]}  # type: ignore[attr-defined]
    assert all(names[id(one)].endswith("weight") for one in decayed["params"])  # type: ignore[attr-defined]


def test_a_model_without_room_is_refused_before_it_is_made() -> None:
    recipe, fitted = published("8b"), published("8b").fitted(tokenizer_of(56))
    with pytest.raises(NextscaleError, match=r"training takes more memory than there is: 15\d\.\d GiB for the 8,3"):
        check_room(lambda: recipe.new_model(fitted, 2048), torch.device("cpu"), 64 * recipe.states(fitted))


@pytest.fixture(scope="module")
def known(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two aspect ratios, in the coarser of two sizes."""
    run = tmp_path_factory.mktemp("known") / "run"
    begin(world, run, *SEVERAL, "data.lengths=[2]").run()
    return run


def test_what_a_run_exports_draws_texts_and_names_the_weights_of_its_encoder(known: Path, world: Path) -> None:
    pipe = nextscale.load(known / "export", device="cpu", dtype="float32")
    assert isinstance(pipe.model, Infinity)
    assert isinstance(pipe.conditioner, TextConditioner)
    assert pipe.conditioner.reference.sha256
    assert [one.sizes for one in pipe.model.schedules] == [((1, 1), (2, 2), (4, 4)), ((1, 1), (3, 2), (6, 4))]
    assert (pipe.model.lengths, pipe.model.schedule.grid) == ((2,), (2, 2))
    assert pipe(prompt="a red fox", seed=1).images[0].size == (8, 8)
    assert (known / "samples" / "step-000003.png").is_file()
    assert "training images with captions in the shapes that the recipe says, hash" in pipe.card
    assert "None" not in pipe.card.split("## Recipe")[0]


def test_a_run_reads_the_bundled_text_encoder(world: Path, tmp_path: Path) -> None:
    """Its export names it by its digest, and draws the same with it and with features that it has put into a file."""
    begin(
        world, tmp_path / "run", "text.encoder=word-pieces", "text.width=128", "text.length=64", "data.texts=anew"
    ).run()
    export, file = tmp_path / "run" / "export", tmp_path / "features.safetensors"
    pipe = nextscale.load(export, device="cpu", dtype="float32", low_memory=True)
    assert isinstance(pipe.conditioner, TextConditioner)
    reference = pipe.conditioner.reference
    assert (reference.encoder, reference.sha256) == ("word-pieces", digest(BUNDLED / "word-pieces"))
    pipe.conditioner.save_features(file, ["a red fox"])
    read = nextscale.load(export, device="cpu", dtype="float32", features=file)
    one, other = (drawn("a red fox", seed=1).tokens for drawn in (pipe, read))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_run_starts_from_the_weights_of_another_in_other_sizes(known: Path, world: Path, tmp_path: Path) -> None:
    made = begin(world, tmp_path / "run", *SEVERAL, "data.lengths=[2, 3]", init=str(known), tokenizer=None)
    old, new = load_component(known / "export", "model").state_dict(), made.objective.module.state_dict()
    assert all(torch.equal(old[key], value) for key, value in new.items())
    made.run()
    assert load_component(tmp_path / "run" / "export", "model").lengths == (2, 3)
    begin(world, tmp_path / "run", *SEVERAL, "data.lengths=[2, 3]", init=str(known), tokenizer=None)  # goes on


def test_a_run_starts_from_the_weights_of_another_in_other_aspect_ratios(
    known: Path, world: Path, tmp_path: Path
) -> None:
    made = begin(world, tmp_path / "run", init=str(known), tokenizer=str(world / "tokenizer"))
    old, new = load_component(known / "export", "model").state_dict(), made.objective.module.state_dict()
    assert all(torch.equal(old[key], value) for key, value in new.items())
    model = made.objective.module
    assert isinstance(model, Infinity)
    assert [one.sizes for one in model.schedules] == [((1, 1), (2, 2), (4, 4))]


M_VAR = ["model.mixer=mamba2", "model.state=8", "model.head_dim=8"]


def test_a_text_model_of_m_vars_blocks_is_trained_resumed_and_drawn(known: Path, world: Path, tmp_path: Path) -> None:
    """On two aspect ratios; streamed and painted it draws what a call draws."""
    run = tmp_path / "run"
    begin(world, run, *SEVERAL, *M_VAR).run(2)
    begin(world, run, *SEVERAL, *M_VAR).run()
    pipe = nextscale.load(run / "export", device="cpu", dtype="float32")
    assert pipe.plan().memories["model"].policy == "recurrent"
    for ratio in ("1:1", "2:3"):
        drawn = pipe(prompt="a red fox", ratio=ratio, seed=1)
        *_, last = pipe.stream(prompt="a red fox", ratio=ratio, seed=1)
        image = drawn[0]
        assert last.images()[0].tobytes() == image.tobytes()
        everything = torch.ones(image.height, image.width, dtype=torch.bool).numpy()
        edited = pipe.edit(image, prompt="a red fox", mask_image=everything, ratio=ratio, seed=1)
        assert edited[0].tobytes() == image.tobytes()
    with pytest.raises(
        NextscaleError, match="has another architecture: its mixer is None, but the recipe means mamba2"
    ):
        begin(world, tmp_path / "other", *SEVERAL, *M_VAR, init=str(known), tokenizer=None)


def test_training_learns_from_texts(world: Path, tmp_path: Path) -> None:
    """The coarsest scale, whose colour nothing else tells, costs more without them."""
    more = ["schedule.steps=60", "optim.lr=0.01", "model.gamma=1", "model.head=1", "run.batch=16", "run.log_every=50"]
    trainer = begin(world, tmp_path / "run", *more, "correction.strength=0.05")
    assert trainer.run()["loss"] < 0.9 * trainer.objective.ignorance["loss"]
    goal = trainer.objective
    assert isinstance(goal, GeneratorObjective)
    ((encoded, features),) = goal.data.heldout()

    def loss(shown: Features) -> float:
        with torch.no_grad():
            logits = goal.module.eval()(encoded.inputs, goal.module.condition(shown))[:, 0]
        return float(F.cross_entropy(logits.flatten(0, 1), encoded.tokens[0].flatten()))

    assert loss(features.drop("text", torch.ones(6, dtype=torch.bool))) > 1.2 * loss(features)


def test_the_price_is_the_mean_over_sizes_and_the_memory_of_the_finest(world: Path, tmp_path: Path) -> None:
    def price(name: str, *lengths: int) -> tuple[float, int]:
        more = ["data.resolution=null", "data.schedules=[[1, 2, 4]]", "run.checkpointing=false"]
        made = begin(world, tmp_path / name, *more, f"data.lengths={list(lengths)}")
        made.account.open(made._trial_loss, made.model, made.parts, made.total)
        assert made.account.price is not None
        return made.account.price.flops, made.account.price.activations

    small, large, both = price("small", 2), price("large", 3), price("both", 2, 3)
    assert both[0] == pytest.approx((small[0] + large[0]) / 2, rel=0.1)  # texts differ
    assert both[1] == pytest.approx(large[1], rel=0.1)
    assert both[1] > 1.5 * small[1]


def without_captions(world: Path, folder: Path) -> Path:
    shutil.copytree(world, folder)
    (folder / "pictures" / "metadata.jsonl").unlink()
    return folder


BAD: dict[str, tuple[list[str], str]] = {
    "weights": (
        ["loss.scale_weights=[1, 2]"],
        r"loss\.scale_weights has 2 numbers; expected one for each of .* 3 scales",
    ),
    "word": (
        ["loss.scale_weights=even"],
        r"loss\.scale_weights.*: input should be 'balanced', 'lognorm' or 'equal' \(found 'even'\)",
    ),
    "lengths": (["data.lengths=[2, 4]"], r"data\.lengths has 4; expected 1 to 3, the scales of the shortest schedule"),
    "both": (["data.schedules=published"], r"give either resolution or schedules, not both or neither"),
    "neither": (["data.resolution=null"], r"give either resolution or schedules, not both or neither"),
    "shrinking": (["data.resolution=null", "data.schedules=[[2, 1]]"], r"scales must not shrink, but 1x1 follows 2x2"),
    "resolution": (["data.resolution=32"], r"the tokenizer in .* is made for 16 pixels, but the recipe says 32"),
    "small": (
        ["data.resolution=null", "data.schedules=[[1, 4, 8]]"],
        r"20 of 20 images are smaller than the shapes nearest to them, .*17 x 17.*; .* or choose smaller shapes",
    ),
    "width": (["text.width=16"], r"the text encoder .* gives states of width 8; expected 16"),
    "encoder": (
        ["text.encoder=/nowhere"],
        r"the text encoder /nowhere is neither a folder here nor org/name on the hub",
    ),
    "top_k": (["sampling.top_k=3"], r"sampling\.top_k is 3, but the tokenizer has 2 codes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_is_refused_in_one_sentence(kind: str, world: Path, tmp_path: Path) -> None:
    overrides, expected = BAD[kind]
    with pytest.raises(NextscaleError, match=expected) as caught:
        begin(world, tmp_path / "run", *overrides)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("tokens/latents*"))


def test_images_without_captions_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(NextscaleError, match="has no captions, and a text model reads them; expected a metada"):
        begin(without_captions(world, tmp_path / "world"), tmp_path / "run")


def test_a_tokenizer_of_codes_is_refused(world: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(NextscaleError, match="the tokenizer is a ResidualTokenizer; expected one of bits"):
        begin(world, tmp_path / "run", tokenizer=str(tokenizer))


def test_a_tokenizer_of_bits_is_refused_by_a_model_of_one_draw(world: Path, tmp_path: Path) -> None:
    tokenizer = str(world / "tokenizer")
    with pytest.raises(NextscaleError, match=r"tokenizer in .* is \d+ draws; expected 1, as a var predicts them"):
        start("var", "var-emoji", world / "pictures", tmp_path / "run", tokenizer, TINY_VAR, "cpu")
    assert not (tmp_path / "run").exists()


def test_other_captions_are_another_run(world: Path, tmp_path: Path) -> None:
    own = shutil.copytree(world, tmp_path / "world")
    begin(own, tmp_path / "run").run(1)
    table = own / "pictures" / "metadata.jsonl"
    table.write_text(table.read_text().replace("a red fox", "a blue fox", 1))
    with pytest.raises(NextscaleError, match=r"holds a run with another recipe \(data\.captions"):
        begin(own, tmp_path / "run")


def test_an_epoch_of_emoji_counts_how_often_each_is_drawn(world: Path, tmp_path: Path) -> None:
    folder = draw_emoji(tmp_path / "emoji", train=20, heldout=10)
    overrides = [*TINY_INFINITY, *of_world(world), "schedule.steps=null", "schedule.epochs=2", "data.texts=anew"]
    trainer = start("infinity", "infinity-125m", folder, tmp_path / "run", str(world / "tokenizer"), overrides, "cpu")
    data = load_emoji(folder, captions=True)
    assert data.times is not None
    assert trainer.total == -(-2 * 3 * len(data) // 4)
    seen = torch.cat([trainer.buckets.rows(4, 3, step) for step in range(3 * len(data))])
    assert torch.equal(seen.bincount(minlength=len(data)), 4 * data.times)


INIT: dict[str, tuple[list[str], str]] = {
    "encoder": (
        ["text.encoder=other/t5"],
        r"reads .*encoder \(width 8, 16 tokens\); expected other/t5 \(width 8",
    ),
    "length": (["text.length=12"], r"\(width 8, 16 tokens\); expected .*\(width 8, 12 tokens\), which the recipe says"),
    "width": (["text.width=16"], r"\(width 8, 16 tokens\); expected .*\(width 16, 16 tokens\), which the recipe says"),
    "depth": (["model.depth=3"], r"has another architecture: its depth is 2, but the recipe means 3"),
}


@pytest.mark.parametrize("kind", INIT)
def test_another_model_to_start_from_is_refused(kind: str, known: Path, world: Path, tmp_path: Path) -> None:
    overrides, expected = INIT[kind]
    with pytest.raises(NextscaleError, match=expected):
        begin(world, tmp_path / "run", *SEVERAL, "data.lengths=[2]", *overrides, init=str(known), tokenizer=None)


def test_a_model_of_other_bits_to_start_from_is_refused(known: Path, world: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tokenizer", {"tokenizer": tokenizer_of(8)})
    with pytest.raises(NextscaleError, match="has another architecture: its bits is 6, but the recipe means 8"):
        begin(
            world,
            tmp_path / "run",
            *SEVERAL,
            "data.lengths=[2]",
            init=str(known),
            tokenizer=str(tmp_path / "tokenizer"),
        )
