"""A worker process as the server sees it: started, told what to draw, and started again when it dies or is ended since
it stands still.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from nextscale.errors import InputError
from nextscale.serve.batching import Picture
from nextscale.serve.worker import Batch, Failed, Ready, work

MOST_DEATHS = 3
"""How many workers in a row may die before they are ready."""
PATIENCE = 5.0
"""Seconds that a worker has for its end."""
END = object()
"""The last of the messages to a worker."""
log = logging.getLogger("nextscale.serve")


class Device:
    """heard: takes what the worker says of its batch; lost: is told that it died, with ``running`` as it was. speeds:
    FLOPs per second by model, as this process has drawn so far.
    """

    def __init__(
        self,
        name: str,
        models: Sequence[str],
        dtype: str,
        heard: Callable[[Device, Any], None],
        lost: Callable[[Device], None],
    ) -> None:
        self.name, self._given, self._heard, self._lost = name, (list(models), name, dtype), heard, lost
        self.running: list[Picture] = []
        self.speeds: dict[str, float] = {}
        self._patience, self._news = 0.0, 0.0
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ready: Ready | None = None
        self.state, self.restarts, self._deaths = "starting", 0, 0
        self._connection: Connection | None = None
        self._process: Any = None
        self._first: asyncio.Future[None] | None = None

    @property
    def free(self) -> bool:
        """Whether it can take a batch."""
        return self.state == "ready" and not self.running

    @property
    def broken(self) -> bool:
        """Whether it has been given up."""
        return self.state == "broken"

    @property
    def stuck(self) -> bool:
        """Whether nothing was heard of its batch for longer than that may take."""
        return bool(self.running) and time.monotonic() - self._news > self._patience

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises ``InputError`` with what it could not load."""
        self._first = asyncio.get_running_loop().create_future()
        self._begin()
        await self._first

    async def stop(self) -> None:
        """End it; what it draws is lost."""
        self.state = "stopped"
        if self._process is not None:
            self._send(None)
            await asyncio.to_thread(self._process.join, PATIENCE)
            self._process.kill()

    def draw(self, pictures: list[Picture], batch: Batch, patience: float) -> None:
        """Give it a batch. patience: seconds that it may say nothing of it, not even that a scale is drawn."""
        self.running, self._patience, self._news = pictures, patience, time.monotonic()
        self._send(batch)

    def kill(self) -> None:
        """End a process that stands still; what becomes of it is what becomes of one that dies."""
        log.error("the worker on %s has said nothing for %.0f seconds of drawing", self.name, self._patience)
        self._news = time.monotonic()
        self._process.kill()

    def drop(self, places: list[int]) -> None:
        """Tell it which pictures of its batch nobody wants."""
        if places:
            self._send(places)

    def _send(self, message: Any) -> None:
        self._outbox.put(message)

    def _begin(self) -> None:
        self.speeds = {}
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=work, args=(theirs, *self._given), name=f"nextscale-{self.name}", daemon=True
        )
        self._process.start()
        theirs.close()
        loop, connection, outbox = asyncio.get_running_loop(), self._connection, queue.SimpleQueue[Any]()
        self._outbox = outbox

        def write() -> None:  # a worker that stands still takes no message, and nobody else must wait for that
            with connection:
                while (message := outbox.get()) is not END:
                    with suppress(OSError):  # it died, which the thread that reads finds, too
                        connection.send(message)

        def read() -> None:
            try:
                while True:
                    message = connection.recv()
                    loop.call_soon_threadsafe(self._take, connection, message)
            except (EOFError, OSError):
                outbox.put(END)
                try:
                    loop.call_soon_threadsafe(self._gone, connection)
                except RuntimeError:  # the server has ended
                    return

        for work_on in (read, write):
            threading.Thread(target=work_on, name=f"{work_on.__name__}-{self.name}", daemon=True).start()

    def _take(self, connection: Connection, message: Any) -> None:
        if connection is not self._connection or self.state == "stopped":
            return
        self._news = time.monotonic()
        if isinstance(message, Ready):
            self.ready, self.state, self._deaths = message, "ready", 0
            self._answer_first(None)
            self._heard(self, None)
        elif self.state == "starting" and isinstance(message, Failed):
            self._answer_first(InputError(message.sentence))
        else:
            self._heard(self, message)

    def _gone(self, connection: Connection) -> None:
        if connection is not self._connection or self.state == "stopped":
            return
        self._deaths += self.state == "starting"
        self.restarts += 1
        self.state = "broken" if self._deaths >= MOST_DEATHS else "starting"
        self._answer_first(
            InputError("the process that draws died while it loaded the models; there may be too little memory")
        )
        self._lost(self)
        if not self.broken:
            self._begin()

    def _answer_first(self, error: Exception | None) -> None:
        if self._first is not None and not self._first.done():
            if error is None:
                self._first.set_result(None)
            else:
                self.state = "broken"
                self._first.set_exception(error)
