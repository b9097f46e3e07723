"""A server from its start to its end: the socket, the workers, and what a signal does."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from nextscale.errors import InputError
from nextscale.serve.app import create_app
from nextscale.serve.service import Service


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT it finishes what runs and refuses what is new; on a second SIGINT it ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for a signal."""
        self.force_exit = self.should_exit
        self.should_exit = self.service.draining = True


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ``InputError`` where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise InputError(
            f"nothing can listen at {host}:{port} ({error.strerror}); expected another --port or --host"
        ) from None
    return found


def config_of(app: Any, seconds: float) -> uvicorn.Config:
    """uvicorn's settings; seconds: how long it waits for what runs when it ends."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(seconds) + 5,
        server_header=False,
    )


def serve(service: Service, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes. ready: is called once pictures can be drawn."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)

    async def run() -> None:
        try:
            await service.start()
            listening.listen(2048)  # who connects now is answered as soon as the loop runs
            ready()
            warm = [asyncio.ensure_future(service.think(front.warm)) for front in service.fronts.values()]
            await Server(config_of(create_app(service), service.settings.deadline), service).serve(sockets=[listening])
            await asyncio.gather(*warm, return_exceptions=True)
        finally:
            await service.stop()

    asyncio.run(run())
