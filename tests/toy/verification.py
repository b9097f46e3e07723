"""Holds the toy against files of official numbers."""

from __future__ import annotations

from nextscale.conditions.base import Features, Source
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile
from tests.toy import converter
from tests.toy.model import Toy, ToyConfig


def check_logits(file: VectorFile, checks: Checks) -> None:
    """Teacher-forced logits of words and inputs."""
    state = file.model_state("toy")
    config = converter.config("model", state)
    assert isinstance(config, ToyConfig)
    model = Toy(config)
    model.load_state_dict(converter.from_official(state, config))
    counts = file.input("counts")
    features = Features(len(counts), {"words": Source("words", {"counts": counts})})
    checks.check("logits", model([file.input("x_1"), file.input("x_2")], model.condition(features)))


KINDS = {"logits": check_logits}
