"""A server with tiny models and a worker process, that all tests share; and servers without a worker, where nothing is
ever drawn, so that queues fill and deadlines pass when a test wants it. All run in this process, behind real sockets.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.pipeline import Pipeline
from nextscale.serve.app import PAGE, create_app
from nextscale.serve.front import Front
from nextscale.serve.guards import CHECKS, HEADERS, Check
from nextscale.serve.server import config_of
from nextscale.serve.service import Service, fronts_of
from nextscale.serve.settings import Settings
from tests.makers import tiny_flexvar, tiny_pipeline, tiny_pipeline_of_styles, tokenizer_of

QUEUE, BATCH = 64, 8


def free_pipeline() -> Pipeline:
    """Draws pictures of any size up to 256x256 pixels; larger ones take a while."""
    model = tiny_flexvar(places=64)
    vocabulary = ClassVocabulary(("animal", "face", "flag", "food", "tool"))
    return Pipeline(tokenizer_of(model), model, vocabulary, name="free")


def named_pipeline() -> Pipeline:
    """Five classes with names, guided by default."""
    pipe = tiny_pipeline(guidance_scale=2.0)
    things = (Thing("grinning cat", 1, ("smile",)), Thing("red apple", 3, ("fruit",)))
    pipe.conditioner = ClassVocabulary(("animal", "face", "flag", "food", "tool"), things)
    return pipe


@pytest.fixture(scope="session")
def pipes() -> dict[str, Pipeline]:
    """The served models, the default first."""
    styles = tiny_pipeline_of_styles()
    styles.name = "styles"
    return {"tiny": named_pipeline(), "styles": styles, "free": free_pipeline()}


@pytest.fixture(scope="session")
def folders(pipes: dict[str, Pipeline], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same in checkpoint folders."""
    root = tmp_path_factory.mktemp("served")
    for name, pipe in pipes.items():
        pipe.save_pretrained(root / name)
    return [str(root / name) for name in pipes]


class Running:
    """A server in this process. draws: whether it has a worker; url: of it, without a path."""

    def __init__(self, service: Service, app: Any, draws: bool) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.service, self.url = service, f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(config_of(app, 0.0))
        self._listening, self._up = listening, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(draws)))
        self._thread.start()
        assert self._up.wait(300)

    async def _run(self, draws: bool) -> None:
        if draws:
            await self.service.start()
        else:
            self.service.watch()
        self._listening.listen()
        self._up.set()
        await self._server.serve(sockets=[self._listening])
        await self.service.stop()

    def end(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(60)

    @property
    def worker(self) -> int:
        """The number of the process that draws."""
        number: int = self.service.devices[0]._process.pid
        return number

    @property
    def counts(self) -> tuple[int, int]:
        """How many pictures run, and how many wait."""
        found = self.service.health()
        return found["running"], found["waiting"]


@contextmanager
def paused(worker: int) -> Iterator[None]:
    """A worker stands still inside the block, so that what is asked for there runs or waits until it ends."""
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


async def until(so: Callable[[], bool]) -> None:
    """Wait for something that will soon be so, on a busy machine not so soon."""
    async with asyncio.timeout(120):
        while not so():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def fronts(folders: list[str]) -> list[Front]:
    """The models without their weights, which all servers share, with what they have rehearsed."""
    found = fronts_of(folders, "cpu", "float32")
    found[0].warm()
    return found


@pytest.fixture(scope="session")
def server(fronts: list[Front]) -> Iterator[Running]:
    service = Service(fronts, ["cpu"], "float32", Settings(queue=QUEUE, batch=BATCH))
    running = Running(service, create_app(service), draws=True)
    yield running
    running.end()


@pytest.fixture(scope="session")
def http(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


Start = Callable[..., Running]


def started(
    fronts: list[Front],
    checks: Sequence[Check] = CHECKS,
    headers: Mapping[str, str] = HEADERS,
    page: Path = PAGE,
    **settings: Any,
) -> Running:
    """A server without a worker, by settings and by what guards it."""
    service = Service(fronts[:1], ["cpu"], "float32", Settings(**settings))
    return Running(service, create_app(service, checks, headers, page), draws=False)


@pytest.fixture
def idle(fronts: list[Front]) -> Iterator[Start]:
    """Starts such servers, and ends them after the test."""
    running: list[Running] = []

    def start(*given: Any, **named: Any) -> Running:
        running.append(started(fronts, *given, **named))
        return running[-1]

    yield start
    for one in running:
        one.end()


@pytest.fixture(scope="session")
def guarded(fronts: list[Front]) -> Iterator[str]:
    """The address of one with the usual settings."""
    running = started(fronts)
    yield running.url
    running.end()
