"""A small hub on the loopback interface: what the real client asks of the real one, and ways to misbehave.

Tests point the real client at it. Serves ``/ORG/REPO/resolve/REVISION/FILE`` (HEAD, and GET with ranges); what may be
written there is in ``hub_writes.py``.
"""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from tests.checkpoints.hub_writes import READ, WRITE, Writes

COMMIT = "5f0c" * 10
"""What every branch stands for, until a test says otherwise."""


class Hub(ThreadingHTTPServer):
    """files: (place, file) -> content; a place is a repository, or ``org/name@branch`` where it is not on main. commit:
    the head of every repository; heads: that of places that were written to; private: repositories for those who are
    logged in.

    cut: close the connection after so many bytes of each answer; reset: do that rudely, and refuse as rudely once
    nothing more is to be had; lie: state this hash instead of the file's; broken: refuse to do this (``commit``, say).
    requests: (method, file, range) as asked for; commits: (place, message, names of the files) as made.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[tuple[str, str], bytes] = {}
        self.commit = COMMIT
        self.cut: int | None = None
        self.reset = False
        self.lie: str | None = None
        self.broken: str | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.private: set[str] = set()
        self.made: set[str] = set()
        self.heads: dict[str, str] = {}
        self.commits: list[tuple[str, str, list[str]]] = []
        self.large: dict[str, bytes] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, method: str, file: str) -> list[str]:
        """The ranges of all requests for a file."""
        return [span for verb, name, span in self.requests if (verb, name) == (method, file)]

    def head(self, place: str) -> str:
        return self.heads.get(place, self.commit)

    def place(self, repo: str, revision: str) -> str | None:
        """Where the files of a branch or commit are kept."""
        places = {"main": repo} | {
            place.partition("@")[2]: place for place in self.made if place.startswith(f"{repo}@")
        }
        at_head = [place for place in places.values() if self.head(place) == revision]
        return places.get(revision) or next(iter(at_head), None)

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class _Handler(Writes):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        if self.path.startswith("/api/models/") and self.path.removeprefix("/api/models/") in self.server.made:
            return self.reply(200, {"id": self.path.removeprefix("/api/models/")})
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        span = self.headers.get("Range", "")
        self.server.requests.append((self.command, name, span))
        if not any(owner == repo for owner, _ in self.server.files):
            return self.refuse("RepoNotFound")
        if repo in self.server.private and self.token() not in (READ, WRITE):
            return self.refuse("RepoNotFound")
        place = self.server.place(repo, revision)
        if place is None:
            return self.refuse("RevisionNotFound")
        content = self.server.files.get((place, name))
        if content is None:
            return self.refuse("EntryNotFound")
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        digest = self.server.lie or hashlib.sha256(content).hexdigest()
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", self.server.head(place))
        self.send_header("Content-Length", str(len(content) - start))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.deliver(content[start:])

    def deliver(self, content: bytes) -> None:
        cut = self.server.cut
        self.wfile.write(content[:cut])
        if cut is not None and cut < len(content):
            self.close_connection = True
            if self.server.reset:  # a reset instead of a farewell, and from now on nothing but resets
                self.server.cut = 0
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub in a thread of this process."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def use(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the client of this process at ``hub``, as HF_ENDPOINT and HF_HOME do for a new one; nobody is logged in.

    Large files go the older of the client's two ways, LFS: the newer, Xet, speaks to a storage that is not in here.
    """
    for name in ("NEXTSCALE_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
