"""A card on the hub says what the folder's card says, and what follows from the checkpoint, each thing once."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nextscale.checkpoints.card import hub_card, join, split
from nextscale.errors import CheckpointError
from tests.makers import tiny_m_var, tiny_pipeline, tiny_pipeline_of_styles


def test_facts_and_text_are_split_and_joined() -> None:
    facts = {"tags": ["a"], "license": "mit", "model-index": [{"name": "ä"}]}
    card = join(facts, "# Title\n\n---\n\nText.\n")
    assert card.startswith("---\nlicense: mit\ntags:\n- a\nmodel-index:\n- name: ä\n---\n\n# Title\n")
    assert split(card) == (facts, "# Title\n\n---\n\nText.\n")
    assert split("# Title\n\n---\nno facts\n---\n") == ({}, "# Title\n\n---\nno facts\n---\n")
    assert split("---\n---\n\ntext") == ({}, "text")


@pytest.mark.parametrize(
    ("card", "sentence"), [("---\na: [\n---\n", "no valid YAML"), ("---\n- a\n---\n", "begins with a list")]
)
def test_facts_that_are_none(card: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        split(card)


def test_a_checkpoint_that_says_nothing_of_itself_gets_a_plain_card(tmp_path: Path) -> None:
    pipe = tiny_pipeline_of_styles()
    pipe.save_pretrained(tmp_path / "mine")
    facts, text = split(hub_card(tmp_path / "mine", "someone/mine", {"license": "mit", "datasets": ["mnist"]}))
    assert list(facts) == ["license", "library_name", "pipeline_tag", "datasets", "tags"]
    assert (facts["library_name"], facts["pipeline_tag"]) == ("nextscale", "unconditional-image-generation")
    assert facts["tags"] == ["next-scale", "visual-autoregressive", "image-generation", "class-conditional", "var"]
    assert text.startswith(
        "# tiny\n\nA class-conditional VAR ([arXiv 2404.02905](https://arxiv.org/abs/2404.02905)) that draws pictures "
        "of 16x16 pixels, of 3 classes in the styles noto, twemoji, openmoji.\n\n| part |"
    )
    assert f"| model | `var` | {sum(p.numel() for p in pipe.model.parameters()):,} |" in text
    assert 'pipe = nextscale.load("someone/mine")' in text


def test_what_a_card_says_is_kept_and_what_is_given_goes_first(tmp_path: Path) -> None:
    pipe = tiny_pipeline(tiny_m_var())
    stated = {"license": "mit", "tags": "drawings", "base_model": ["someone/base"], "pipeline_tag": "text-to-image"}
    pipe.card = join(stated, "# Mine\n\nLoss 3.2.\n")
    pipe.save_pretrained(tmp_path / "mine")
    facts, text = split(hub_card(tmp_path / "mine", "someone/mine", {"license": "apache-2.0"}))
    assert (facts["license"], facts["base_model"]) == ("apache-2.0", ["someone/base"])
    assert facts["pipeline_tag"] == "text-to-image"
    assert facts["tags"][:2] == ["drawings", "next-scale"]
    assert facts["tags"][-1] == "m-var"
    assert text.startswith("# Mine\n\nLoss 3.2.\n\n<!-- use -->\n## Use\n")


def test_a_copy_under_another_name_has_one_use_section_with_its_name(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.card = "# Mine\n"
    pipe.save_pretrained(tmp_path / "mine")
    pipe.card = hub_card(tmp_path / "mine", "someone/mine", {}) + "\n## My own last words\n"
    pipe.save_pretrained(tmp_path / "mine", overwrite=True)
    card = hub_card(tmp_path / "mine", "other/copy", {})
    assert (card.count("## Use"), card.count("someone/mine"), card.count("other/copy")) == (1, 0, 1)
    assert card.endswith("<!-- end of use -->\n\n## My own last words\n")
    pipe.card = card
    pipe.save_pretrained(tmp_path / "mine", overwrite=True)
    assert hub_card(tmp_path / "mine", "other/copy", {}) == card


def test_the_hubs_own_client_reads_the_facts(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "mine")
    data = ModelCard(hub_card(tmp_path / "mine", "someone/mine", {"license": "mit"})).data
    told = data.to_dict()
    assert (told["license"], told["library_name"], told["tags"][-1]) == ("mit", "nextscale", "var")
