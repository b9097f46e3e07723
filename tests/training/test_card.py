"""What a run exports says of itself what it was trained on, how far, from what, and how well it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

import nextscale
from nextscale.checkpoints.card import hub_card
from nextscale.checkpoints.load import revision
from nextscale.training.card import run_card
from nextscale.training.recipe import parse_recipe
from nextscale.training.start import start
from tests.training.tiny import TINY_VAR


def test_the_card_of_a_generator(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    settings = [*TINY_VAR, "schedule.epochs=null", "schedule.steps=4", "run.validate_every=3", "run.export=best"]
    trainer = start("var", "var-emoji", images, tmp_path / "mine", str(tokenizer), settings, "cpu")
    trainer.run()
    pipe = nextscale.load(tmp_path / "mine" / "export", device="cpu")
    first, _, rest = pipe.card.partition("\n")
    assert first == "# mine"
    best = trainer.best[1]
    assert f"`nextscale train var`, {best} of 4 steps of 4 images" in rest
    assert f"`{images.name}`: 13 training images at 16x16 pixels" in rest
    assert f"tokenizer of revision {revision(tokenizer / 'export')}" in rest
    log = [json.loads(line) for line in (tmp_path / "mine" / "log.jsonl").read_text().splitlines()]
    (loss,) = (line["loss"] for line in log if line["kind"] == "validation" and line["step"] == best)
    assert f"| number | at step {best} |" in rest
    assert f"| loss | {loss:.4g} |" in rest
    recipe = yaml.safe_load(rest.split("```yaml")[1].split("```")[0])
    assert parse_recipe(recipe, "card") == trainer.recipe
    assert pipe.card in hub_card(tmp_path / "mine" / "export", "me/mine", {})  # and pushed, it is the hub's card


def test_licences_of_the_data_are_named(tokenizer: Path, tmp_path: Path) -> None:
    """Before the first validation there are no numbers; a data set that has gone away has no licences to read."""
    run, data = shutil.copytree(tokenizer, tmp_path / "run"), tmp_path / "set"
    (run / "log.jsonl").unlink()
    described = yaml.safe_load((run / "recipe.yaml").read_text()) | {"source": str(data)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(described))
    assert "`set`: 13 training images" in run_card(run, 1, 8)
    data.mkdir()
    noto = {"name": "Noto Emoji", "author": "Google Inc", "licence": "Apache-2.0", "url": "https://example.org"}
    (data / "dataset.json").write_text(json.dumps({"licences": {"noto": noto}}))
    card = run_card(run, 1, 8)
    assert "- Noto Emoji by Google Inc, Apache-2.0, https://example.org" in card
    assert "Held-out" not in card
