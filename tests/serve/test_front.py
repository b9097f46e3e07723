"""What a request to a model of text is understood as, before anything is drawn."""

from __future__ import annotations

import pytest
import torch

from nextscale.errors import InputError
from nextscale.serve.front import Front
from nextscale.serve.schema import Generation


@pytest.fixture(scope="module")
def text() -> Front:
    """The bundled model of text."""
    return Front("emoji-text", torch.device("cpu"), torch.float32)


def test_a_negative_prompt_that_no_branch_sees_is_told(text: Front) -> None:
    """By the rule and in the sentence of Python and the command line; nothing is said of one that is seen."""
    asked = {"prompt": "a red heart", "negative_prompt": "a cat"}
    seen, unseen = (text.understood(Generation(**asked, guidance_scale=scale)).warnings for scale in (2, 1))
    assert (seen, unseen) == ([], ["no branch of the plan sees what was given as 'negative', so it changes nothing"])


def test_words_given_as_a_class_are_no_prompt(text: Front) -> None:
    """In Python a prompt may be the first argument of a call, by whatever name; over HTTP a field has one meaning."""
    for label in ("a red heart", ["a cat"], 3, "unconditional"):
        with pytest.raises(
            InputError, match=r"^class_labels is .*, but emoji-text reads prompts, .*; expected a prompt$"
        ):
            text.understood(Generation(class_labels=label))
