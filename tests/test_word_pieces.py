"""The tool that makes the bundled text encoder: the same bytes for the same model, from each piece alone."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nextscale.conditions.encoder import EncoderReference, TextEncoder
from nextscale.conditions.word_pieces import FILE, read_pieces
from tests.conditions.tiny_bert import PIECES, save_bert
from tests.makers import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("word_pieces")


def test_the_same_model_gives_the_same_bytes(tool: ModuleType, tmp_path: Path) -> None:
    """And an encoder that is read: without the pieces that stand in no text."""
    save_bert(tmp_path / "bert")
    for name in ("one", "other"):
        tool.make(tmp_path / "bert", PIECES, tmp_path / name, 4)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "other" / FILE).read_bytes()
    network, pieces = read_pieces(tmp_path / "one", 4)
    assert pieces == ["[UNK]", "[SEP]", "!", "a", "the", "red", "fox", "##es", "snow", "dog"]
    encoder = TextEncoder(EncoderReference(str(tmp_path / "one"), width=4), torch.device("cpu"), torch.float32)
    (found,) = encoder.states(encoder.tokens(["the foxes"]))
    assert torch.equal(found, network(torch.tensor([4, 6, 7, 1])))


def test_a_piece_is_the_mean_of_what_the_model_makes_of_it_alone(tool: ModuleType, tmp_path: Path) -> None:
    bert = save_bert(tmp_path)
    kept = [PIECES.index(piece) for piece in ("[SEP]", "fox")]
    found = tool.alone(tmp_path, PIECES, kept)
    for row, text in zip(found, ([3, 4], [3, 10, 4]), strict=True):
        wanted = bert(input_ids=torch.tensor([text])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row.float(), wanted, atol=1e-5, rtol=1e-5)


def test_axes_have_a_sign_and_half_of_their_spread(tool: ModuleType) -> None:
    """Those of the vectors' own axes, where these are apart; all that is common to the vectors is gone."""
    torch.manual_seed(0)
    vectors = torch.randn(500, 6, dtype=torch.float64) * torch.tensor([9.0, 4, 1, 1e-3, 1e-3, 1e-3]) + 5
    found = tool.reduced(vectors, 3)
    assert found.mean(0).abs().max() < 1e-9
    torch.testing.assert_close(found.std(0), torch.tensor([3.0, 2, 1]).double(), rtol=0.1, atol=0)
    assert (torch.corrcoef(torch.cat([found, vectors[:, :3]], 1).T)[:3, 3:].diagonal() > 0.99).all()


def test_rare_words_weigh_more(tool: ModuleType) -> None:
    weights = tool.information(torch.tensor([0, 1, 0, 3]))
    total = 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5
    assert weights.tolist() == pytest.approx([math.log(total * rank) for rank in (2, 3, 2, 5)])
