"""Laws of every tokenizer: what is encoded is what is drawn, and nothing is changed in place."""

from __future__ import annotations

import pytest
import torch

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Tokenizer
from tests.makers import tiny_bitwise, tiny_direct, tiny_tokenizer
from tests.toys import bit_tokenizer

RESIDUAL = {
    "four phi": lambda: tiny_tokenizer(),
    "one phi": lambda: tiny_tokenizer(phi=1),
    "a phi per scale": lambda: tiny_tokenizer(phi=0),
    "rectangular": lambda: tiny_tokenizer(sizes=((1, 1), (1, 2), (2, 4))),
}
LEFT_OVER = RESIDUAL | {
    "bits": lambda: bit_tokenizer(),
    "bitwise": lambda: tiny_bitwise(),
    "bitwise, patchified, rectangular": lambda: tiny_bitwise(patchify=True, sizes=((1, 1), (1, 2), (2, 4))),
}
DIRECT = {
    "direct": lambda: tiny_direct(),
    "direct, rectangular": lambda: tiny_direct(sizes=((1, 1), (1, 2), (2, 4))),
}
"""Tokenizers in which no scale needs another."""
TOKENIZERS = LEFT_OVER | DIRECT


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


def images_for(tokenizer: Tokenizer, batch: int = 2) -> torch.Tensor:
    return torch.rand((batch, 3, *tokenizer.pixels())) * 2 - 1


def test_token_maps_have_the_sizes_of_the_schedule(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(tokenizer.latent(images_for(tokenizer))).tokens
    assert [tuple(t.shape) for t in tokens] == [(2, h, w, *tokenizer.token_shape) for h, w in tokenizer.schedule]
    assert all(int(t.min()) >= 0 and int(t.max()) < tokenizer.choices for t in tokens)


def test_each_scale_brings_the_canvas_to_what_the_next_scale_was_encoded_against(tokenizer: Tokenizer) -> None:
    latent = tokenizer.latent(images_for(tokenizer))
    seen = []

    def hook(k: int, tokens: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        seen.append(codes)
        return codes

    tokens = tokenizer.encode(latent, hook=hook).tokens
    for codes, tokens_k in zip(seen, tokens, strict=True):
        torch.testing.assert_close(tokenizer.codes(tokens_k), codes, atol=0, rtol=0)


def test_autocast_changes_no_token(tokenizer: Tokenizer) -> None:
    latent = tokenizer.latent(images_for(tokenizer))
    plain = tokenizer.encode(latent).tokens
    with torch.autocast("cpu", torch.bfloat16):
        cast = tokenizer.encode(latent).tokens
        canvas = tokenizer.follow(cast).canvas
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    torch.testing.assert_close(canvas.latent, tokenizer.follow(plain).canvas.latent, atol=0, rtol=0)


def test_a_hook_changes_what_later_scales_see(tokenizer: Tokenizer) -> None:
    latent = tokenizer.latent(images_for(tokenizer))
    plain = tokenizer.encode(latent)
    hooked = tokenizer.encode(latent, hook=lambda k, tokens, codes: codes * -3 if k == 0 else codes)
    assert torch.equal(plain.tokens[0], hooked.tokens[0])
    assert not torch.equal(plain.inputs[0], hooked.inputs[0])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_depend_on_what_was_drawn_before_them_unless_every_scale_is_the_latent_itself(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    latent = tokenizer.latent(images_for(tokenizer))
    plain = tokenizer.encode(latent).tokens
    hooked = tokenizer.encode(latent, hook=lambda k, tokens, codes: codes * -3 if k == 0 else codes).tokens
    changed = any(not torch.equal(a, b) for a, b in zip(plain[1:], hooked[1:], strict=True))
    assert changed is (name not in DIRECT)
    assert tokenizer.whole_maps is not changed


def test_accumulate_leaves_its_argument_alone(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(tokenizer.latent(images_for(tokenizer))).tokens
    canvas = tokenizer.follow(tokens[:1]).canvas
    before = canvas.latent.clone()
    after = tokenizer.accumulate(canvas, tokenizer.codes(tokens[1]), 1)
    assert torch.equal(canvas.latent, before)
    assert canvas.done == 1
    assert after.done == 2
    assert not torch.equal(after.latent, before)


def test_weights_on_one_code_are_that_code(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(tokenizer.latent(images_for(tokenizer))).tokens[1]
    one_hot = torch.nn.functional.one_hot(tokens, tokenizer.choices).float()
    torch.testing.assert_close(tokenizer.codes(one_hot), tokenizer.codes(tokens), atol=1e-6, rtol=1e-6)


def test_teacher_forcing_inputs_are_what_generation_sees(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(tokenizer.latent(images_for(tokenizer))).tokens
    for k, found in enumerate(tokenizer.follow(tokens).inputs, start=1):
        wanted = tokenizer.next_input(tokenizer.follow(tokens[:k]).canvas, k)
        torch.testing.assert_close(found, wanted, atol=0, rtol=0)
        assert tuple(found.shape[-2:]) == tokenizer.schedule[k]


def test_decoding_gives_images_of_the_right_size_in_range(tokenizer: Tokenizer) -> None:
    images = images_for(tokenizer)
    decoded = tokenizer.decode(tokenizer.encode(tokenizer.latent(images)).canvas)
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1


def test_rows_of_a_canvas_can_be_selected(tokenizer: Tokenizer) -> None:
    canvas = tokenizer.encode(tokenizer.latent(images_for(tokenizer))).canvas
    assert torch.equal(canvas.select(torch.tensor([1, 1, 0])).latent, canvas.latent[[1, 1, 0]])


@pytest.mark.parametrize("tokenizer", [*RESIDUAL, "bitwise", "direct"], indirect=True)
def test_images_that_do_not_fit_the_stride_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="17x16 pixels cannot be encoded; both sides must be multiples of 4"):
        tokenizer.latent(torch.zeros((1, 3, 17, 16)))


@pytest.mark.parametrize("tokenizer", [*RESIDUAL, "bitwise"], indirect=True)
def test_a_schedule_that_does_not_end_at_the_latent_is_refused(tokenizer: Tokenizer) -> None:
    latent = tokenizer.latent(images_for(tokenizer))
    with pytest.raises(InputError, match="but the schedule ends at"):
        tokenizer.encode(latent, ScaleSchedule.of([1, 2, 7]))


def test_following_tokens_is_encoding_them(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode(tokenizer.latent(images_for(tokenizer)))
    followed = tokenizer.follow(found.tokens)
    assert torch.equal(followed.canvas.latent, found.canvas.latent)
    assert all(torch.equal(a, b) for a, b in zip(followed.inputs, found.inputs, strict=True))
    assert followed.canvas.done == len(tokenizer.schedule)
    changed = [*found.tokens[:-1], 1 - found.tokens[-1].clamp_max(1)]
    assert not torch.equal(tokenizer.follow(changed).canvas.latent, found.canvas.latent)
