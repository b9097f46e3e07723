"""Curves that differ draw different pictures, and nothing is drawn of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from nextscale.errors import InputError
from nextscale.evaluation.curves import curves, distribution_curves
from nextscale.evaluation.runs import Run
from tests.evaluation.test_runs import some_lines


def test_every_run_is_seen_in_the_picture() -> None:
    """Other curves, of training or of held-out numbers, draw another picture; more numbers need more panels."""
    first, longer = Run("a", tuple(some_lines())), Run("b", tuple(some_lines(6)))
    alone, both = curves([first]), curves([first, longer])
    assert np.asarray(alone).std() > 10
    assert both.size == alone.size
    assert both.tobytes() != alone.tobytes()
    only_training = Run("a", tuple(line for line in first.lines if line["kind"] == "train"))
    assert curves([only_training]).tobytes() != alone.tobytes()
    tall = curves([first, Run("c", ({"step": 7, "kind": "validation", "psnr": 22.5, "perplexity": 300},))])
    assert tall.height > both.height  # five panels in three rows, not three in two


def test_the_loss_of_a_tokenizer_has_a_panel_of_its_own() -> None:
    lines = [{"step": 7, "kind": "train", "loss": 5.0}, {"step": 9, "kind": "train", "loss": 4.0}]
    generator = Run("a", tuple(lines))
    tokenizer = Run("b", tuple(line | {"l2": 0.1} for line in lines))
    one, two = curves([generator, generator]), curves([generator, tokenizer])
    assert two.width > one.width  # two panels beside each other


def test_logs_without_a_known_number_draw_nothing() -> None:
    with pytest.raises(InputError, match="the logs hold nothing to draw; expected one of loss, accuracy, psnr"):
        curves([Run("a", ({"step": 1, "kind": "train", "speed": 3.0},))])


def test_distributions_are_drawn() -> None:
    values = np.linspace(0, 1, 50)
    one = distribution_curves(["a", "b"], [values, values**2], 0.1, "distance")
    other = distribution_curves(["a", "b"], [values, values], 0.1, "distance")
    assert one.tobytes() != other.tobytes()
