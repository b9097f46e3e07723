"""Holds the tale against files of official numbers."""

from __future__ import annotations

from nextscale.conditions.base import Features, Source
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile
from tests.tale import converter
from tests.tale.model import Tale


def check_logits(file: VectorFile, checks: Checks) -> None:
    """Teacher-forced logits."""
    state = file.model_state("tale")
    config = converter.config("model", state)
    model = Tale(config)
    model.load_state_dict(converter.from_official(state, config))
    states = file.input("states")
    features = Features(len(states), {"text": Source("text", {"states": states, "mask": file.input("mask")})})
    checks.check("logits", model([file.input("x_1"), file.input("x_2")], model.condition(features)))


KINDS = {"tale_logits": check_logits}
