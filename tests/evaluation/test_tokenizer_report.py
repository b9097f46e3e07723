"""Styles and distances of reconstructions are what their definitions say."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextscale.data.folder import load_data
from nextscale.evaluation.report import evaluate
from nextscale.evaluation.subject import Judge, Subject


def test_styles_are_measured_apart_and_add_up(styled: Subject, emoji: Path) -> None:
    t = evaluate(styled, emoji).tokenizer
    assert [(style.name, style.psnr.count) for style in t.styles] == [("noto", 12), ("twemoji", 12), ("openmoji", 12)]
    assert sum(style.psnr.mean for style in t.styles) / 3 == pytest.approx(t.psnr.mean)
    assert len({style.psnr.mean for style in t.styles}) == 3
    assert t.distance is None


def test_the_distance_is_relative_to_that_of_two_images(styled: Subject, judge: Judge, emoji: Path) -> None:
    t = evaluate(styled, emoji, judge=judge).tokenizer
    images = load_data(emoji, 16, "heldout").images / 127.5 - 1
    kept = styled.tokenizer.decode(styled.tokenizer.encode(styled.tokenizer.latent(images)).canvas)
    features, other = judge.network.features(images), judge.network.features(kept)
    unit = (features[:, None] - features).square().sum(-1).mean().sqrt()
    assert t.distance is not None
    assert t.distance.mean == pytest.approx(float(((features - other).norm(dim=1) / unit).mean()), rel=1e-3)
    assert sum(style.distance.mean for style in t.styles if style.distance) / 3 == pytest.approx(t.distance.mean)
