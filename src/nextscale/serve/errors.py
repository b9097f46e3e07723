"""What the service refuses, in the shape of OpenAI's errors, with the library's own sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from nextscale.errors import one_line

MOST_WAIT = 60
"""Seconds of ``Retry-After``; the official client takes no longer one."""
LONGEST = 1000
"""Letters of a sentence."""


class Refused(Exception):
    """An answer that is no picture. param: the field that is at fault; retry: whether the same request may do later,
    None where the status says so; after: seconds to wait before.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry: bool | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = (
            status,
            one_line(message, LONGEST),
            kind,
            code,
            param,
        )
        self.retry, self.after = retry, after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer, or of an event in a stream."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """``x-should-retry``, which the official client obeys, and ``Retry-After``."""
        found = {} if self.retry is None else {"x-should-retry": str(self.retry).lower()}
        if self.after is not None:
            found["retry-after"] = str(min(MOST_WAIT, max(1, math.ceil(self.after))))
        return found


def bad_value(error: Exception | str, fields: Collection[str] = ()) -> Refused:
    """A 400 with the library's sentence; the field is the one that the sentence begins with, if it is one of these."""
    sentence = str(error)
    first = re.match(r"\w+", sentence)
    return Refused(400, sentence, param=first[0] if first and first[0] in fields else None)


def no_model(name: str, known: Collection[str]) -> Refused:
    """A 404 for a model that is not served."""
    sentence = f"there is no model {one_line(repr(name), 120)} here; expected one of {', '.join(known)}"
    return Refused(404, sentence, code="model_not_found", param="model")


def late(seconds: float) -> Refused:
    """A 504: the official client repeats those, which would only make a busy server busier."""
    sentence = f"the pictures were not drawn within {seconds:g} seconds, so the drawing was ended"
    return Refused(504, sentence, "server_error", "deadline", retry=False)


def slow(seconds: float) -> Refused:
    """A 408 of a body that does not end."""
    sentence = f"the body did not arrive within {seconds:g} seconds; expected all of it"
    return Refused(408, sentence, code="slow_body", retry=False)


def full(what: str, after: float) -> Refused:
    """A 429. what: what waits already."""
    sentence = f"{what} already, as many as may; expected the request again in a while"
    return Refused(429, sentence, "rate_limit_error", "queue_full", retry=True, after=after)


def closed() -> Refused:
    """A 503 of a server that ends."""
    sentence = "the server is about to stop and takes nothing new; expected the request later, or elsewhere"
    return Refused(503, sentence, "server_error", "draining", retry=True, after=MOST_WAIT)


def nobody() -> Refused:
    """A 503 of a server whose workers do not come up."""
    sentence = "no worker is there to draw, and those that were started died; the server's log says why"
    return Refused(503, sentence, "server_error", "no_worker", retry=True, after=MOST_WAIT)


def failed(sentence: str, code: str = "failed") -> Refused:
    """A 500: the fault is here, and the same request would meet it again."""
    return Refused(500, sentence, "server_error", code, retry=False)


def of_pydantic(details: Mapping[str, Any], fields: Mapping[str, Any]) -> Refused:
    """A 400 for the first thing that pydantic found wrong with a body. fields: what their JSON schema says of each."""
    from difflib import get_close_matches

    name = str(details["loc"][0]) if details["loc"] else "the body"
    if details["type"] == "extra_forbidden":
        near = get_close_matches(name, fields, 1)
        meant = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(sorted(fields))}"
        return Refused(400, f"there is no field {one_line(repr(name), 80)}; {meant}", param=name)
    wanted = str(details["msg"]).replace("Input should be", "expected")
    wanted = f"{wanted[:1].lower()}{wanted[1:]}"
    bounds = [(kind["minimum"], kind["maximum"]) for kind in fields.get(name, {}).get("anyOf", []) if "maximum" in kind]
    if bounds and details["type"] in ("greater_than_equal", "less_than_equal"):
        wanted = "expected {} to {}".format(*bounds[0])
    return Refused(400, f"{name} is {one_line(repr(details['input']), 80)}; {wanted}", param=name)
