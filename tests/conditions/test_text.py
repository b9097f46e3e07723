"""Prompts through a tiny T5: the states are the encoder's own, no prompt sees another, and what is bad is said."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from nextscale.conditions import text
from nextscale.conditions.base import Features
from nextscale.conditions.encoder import EncoderReference, TextEncoder, digest, encoder_folder
from nextscale.conditions.text import TextConditioner
from nextscale.errors import CheckpointError, InputError
from tests.checkpoints.hub_server import COMMIT, running_hub, use
from tests.conditions.tiny_t5 import WIDTH, WORDS, reference, save_t5

PROMPTS = ["a red fox", "", "the fox sits in the snow", "blue sky", "a fox in"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoders") / "t5"
    save_t5(path)
    return path


@pytest.fixture
def conditioner(folder: Path) -> TextConditioner:
    return TextConditioner(reference(folder))


def features(conditioner: TextConditioner, prompts: list[str], negative: Any = None) -> Features:
    return conditioner.features(conditioner.resolve(prompt=prompts, negative_prompt=negative))


def states(found: Features, row: int, name: str = "text") -> torch.Tensor:
    tensors = found.sources[name].tensors
    return tensors["states"][row][tensors["mask"][row]]


def ids(prompt: str) -> list[int]:
    return [WORDS.index(word) for word in prompt.split()] + [1]


@torch.no_grad()
def test_the_states_are_the_encoders_last_ones_with_its_end_token(folder: Path, conditioner: TextConditioner) -> None:
    """Those of transformers, which loads the whole network; padded and masked as in the published code, too."""
    whole = T5ForConditionalGeneration.from_pretrained(folder).eval()
    found = features(conditioner, PROMPTS)
    source = found.sources["text"]
    assert (source.kind, found.images) == ("text", 5)
    assert source.tensors["states"].shape == (5, 7, WIDTH)
    assert source.tensors["states"].dtype == torch.float32
    assert source.tensors["mask"].sum(1).tolist() == [len(ids(prompt)) for prompt in PROMPTS]
    assert not source.tensors["states"][~source.tensors["mask"]].any()
    padded = torch.tensor([[*ids(prompt), *[0] * (16 - len(ids(prompt)))] for prompt in PROMPTS])
    masked = whole.encoder(input_ids=padded, attention_mask=(padded > 0).long()).last_hidden_state
    for row, prompt in enumerate(PROMPTS):
        alone = whole.encoder(input_ids=torch.tensor([ids(prompt)])).last_hidden_state[0]
        torch.testing.assert_close(states(found, row), alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(states(found, row), masked[row, : len(alone)], atol=1e-5, rtol=1e-4)
    assert found.sources["negative"].dropped is not None
    assert found.sources["negative"].dropped.all()


def test_prompts_do_not_see_one_another(folder: Path, conditioner: TextConditioner) -> None:
    """Bit by bit, since a CPU encodes them one by one; in turns of equal length, as on a GPU, up to rounding."""
    together, more = features(conditioner, PROMPTS), [*PROMPTS, "red sky", "blue snow"]
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(states(together, row), states(features(TextConditioner(reference(folder)), [prompt]), 0))
    encoder = TextEncoder(reference(folder), torch.device("cpu"), torch.float32)
    alone, shapes = encoder.states(encoder.tokens(more)), list[tuple[int, ...]]()
    encoder.network.register_forward_pre_hook(
        lambda _, given, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    encoder.turn = 2
    for one, other in zip(encoder.states(encoder.tokens(more)), alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert shapes == [(2, 4), (1, 1), (1, 7), (2, 3), (1, 3)]


def test_negative_prompts_are_one_for_all_or_one_each(conditioner: TextConditioner) -> None:
    found = features(conditioner, PROMPTS[:2], ["blue sky", None])
    negative = found.sources["negative"]
    assert negative.dropped is not None
    assert negative.dropped.tolist() == [False, True]
    assert torch.equal(states(found, 0, "negative"), states(features(conditioner, ["blue sky"]), 0))
    assert conditioner.resolve(prompt=["a", "b"], negative_prompt="c") == [
        {"prompt": "a", "negative_prompt": "c"},
        {"prompt": "b", "negative_prompt": "c"},
    ]
    # As published: an empty negative prompt is none, while an empty prompt is a text.
    assert conditioner.resolve(prompt="", negative_prompt="") == [{"prompt": "", "negative_prompt": None}]


def test_styles_are_words_behind_a_prompt(folder: Path) -> None:
    """One for all or one each, by their names; they are stored, and a conditioner without any refuses them."""
    styled = TextConditioner(reference(folder), styles={"winter": "in the snow", "sky": "blue sky"})
    for conditioner in (styled, TextConditioner.from_dict(styled.to_dict())):
        assert conditioner.lists() == {"styles": ["winter", "sky"]}
        found = conditioner.resolve(prompt=["a fox", "a red fox"], style=["winter", None])
        assert [one["prompt"] for one in found] == ["a fox, in the snow", "a red fox"]
        for said in ("sky", "Blue Sky"):
            assert conditioner.resolve(prompt="a fox", style=said)[0]["prompt"] == "a fox, blue sky"
    with pytest.raises(InputError, match="two prompts were given, 'a fox' and prompt='blue sky'; expected one"):
        styled.resolve(class_labels="a fox", prompt="blue sky")
    for style, sentence in (
        ("snow", "style is 'snow'; expected one of winter, sky"),
        (["sky", "sky"], "2 styles were given for 1 prompts; expected one for all, or one per prompt"),
        ([["sky"]], r"style is \['sky'\]; expected one of winter, sky"),
    ):
        with pytest.raises(InputError, match=sentence):
            styled.resolve(prompt="a fox", style=style)
    with pytest.raises(InputError, match="style is 'sky', but this model reads text alone"):
        TextConditioner(reference(folder)).resolve(prompt="a fox", style="sky")
    for bad in (["sky"], {"sky": ""}, {"sky": 1}):
        with pytest.raises(CheckpointError, match="the styles of prompts are"):
            TextConditioner.from_dict({**styled.to_dict(), "styles": bad})


def test_prompts_may_be_the_first_argument_of_a_call(conditioner: TextConditioner) -> None:
    for said in ("a red fox", ["a red fox", "blue sky"]):
        assert conditioner.resolve(class_labels=said) == conditioner.resolve(prompt=said)
    with pytest.raises(InputError, match="two prompts were given, 'a' and prompt='b'"):
        conditioner.resolve(class_labels="a", prompt="b")
    with pytest.raises(InputError, match=r"class_labels is \['a', 3\], but this model reads text alone"):
        conditioner.resolve(class_labels=["a", 3])


def test_what_it_does_not_read_is_refused(conditioner: TextConditioner) -> None:
    for asked, sentence in (
        ({"prompt": "a", "class_labels": 3}, "class_labels is 3, but this model reads text alone; expected prompt="),
        ({"prompt": "a", "style": "noto"}, "style is 'noto', but this model reads text alone"),
        ({"image": "x.png"}, "image is 'x.png', but this model reads text alone"),
        ({}, "no prompt was given; expected a text, as in prompt="),
        ({"prompt": []}, "no prompt was given"),
        ({"prompt": 3}, "prompt is 3; expected a text"),
        ({"prompt": ["a", None]}, "prompt is None; expected a text"),
        ({"prompt": "a\ud800"}, "prompt is 'a.ud800', which is no text in Unicode"),
        ({"prompt": "a", "negative_prompt": 3}, "negative_prompt is 3; expected a text"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts were given for 2 prompts; expected one"),
    ):
        with pytest.raises(InputError, match=sentence):
            conditioner.resolve(**asked)


def test_long_prompts_are_cut_with_a_warning(folder: Path) -> None:
    short = TextConditioner(reference(folder, length=4))
    with pytest.warns(UserWarning, match="'the fox sits in the snow' has 7 tokens, .* reads 4; left out: 3$"):
        cut = features(short, ["the fox sits in the snow", "a fox"])
    assert torch.equal(states(cut, 0), states(features(short, ["the fox sits"]), 0))
    with pytest.warns(UserWarning, match="left out: 3, and the ends of 1 more texts"):
        features(short, ["the fox sits in the snow", "a fox in the snow"])


def test_it_is_stored_by_reference_and_checked_against_it(folder: Path, tmp_path: Path) -> None:
    stored = TextConditioner(EncoderReference(str(folder), sha256=digest(folder), width=WIDTH, length=9)).to_dict()
    assert stored == {"encoder": str(folder), "revision": None, "sha256": digest(folder), "width": 8, "length": 9}
    features(TextConditioner.from_dict(stored), ["a"])
    save_t5(tmp_path / "other", seed=1)
    for change, sentence in (
        (
            {"encoder": str(tmp_path / "other")},
            "have sha256 .*, but the model was made with .*; expected that revision",
        ),
        ({"width": 16}, "gives states of width 8; expected 16, which the model reads"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            features(TextConditioner.from_dict(stored | change), ["a"])
    for wrong, sentence in (
        ({"size": 3}, "unknown setting 'size'"),
        ({"width": 0}, "width is 0; expected 1 or more"),
        ({"sha256": "12"}, "sha256 is '12'; expected 64 hex digits"),
        ({"encoder": ""}, "the text encoder has no name"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            TextConditioner.from_dict(stored | wrong)
    with pytest.raises(CheckpointError, match="the conditioner gives text of 8, and the model reads text of 9"):
        TextConditioner.from_dict(stored).check({"text": 9})


def test_only_the_encoder_half_of_safetensors_is_read(folder: Path, tmp_path: Path) -> None:
    """Of shards, too, the decoder's of which need not be there; pickles are not looked at."""
    sharded = tmp_path / "shards"
    save_t5(sharded, shard="3KB")
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    (sharded / files[-1]).unlink()
    one, other = (features(TextConditioner(reference(path)), ["a red fox"]) for path in (folder, sharded))
    assert torch.equal(states(one, 0), states(other, 0))
    whole = tmp_path / "pickles"
    save_t5(whole)
    (whole / "model.safetensors").rename(whole / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor .*; expected an encoder as transf"):
        features(TextConditioner(reference(whole)), ["a"])
    (whole / "model.safetensors").write_bytes((whole / "pytorch_model.bin").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"the text encoder in .* cannot be loaded"):
        features(TextConditioner(reference(whole)), ["a"])
    (whole / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        CheckpointError, match="is of the type 'gpt2'; expected a text encoder of the type 't5', 'bert'"
    ):
        features(TextConditioner(reference(whole)), ["a"])


def test_an_encoder_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="the text encoder nowhere is neither a folder here nor org/name on"):
        encoder_folder(EncoderReference("nowhere"))
    with running_hub() as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        with pytest.raises(CheckpointError, match=r"me/t5 is not here, .* hf download me/t5 --include .* --features F"):
            encoder_folder(EncoderReference("me/t5"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"transformers is not installed, and a text encoder needs it: run pip"):
        features(TextConditioner(), ["a"])


@pytest.mark.parametrize("shard", ["1GB", "3KB"])
def test_it_comes_from_the_hub_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str) -> None:
    save_t5(tmp_path / "t5", shard=shard)
    with running_hub() as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        hub.files |= {("me/t5", path.name): path.read_bytes() for path in (tmp_path / "t5").iterdir()}
        hub.files["me/t5", "pytorch_model.bin"] = b"a pickle"
        there = EncoderReference("me/t5", width=WIDTH)
        found = encoder_folder(there)
        assert found.name == COMMIT
        assert not hub.asked("GET", "pytorch_model.bin")
        asked = len(hub.requests)
        here = features(TextConditioner(there), ["a red fox"])
        assert len(hub.requests) == asked
    assert torch.equal(states(here, 0), states(features(TextConditioner(reference(tmp_path / "t5")), ["a red fox"]), 0))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """The networks of all encoders that are loaded."""
    found: list[weakref.ref[Any]] = []

    class Watched(TextEncoder):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            found.extend(weakref.ref(part) for part in (self, self.network, next(self.network.parameters())))

    monkeypatch.setattr(text, "TextEncoder", Watched)
    return found


def test_with_low_memory_nothing_of_the_encoder_lives_on(folder: Path, loaded: list[weakref.ref[Any]]) -> None:
    lean, usual = TextConditioner(reference(folder), low_memory=True), TextConditioner(reference(folder))
    found = features(lean, ["a red fox"])
    assert [part() for part in loaded] == [None] * 3
    assert torch.equal(states(features(lean, ["a red fox"] * 3), 2), states(found, 0))
    assert len(loaded) == 3  # the same text again needs no encoder
    features(lean, ["blue sky"])
    assert [part() for part in loaded] == [None] * 6
    for prompt in ("a red fox", "blue sky"):
        features(usual, [prompt])
    assert [part() is None for part in loaded[6:]] == [False] * 3


def test_it_computes_where_and_in_what_it_is_told(conditioner: TextConditioner) -> None:
    exact = features(conditioner, ["a red fox"])
    conditioner.to(torch.device("cpu"), torch.bfloat16)
    found = features(conditioner, ["a red fox"])
    assert found.sources["text"].tensors["states"].dtype == torch.float32
    assert not torch.equal(states(found, 0), states(exact, 0))
    torch.testing.assert_close(states(found, 0), states(exact, 0), atol=0.1, rtol=0.1)
