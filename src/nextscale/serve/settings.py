"""How a server is set up, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
MOST_JSON, MOST_FORM, MOST_BODIES = MIB, 32 * MIB, 256 * MIB
"""Bytes of a body, and of all that are read at once."""


@dataclass(frozen=True)
class Settings:
    """batch: most pictures drawn together; memory: bytes that one drawing may take beside the weights, None for half of
    what is free; cost: how many times the computing of one picture of the model's largest trained size a request may
    take; queue: most pictures that wait; deadline: seconds that a request may take; silence: seconds that a worker may
    always draw without news of a scale; bodies: bytes of all bodies that are read at once; key: what requests must
    have, None for no key; hosts: the names that clients may know the server by, None for any; literal: whether an IP
    address will do for one; keep_alive: seconds between the comments of a stream; kept, kept_bytes: how long pictures
    behind an address are kept, and how many bytes; log_prompts: write them into the log.
    """

    batch: int = 16
    memory: int | None = None
    cost: float = 100.0
    queue: int = 256
    deadline: float = 300.0
    silence: float = 30.0
    bodies: int = MOST_BODIES
    key: str | None = None
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    literal: bool = False
    keep_alive: float = 15.0
    kept: float = 600.0
    kept_bytes: int = 256 * MIB
    log_prompts: bool = False
