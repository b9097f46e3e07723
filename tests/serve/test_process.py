"""``nextscale serve`` as a process: what it prints and logs, its worker killed, and its end; and what it refuses."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nextscale.cli.serve import serve
from nextscale.errors import InputError
from nextscale.pipeline import Pipeline
from nextscale.serve import server as servers
from nextscale.serve.service import Service
from tests.serve.conftest import paused
from tests.serve.test_clients import picture

DRAW = "/v1/images/generations"


class Process:
    """``nextscale serve`` on any free port. url: of the server, without a path."""

    def __init__(self, log: Path, words: list[str]) -> None:
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
    def worker(self) -> int:
        """The number of the process that draws."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        numbers = [int(number) for task in tasks for number in task.read_text().split()]
        (found,) = [one for one in numbers if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]
        return found


@pytest.fixture
def running(folders: list[str], tmp_path: Path) -> Iterator[Process]:
    found = Process(tmp_path / "log", folders[:1])
    yield found
    if found.process.poll() is None:
        found.process.kill()
    with found.process:
        found.process.wait(60)


def test_no_request_is_lost_when_a_worker_dies_nor_when_the_server_is_told_to_end(
    running: Process, pipes: dict[str, Pipeline]
) -> None:
    """A killed worker is replaced and draws what the first one drew. SIGTERM lets what runs come to its end and refuses
    what is new, and the process ends with 0. Nothing in its log says what was drawn.
    """
    cat = {"prompt": "grinning cat", "seed": 4, "user": "somebody"}

    async def runs(client: httpx.AsyncClient) -> None:
        while not (await client.get("/health")).json()["running"]:
            await asyncio.sleep(0.01)

    async def life() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=running.url, timeout=300) as client:
            worker = running.worker
            os.kill(worker, signal.SIGSTOP)
            killed = asyncio.ensure_future(client.post(DRAW, json={**cat, "n": 2}))
            await runs(client)
            os.kill(worker, signal.SIGKILL)
            first = await killed
            (told,) = (await client.get("/health")).json()["workers"]
            assert (told["device"], told["state"], told["restarts"]) == ("cpu", "ready", 1)
            with paused(running.worker):
                ending = asyncio.ensure_future(client.post(DRAW, json=cat))
                await runs(client)
                running.process.terminate()
                while (refused := await asyncio.to_thread(new)) is not None and refused.status_code == 200:
                    await asyncio.sleep(0.01)
            assert refused is None or refused.status_code == 503
            return [first, await ending]

    def new() -> httpx.Response | None:
        """What a new client gets: no connection, or an answer."""
        try:
            return httpx.get(f"{running.url}/health", timeout=60)
        except httpx.TransportError:
            return None

    answers = asyncio.run(life())
    wanted = pipes["tiny"]("face", num_images=2, seed=4).images
    drawn = [picture(one["b64_json"]) for answer in answers for one in answer.json()["data"]]
    assert [one.tobytes() for one in drawn] == [one.tobytes() for one in (*wanted, wanted[0])]
    assert running.process.wait(60) == 0
    log = running.log.read_text()
    assert f"POST {DRAW} 200 answered" in log
    assert not any(word in log for word in ("grinning", "somebody"))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """The services that would be run."""
    found: list[Service] = []

    def instead(service: Service, listening: socket.socket, ready: Any) -> None:
        found.append(service)
        listening.close()

    monkeypatch.setattr(servers, "serve", instead)
    return found


def test_a_host_that_others_reach_needs_a_key(
    served: list[Service], folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else keeps strangers from drawing: with --no-key, which says so, they may."""
    there: dict[str, Any] = {"models": folders[:1], "host": "0.0.0.0", "port": 0}
    monkeypatch.delenv("NEXTSCALE_KEY", raising=False)
    with pytest.raises(InputError, match=r"others can reach 0\.0\.0\.0, so a key is needed"):
        serve(**there)
    file = tmp_path / "key"
    file.write_text("two words")
    with pytest.raises(InputError, match="holds no key"):
        serve(**there, key_file=file)
    file.write_text("from-a-file\n")
    serve(**there, no_key=True)
    serve(**there, key_file=file)
    monkeypatch.setenv("NEXTSCALE_KEY", "secret")
    serve(**there, allow_host=["Draw.Example"])
    serve(models=folders[:1], port=0)
    assert [one.settings.key for one in served] == [None, "from-a-file", "secret", "secret"]
    assert served[2].settings.hosts == {"0.0.0.0", "localhost", "draw.example"}
    assert served[2].settings.literal
    assert served[3].settings.hosts == {"127.0.0.1", "localhost", "[::1]"}


def test_what_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"fastapi is not installed, and a server needs it: run pip install .*\[serve\]"
    ):
        serve()
