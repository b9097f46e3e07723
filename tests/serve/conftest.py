"""A server in a process of its own, with tiny models, that all tests share; and servers in this process without a
worker, where nothing is ever drawn, so that queues fill and deadlines pass when a test wants it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Process:
    """``nextscale serve`` in a process of its own, on any free port. url: of the server, without a path."""

    def __init__(self, log: Path, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "nextscale", "serve", "--port", "0", "--dtype", "float32", "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("nextscale serves http://"), log.read_text()
        self.url = line.split()[-1]

    @property
    def workers(self) -> list[int]:
        """The process numbers of those that draw."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        numbers = [int(number) for task in tasks for number in task.read_text().split()]
        return [one for one in numbers if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]

    def end(self) -> int:
        self.process.terminate()
        with self.process:
            return self.process.wait(60)


@pytest.fixture(scope="session")
def server(folders: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    running = Process(log, [*folders, "--queue", str(QUEUE), "--batch", str(BATCH)])
    yield running
    running.end()


@pytest.fixture(scope="session")
def http(server: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


class Idle:
    """A server in this process whose service has no worker."""

    def __init__(self, service: Service, app: Any) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.service, self.url = service, f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(config_of(app, 0.0))
        self._listening, self._up = listening, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._up.wait(30)

    async def _run(self) -> None:
        self.service.watch()
        await self.service.think(self.service.front(None).warm)
        self._listening.listen()
        self._up.set()
        await self._server.serve(sockets=[self._listening])

    def end(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(30)


Start = Callable[..., Idle]


@pytest.fixture(scope="session")
def front(folders: list[str]) -> Front:
    """The first model without its weights, which all idle servers share."""
    return fronts_of(folders[:1], "cpu", "float32")[0]


def started(
    front: Front,
    checks: Sequence[Check] = CHECKS,
    headers: Mapping[str, str] = HEADERS,
    page: Path = PAGE,
    **settings: Any,
) -> Idle:
    """A server without a worker, by settings and by what guards it."""
    service = Service([front], ["cpu"], "float32", Settings(**settings))
    return Idle(service, create_app(service, checks, headers, page))


@pytest.fixture
def idle(front: Front) -> Iterator[Start]:
    """Starts such servers, and ends them after the test."""
    running: list[Idle] = []

    def start(*given: Any, **named: Any) -> Idle:
        running.append(started(front, *given, **named))
        return running[-1]

    yield start
    for one in running:
        one.end()


@pytest.fixture(scope="session")
def guarded(front: Front) -> Iterator[str]:
    """The address of one with the usual settings."""
    running = started(front)
    yield running.url
    running.end()
