"""What a request to a model of text is understood as, before anything is drawn."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from nextscale.errors import InputError
from nextscale.methods.baselines import snapkv
from nextscale.methods.variant import variant
from nextscale.serve.errors import Refused
from nextscale.serve.front import Front
from nextscale.serve.schema import Generation
from nextscale.serve.service import Service
from nextscale.serve.settings import Settings


@pytest.fixture(scope="module")
def text() -> Front:
    """The bundled model of text, with all the memory that a drawing takes."""
    front = Front("emoji-text", torch.device("cpu"), torch.float32)
    front.fitting = lambda plan, most, memory: most  # type: ignore[method-assign]
    return front


def test_a_negative_prompt_that_no_branch_sees_is_told(text: Front) -> None:
    """By the rule and in the sentence of Python and the command line; nothing is said of one that is seen."""
    asked: dict[str, Any] = {"prompt": "a red heart", "negative_prompt": "a cat"}
    seen, unseen = (text.understood(Generation(**asked, guidance_scale=scale)).warnings for scale in (2, 1))
    told = "no branch of the plan sees what was given as 'negative', so it changes nothing; "
    assert (seen, unseen) == ([], [f"{told}a guidance scale other than 1 adds a branch"])


def test_words_given_as_a_class_are_no_prompt(text: Front) -> None:
    """In Python a prompt may be the first argument of a call, by whatever name; over HTTP a field has one meaning."""
    for label in ("a red heart", ["a cat"], 3, "unconditional"):
        with pytest.raises(
            InputError, match=r"^class_labels is .*, but emoji-text reads prompts, .*; expected a prompt$"
        ):
            text.understood(Generation(class_labels=label))


def limited(text: Front, cost: float, **body: Any) -> int:
    """How many pictures of a body a server would draw together that lets a request cost so much."""
    service = Service([text], ["cpu"], "float32", Settings(cost=cost))
    asked = text.understood(Generation(prompt="a cat", **body))
    with warnings.catch_warnings(action="error"):  # of sizes that are only tried
        return service.limit(asked, len(asked.entries))


def test_a_request_that_would_draw_for_minutes_is_refused_and_told_what_is_not(text: Front) -> None:
    """A model of text draws any size. Without the limit a picture of thousands of times its own computing waits to be
    drawn; with it, the size that is named is drawn, and the next larger one is not.
    """
    assert limited(text, float("inf"), size="1024x1024")
    with pytest.raises(Refused, match=r"takes 2,255 times the computing of one of 64x64, .* as for the size 424x424$"):
        limited(text, 100, size="1024x1024")
    assert limited(text, 100, size="424x424")
    with pytest.raises(Refused, match="a picture of 432x432 takes 106 times"):
        limited(text, 100, size="432x432")
    with pytest.raises(Refused, match=r"10 pictures of 240x240 .* as for 5 of these pictures or the size 184x184$"):
        limited(text, 100, size="240x240", n=10)
    assert limited(text, 100, size="240x240", n=5)
    assert limited(text, 100, size="184x184", n=10)


def test_a_plan_that_costs_too_much_is_refused_by_its_cost(text: Front) -> None:
    """However it is said: a plan, or scales, say more than a size, and no size is named in their place."""
    plan = text.pipe.plan(size=(512, 512)).to_dict()
    for said in ({"plan": plan}, {"size": "512x512", "steps": 6}):
        assert limited(text, float("inf"), **said)
        with pytest.raises(Refused, match=r"a picture of 512x512 takes .* expected at most 100 times$"):
            limited(text, 100, **said)


def test_methods_are_carried_out_in_order_as_in_python(text: Front) -> None:
    """Those that look at the network are given the one that is served, which no client can name."""
    methods = [{"name": "variant", "full_scales": 3, "depth": 2}, {"name": "snapkv", "budget": 0.5}]
    found = text.understood(Generation(prompt="a cat", methods=methods))
    with pytest.warns(UserWarning, match="scale 3 runs"):
        assert found.plan == snapkv(variant(text.pipe.plan(), text.pipe.model, 3, 2), 0.5)
    assert "scale 3 runs the blocks 0 6 of 7" in found.warnings[0]
    for given in ({"network": 1}, {"full_scales": 3, "deep": 2}):
        with pytest.raises(InputError, match=r"^the method variant cannot take "):
            text.understood(Generation(prompt="a cat", methods=[{"name": "variant", **given}]))


def test_a_style_is_one_of_the_models(text: Front) -> None:
    asked = text.understood(Generation(prompt="a cat", style="fluent-emoji-flat", n=2))
    assert [entry["prompt"] for entry in asked.entries] == ["a cat, fluent flat"] * 2
    assert text.understood(Generation(prompt="a cat", style="auto")).entries[0]["prompt"] == "a cat"
    with pytest.raises(InputError, match=r"^style is 'none'; expected one of noto, "):
        text.understood(Generation(prompt="a cat", style="none"))
