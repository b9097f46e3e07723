"""What each knob of a tokenizer's recipe does: the same short training again and again, one thing changed at a time.

    python tools/knobs.py DATA -o FOLDER --steps 600
    python tools/knobs.py DATA -o FOLDER --steps 600 --only restart --judge src/nextscale/bundled/classifier

Every training is a run folder in FOLDER, so the same command again goes on where it was stopped. The table is printed
after each, as Markdown. All numbers are of held-out images. The recipe with other seeds shows how much is chance; a
knob that stands there already is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from nextscale.checkpoints.store import load_component
from nextscale.data.folder import load_data
from nextscale.features.classifier import Classifier
from nextscale.measures.distances import features_of, usual_distance
from nextscale.measures.tokenizer import encode_all, reconstructed, signed_batches
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.recipe import load_recipe
from nextscale.training.recipes.residual import ResidualTokenizerRecipe
from nextscale.training.start import start

KNOBS: dict[str, list[str]] = {
    "the recipe as it is": [],
    "another seed": ["run.seed=1"],
    "yet another seed": ["run.seed=2"],
    "absolute error 0": ["loss.l1=0"],
    "absolute error 1": ["loss.l1=1"],
    "VQ loss 0.25": ["loss.vq=0.25"],
    "commitment 1": ["model.beta=1"],
    "perceptual 0": ["loss.perceptual.weight=0"],
    "perceptual 0.002": ["loss.perceptual.weight=0.002"],
    "perceptual 0.02": ["loss.perceptual.weight=0.02"],
    "perceptual from the start": ["loss.perceptual.start=0"],
    "adversarial, patches": ["loss.adversarial={weight: 0.4, network: patch, width: 32, layers: 2}"],
    "adversarial, features": ["loss.adversarial={weight: 0.4, network: features, width: 32}"],
    "random start": ["codebook.start_images=0"],
    "random start, no restarts": ["codebook.start_images=0", "codebook.restart_below=0"],
    "no restarts": ["codebook.restart_below=0"],
    "restart below 0.1": ["codebook.restart_below=0.1"],
    "restart below 0.25": ["codebook.restart_below=0.25"],
    "restart below 0.5": ["codebook.restart_below=0.5"],
    "k-means start, 10 rounds": ["codebook.kmeans=10"],
    "codes by angle": ["model.cosine=true"],
    "no phi": ["model.phi_ratio=0"],
    "256 codes": ["model.codes=256"],
    "4096 codes": ["model.codes=4096"],
    "codes of width 8": ["model.code_dim=8", "model.autoencoder.z=8"],
    "codes of width 32": ["model.code_dim=32", "model.autoencoder.z=32"],
    "no shift, flip or recolouring": ["data.shift=0", "data.flip=0", "data.recolour=0"],
    "no moving average": ["optim.ema=0"],
    "learning rate 0.0005": ["optim.lr=5e-4"],
    "learning rate 0.002": ["optim.lr=2e-3"],
}

Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--recipe", default="tokenizer-emoji")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="for all of them")
    parser.add_argument("--only", action="append", help="knobs whose name has this in it, beside the recipe as it is")
    parser.add_argument("--judge", type=Path, help="checkpoint of a classifier, to measure distances with")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    often = [f"run.{what}_every={given.steps}" for what in ("validate", "sample", "save")]
    base = [f"schedule.steps={given.steps}", "schedule.epochs=null", *often, "run.keep=1", *given.overrides]
    rows: dict[str, Row] = {}
    for name, knob in KNOBS.items():
        asked = not knob or not given.only or any(word in name for word in given.only)
        if not asked or (knob and load_recipe(given.recipe, base + knob) == load_recipe(given.recipe, base)):
            continue
        folder = given.output / name.replace(",", "").replace(" ", "-")
        rows[name] = row = train(folder, given, base + knob)
        if given.judge:
            row["distance"] = distance(given.judge, folder / "export", given.data)
        print(table(rows), flush=True)


def train(folder: Path, given: argparse.Namespace, settings: list[str]) -> Row:
    """The numbers at the end of one training, which is made, resumed, or only read where it is over."""
    trainer = start("tokenizer", given.recipe, given.data, folder, None, settings, given.device)
    found, recipe = trainer.run(), trainer.recipe
    assert isinstance(recipe, ResidualTokenizerRecipe)
    row = {"psnr": found["psnr"], "use": found["codes_used"], "perplexity": found["perplexity"] / recipe.model.codes}
    return row | {"coarsest": found["perplexity_0"]}


def distance(judge: Path, tokenizer: Path, data: Path) -> float:
    """Mean distance of held-out images to their reconstructions in a classifier's features; see ``TokenizerReport``."""
    network, subject = load_component(judge, "classifier"), load_component(tokenizer, "tokenizer")
    assert isinstance(network, Classifier)
    assert isinstance(subject, Tokenizer)
    images = load_data(data, subject.schedule.grid[0] * subject.stride, "heldout")
    originals: Tensor = features_of(network, signed_batches(images, next(network.parameters()).device))
    kept = features_of(network, reconstructed(subject, encode_all(subject, images)))
    return float((kept - originals).norm(dim=1).mean()) / usual_distance(originals)


def table(rows: dict[str, Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "\n| changed | PSNR, dB | codes in use | perplexity / codes | perplexity of scale 1 | distance |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        gap = f"{row['distance']:.3f}" if "distance" in row else ""
        numbers = f"{row['psnr']:.2f} | {row['use']:.1%} | {row['perplexity']:.3f} | {row['coarsest']:.1f}"
        lines.append(f"| {name} | {numbers} | {gap} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
