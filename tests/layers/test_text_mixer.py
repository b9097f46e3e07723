"""The text mixer: an order of words is seen, padding is not, and a text stays with its image."""

from __future__ import annotations

import torch

from nextscale.layers.text_mixer import TextMixer
from tests.makers import LETTERS, LONGEST, features_of, randomise, tiny_infinity

EVERY = torch.ones(1, LONGEST, dtype=torch.bool)


def mixer() -> TextMixer:
    made = TextMixer(64, LONGEST, layers=2)
    randomise(made, 3, 0.2)
    return made.eval().requires_grad_(False)


def test_a_new_mixer_leaves_words_as_they_are_but_for_a_trace_of_their_places() -> None:
    """What it adds is small, differs from place to place, and can be learnt: zero matrices have gradients."""
    made, states = TextMixer(64, LONGEST, layers=2), torch.randn(1, LONGEST, 64)
    made.init_weights()
    added = made(states, EVERY) - states
    assert 0 < added.abs().max() < 0.1
    assert (added[:, 0] - added[:, 1]).abs().max() > 0
    made(states, EVERY).square().sum().backward()
    for layer in made.layers:
        for last in (layer.proj, layer.ffn.fc2):  # type: ignore[union-attr]
            assert last.weight.grad.any()  # type: ignore[union-attr, operator]


def test_the_order_of_words_is_seen() -> None:
    """Twins in another order differ as sets of states; without positions they are the same set."""
    made, states, turned = mixer(), torch.randn(1, LONGEST, 64), torch.tensor([3, 1, 2, 0, 4])
    one, other = made(states, EVERY), made(states[:, turned], EVERY)
    assert (one[:, turned] - other).abs().max() > 0.1
    made.positions.zero_()
    torch.testing.assert_close(made(states, EVERY)[:, turned], made(states[:, turned], EVERY), atol=1e-5, rtol=1e-5)


def test_padding_changes_no_word() -> None:
    made, states = mixer(), torch.randn(2, LONGEST, 64)
    mask = torch.arange(LONGEST) < torch.tensor([[3], [LONGEST]])
    filled = torch.where(mask[..., None], states, torch.full_like(states, 7.0))
    torch.testing.assert_close(made(states, mask)[mask], made(filled, mask)[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made(states, mask)[0, :3], made(states[:1, :3], mask[:1, :3])[0], atol=1e-5, rtol=1e-5)


def test_a_model_with_a_mixer_tells_twins_apart_and_one_without_does_not() -> None:
    features = features_of(tiny_infinity(), 1)
    states, mask = (features.sources["text"].tensors[name][:, :3] for name in ("states", "mask"))
    twin = features_of(tiny_infinity(), 1)
    sources = {**twin.sources}
    sources["text"] = type(sources["text"])("text", {"states": states.flip(1), "mask": mask})
    twin = type(twin)(1, sources)
    for layers, apart in ((0, False), (2, True)):
        model = tiny_infinity(text_mixer=layers)
        vectors = [model.condition(one, (("text",),)).vector for one in (features, twin)]
        assert bool((vectors[0] - vectors[1]).abs().max() > 1e-3) is apart  # type: ignore[operator]


def test_dropped_texts_go_through_the_mixer_as_the_null() -> None:
    """What a branch that sees no text gets depends on the null and on the mixer."""
    model = tiny_infinity(text_mixer=1)
    before = model.condition(features_of(model, 1), ((),)).vector
    assert model.text_mixer is not None
    randomise(model.text_mixer, 9, 0.5)
    after = model.condition(features_of(model, 1), ((),)).vector
    assert (before - after).abs().max() > 1e-3  # type: ignore[operator]
    assert model.config.text_width == LETTERS
