"""Who may ask, what for, and how much: what every request must pass before an endpoint sees it.

A server on 127.0.0.1 is open to every page in the same browser: such a page can post forms to it, and can point a name
of its own at it. So the name and the page that a request comes from are looked at, as well as its key, type and size.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from nextscale.errors import one_line
from nextscale.serve.errors import Refused, full, slow
from nextscale.serve.settings import MOST_FORM, MOST_JSON, Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Check = Callable[[Scope, Headers, Settings], None]

FORMS = ("/v1/images/edits", "/v1/recipe")
"""Addresses that take forms; all others take JSON."""
OPEN = ("/", "/health", "/favicon.ico")
OPEN_BELOW = ("/page/", "/v1/images/files/")
"""Addresses that need no key: what is there is no secret, or has a name that is one."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer."""


def check_host(scope: Scope, headers: Headers, settings: Settings) -> None:
    """The name in the address must be one of this server's: another one was pointed here by somebody else."""
    name = _host(headers.get("host", ""))
    if name in settings.hosts or (settings.literal and _is_address(name)):
        return
    known = ", ".join(sorted(settings.hosts)) + (", or its IP address" if settings.literal else "")
    sentence = f"this server is not called {one_line(repr(name), 80)}; expected {known} (--allow-host adds a name)"
    raise Refused(403, sentence, "permission_error", "wrong_host")


def check_origin(scope: Scope, headers: Headers, settings: Settings) -> None:
    """A page that asks must be this server's own; a program names none."""
    for origin in headers.getlist("origin"):
        if origin.partition("://")[2] != headers.get("host"):
            sentence = f"a page of {one_line(repr(origin), 80)} asks; expected this server's own page, or a program"
            raise Refused(403, sentence, "permission_error", "wrong_origin")


def check_key(scope: Scope, headers: Headers, settings: Settings) -> None:
    """The key, where there is one. The comparison takes as long for every key that is wrong."""
    path = scope["path"]
    if settings.key is None or path in OPEN or path.startswith(OPEN_BELOW):
        return
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), settings.key.encode()):
        sentence = "this server needs its key; expected the header Authorization: Bearer KEY"
        raise Refused(401, sentence, "authentication_error", "invalid_api_key")


def check_type(scope: Scope, headers: Headers, settings: Settings) -> None:
    """The type of a body: a page elsewhere may send texts and forms unasked, but no JSON."""
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return
    found = headers.get("content-type", "")
    expected = "multipart/form-data" if scope["path"] in FORMS else "application/json"
    if found.partition(";")[0].strip().lower() != expected:
        sentence = f"the body is {one_line(repr(found), 80)}; expected the content type {expected}"
        raise Refused(415, sentence, code="wrong_content_type")


def check_size(scope: Scope, headers: Headers, settings: Settings) -> None:
    """The size that a request says it has; one that lies is cut off while it is read, see ``Body``."""
    said, most = headers.get("content-length", ""), largest(scope["path"])
    if said.isdigit() and int(said) > most:
        raise too_large(most)


CHECKS: Sequence[Check] = (check_host, check_origin, check_key, check_type, check_size)


def largest(path: str) -> int:
    """Bytes of a body at an address."""
    return MOST_FORM if path in FORMS else MOST_JSON


def too_large(most: int) -> Refused:
    """A 413."""
    return Refused(413, f"the body has more than {most:,} bytes; expected at most as many", code="too_large")


class Guard:
    """Stands before an app. checks: what a request must pass; headers: what every answer says besides."""

    def __init__(
        self, app: Any, settings: Settings, checks: Sequence[Check] = CHECKS, headers: Mapping[str, str] = HEADERS
    ) -> None:
        self.app, self.settings, self.checks, self.reading = app, settings, checks, 0
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        try:
            for check in self.checks:
                check(scope, Headers(scope=scope), self.settings)
        except Refused as refused:
            answer = JSONResponse(refused.body, refused.status, refused.headers)
            return await answer(scope, receive, guarded)
        scope["body"] = body = Body(self, largest(scope["path"]))
        try:
            await self.app(scope, body.bounded(receive) if check_size in self.checks else receive, guarded)
        finally:
            body.done()


class Body:
    """What a guard has let in of a request. most: bytes of it."""

    def __init__(self, guard: Guard, most: int) -> None:
        self.guard, self.most, self.size, self.held = guard, most, 0, 0

    def done(self) -> None:
        """It is kept no more."""
        self.guard.reading -= self.held
        self.held = 0

    def bounded(self, receive: Receive) -> Receive:
        """Receives a body that is neither too large, nor takes too long, nor one of too many."""
        settings, whole = self.guard.settings, False
        end = asyncio.get_running_loop().time() + settings.deadline

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal whole
            if whole:  # what comes now is that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise slow(settings.deadline) from None
            whole = not message.get("more_body", False)
            self._take(len(message.get("body", b"")))
            return message

        return bounded

    def _take(self, count: int) -> None:
        self.size += count
        if self.size > self.most:
            raise too_large(self.most)
        if self.guard.reading + count > self.guard.settings.bodies:
            raise full(f"bodies of {self.guard.reading:,} bytes are being read", 1.0)
        self.held += count
        self.guard.reading += count


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return (
        header.rpartition(":")[0].lower() if header.rpartition(":")[2].isdigit() and ":" in header else header.lower()
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
