"""The bundled static encoder: its vectors, what it gives for prompts of any kind, and that it is fast."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from nextscale.checkpoints.load import bundled_names, checkpoint_folder
from nextscale.conditions.encoder import BUNDLED, EncoderReference, TextEncoder, digest
from nextscale.conditions.text import TextConditioner
from nextscale.conditions.word_pieces import FILE, PieceVectors, read_pieces, save_pieces
from nextscale.errors import CheckpointError

OURS = EncoderReference("word-pieces", width=128, length=64)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(OURS, torch.device("cpu"), torch.bfloat16)


def states(prompt: str) -> Tensor:
    found = TextConditioner(OURS).features([{"prompt": prompt, "negative_prompt": None}])
    return found.sources["text"].tensors["states"][0]


def test_a_row_in_int8_is_nearly_the_row() -> None:
    """At most half a step of 127 of its largest number, whatever its size; and a row of nothing stays one."""
    torch.manual_seed(0)
    vectors = torch.randn(50, 128, dtype=torch.float64) * torch.logspace(-6, 3, 50)[:, None]
    vectors[7] = 0
    found = PieceVectors.of(vectors)(torch.arange(50)).double()
    assert ((found - vectors).abs() <= vectors.abs().amax(1, keepdim=True) / 253).all()
    kept = torch.arange(50) != 7
    assert cosine_similarity(found, vectors)[kept].min() > 0.9998


def test_words_that_mean_alike_lie_together(encoder: TextEncoder) -> None:
    def near(one: str, other: str) -> float:
        (a, _), (b, _) = encoder.states(encoder.tokens([one, other]))
        return float(cosine_similarity(a, b, 0))

    for word, like, other in (
        ("dog", "puppy", "car"),
        ("car", "truck", "banana"),
        ("red", "blue", "running"),
        ("happy", "smiling", "rocket"),
        ("cat", "kitten", "train"),
        ("pizza", "cheese", "tractor"),
    ):
        assert near(word, like) > near(word, other) + 0.25, word


def test_states_have_the_size_of_a_networks_input(encoder: TextEncoder) -> None:
    """A mean square of 1 over all pieces, no dimension far from that, and frequent words smaller but there."""
    network, pieces = read_pieces(BUNDLED / "word-pieces", 128)
    found = network(torch.arange(len(pieces)))
    assert found.square().mean().item() == pytest.approx(1, abs=1e-3)
    assert 0.5 < found.std(0).min() < found.std(0).max() < 2
    assert 0.1 < found[pieces.index("the")].square().mean().sqrt() < 0.5
    assert encoder.dtype == torch.float32  # whatever a model computes in
    assert encoder.states(encoder.tokens(["a red heart"]))[0].dtype == torch.float32


def test_every_text_has_states(encoder: TextEncoder) -> None:
    """The end alone for an empty one, the unknown piece for what no pieces make up, and no marks in what one writes."""
    _, pieces = read_pieces(BUNDLED / "word-pieces", 128)
    for text, wanted in (
        ("", "[SEP]"),
        ("  \n", "[SEP]"),
        ("a red heart", "a red heart [SEP]"),
        ("Café, CAFÉ", "cafe , cafe [SEP]"),
        ("❤️", "[UNK] [SEP]"),
        ("red ❤️ heart", "red [UNK] heart [SEP]"),
        ("twemoji", "t ##we ##mo ##ji [SEP]"),
        ("[SEP]", "[ sep ] [SEP]"),
    ):
        assert [pieces[i] for i in encoder.tokens([text])[0]] == wanted.split(), text


def test_texts_do_not_see_one_another_and_long_ones_are_cut() -> None:
    together = TextConditioner(OURS).features([{"prompt": text} for text in ("a red fox", "", "two dogs in the snow")])
    assert together.sources["text"].tensors["mask"].sum(1).tolist() == [4, 1, 6]
    assert torch.equal(together.sources["text"].tensors["states"][0, :4], states("a red fox"))
    with pytest.warns(UserWarning, match="has 101 tokens, and the text encoder reads 64; left out: 37"):
        cut = states("dog " * 100)
    assert torch.equal(cut, states("dog " * 63))


def test_it_is_checked_by_its_digest_and_encodes_into_files(tmp_path: Path) -> None:
    sha256 = digest(BUNDLED / "word-pieces")
    conditioner = TextConditioner(EncoderReference("word-pieces", None, sha256, 128, 64), low_memory=True)
    made = conditioner.save_features(tmp_path / "f.safetensors", ["a red fox", ""])
    assert made.reference == conditioner.reference
    assert torch.equal(made.states("a red fox"), states("a red fox"))
    conditioner.with_features(tmp_path / "f.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder word-pieces in .* have sha256 .* was made with 1111"):
        TextConditioner(EncoderReference("word-pieces", None, "1" * 64, 128, 64)).features([{"prompt": "a"}])
    with pytest.raises(CheckpointError, match="word-pieces gives states of width 128; expected 2048"):
        TextConditioner(EncoderReference("word-pieces")).features([{"prompt": "a"}])


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    save_pieces(tmp_path, PieceVectors.of(torch.randn(3, 128)), ["[UNK]", "[SEP]", "a"])
    (tmp_path / "config.json").write_text('{"model_type": "word_pieces", "width": 128}')
    there = EncoderReference(str(tmp_path), width=128)
    TextEncoder(there, torch.device("cpu"), torch.float32)
    whole = load_file(tmp_path / FILE)
    for change, sentence in (
        ({"scales": whole["scales"][:2]}, "do not fit together"),
        ({"scales": whole["scales"] * torch.inf}, "do not fit together"),
        ({"vectors": whole["vectors"][:, :64].contiguous()}, "do not fit together"),
        ({"vectors": whole["vectors"].float()}, "do not fit together"),
        ({"pieces": torch.tensor(list(b"[UNK]\na\nb"), dtype=torch.uint8)}, "do not fit together"),
        ({"pieces": torch.tensor(list(b"\xff"), dtype=torch.uint8)}, "cannot be read"),
        ({"scales": None}, "cannot be read"),
    ):
        save_file({name: one for name, one in (whole | change).items() if one is not None}, tmp_path / FILE)
        with pytest.raises(CheckpointError, match=f"{FILE} .*{sentence}"):
            TextEncoder(there, torch.device("cpu"), torch.float32)
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match=f"{FILE} cannot be read .*; expected a list of word pieces"):
        TextEncoder(there, torch.device("cpu"), torch.float32)


def test_it_is_no_model() -> None:
    assert "word-pieces" not in bundled_names()
    with pytest.raises(CheckpointError, match="there is no model 'word-pieces'"):
        checkpoint_folder("word-pieces")
    with pytest.raises(CheckpointError, match=r"nowhere is neither a folder .*, nor bundled \(word-pieces\)"):
        TextConditioner(EncoderReference("nowhere")).features([{"prompt": "a"}])


def test_texts_of_a_step_cost_next_to_nothing() -> None:
    """Anew at every step: 32 captions take a millisecond or so, against seconds of training."""
    conditioner = TextConditioner(OURS)
    conditioner.features([{"prompt": ""}])

    def seconds(turn: int) -> float:
        entries = [{"prompt": f"a red heart number {turn * 32 + i} in the style of twemoji"} for i in range(32)]
        start = process_time()
        conditioner.features(entries)
        return process_time() - start

    assert min(map(seconds, range(10))) < 0.01


def test_words_that_are_unknown_are_said() -> None:
    """Emoji and other scripts: without a word, whatever came out would be taken for them."""
    for text in ("\U0001f438", "\u65e5\u672c", "\u0441\u043e\u0431\u0430\u043a\u0430"):
        with pytest.warns(UserWarning, match=f"does not know .'{text}'., which means nothing to the model"):
            TextConditioner(OURS).resolve(prompt=["a red heart", f"a {text}"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TextConditioner(OURS).resolve(prompt="a red heart", negative_prompt="")


def test_a_prompt_that_is_cut_is_said_once_before_anything_is_drawn() -> None:
    """Whoever only asks, as a server does, hears of it; whoever then draws does not hear it twice."""
    conditioner = TextConditioner(replace(OURS, length=4))
    with pytest.warns(UserWarning, match="has 6 tokens, and the text encoder reads 4; left out: 2"):
        entries = conditioner.resolve(prompt="a red heart on fire")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioner.features(entries)
