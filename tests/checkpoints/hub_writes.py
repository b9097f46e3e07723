"""The half of the small hub that is written to: repositories, branches, large files by the LFS protocol, and commits.

It answers what the real hub answers, and refuses what that would: no token, one that may only read, a foreign name, a
card that is no card, a large file that arrives as something else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml

if TYPE_CHECKING:
    from tests.checkpoints.hub_server import Hub

OWNER = "someone"
"""Whose tokens these are; nothing can be written in any other name."""
WRITE, READ = "hf_write", "hf_read"


class Writes(BaseHTTPRequestHandler):
    """POST and PUT. A repository's branches are there from its first commit on."""

    server: Hub

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def do_POST(self) -> None:
        sent = json_lines(self.body())
        path = unquote(self.path.partition("?")[0])
        if self.server.broken and f"/{self.server.broken}" in path:
            return self.reply(500, {"error": "out of order"})
        if self.token() not in (WRITE, READ):
            return self.reply(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/validate-yaml":
            return self.validate(sent[0]["content"])
        if path == "/api/repos/create":
            repo, what, rest = f"{sent[0]['organization']}/{sent[0]['name']}", "create", ""
        elif path.startswith("/api/models/"):
            owner, name, what, rest = path.removeprefix("/api/models/").split("/", 3)
            repo = f"{owner}/{name}"
        else:
            repo, what, rest = path.removeprefix("/").partition(".git/")[0], "batch", ""
        if self.token() != WRITE or not repo.startswith(f"{OWNER}/"):
            return self.reply(403, {"error": f"You don't have the rights to write to {repo}"})
        acts = {"create": self.create, "branch": self.branch, "preupload": self.preupload, "batch": self.batch}
        status, answer = (acts | {"commit": self.commit})[what](repo, rest, sent)
        return self.reply(status, answer)

    def do_PUT(self) -> None:
        content, oid = self.body(), self.path.removeprefix("/large/")
        if hashlib.sha256(content).hexdigest() != oid:
            return self.reply(400, {"error": "another file than was announced"})
        self.server.large[oid] = content
        return self.reply(200, {})

    def create(self, repo: str, _: str, sent: list[Any]) -> tuple[int, Any]:
        there = repo in self.server.made
        self.server.made.add(repo)
        if not there and sent[0].get("visibility") == "private":
            self.server.private.add(repo)
        return 409 if there else 200, {"url": f"{self.server.endpoint}/{repo}"}

    def branch(self, repo: str, branch: str, _: list[Any]) -> tuple[int, Any]:
        there = f"{repo}@{branch}" in self.server.made
        self.server.made.add(f"{repo}@{branch}")
        return (409, {"error": "Reference already exists"}) if there else (200, {})

    def preupload(self, repo: str, branch: str, sent: list[Any]) -> tuple[int, Any]:
        modes = {True: "lfs", False: "regular"}
        names = [file["path"] for file in sent[0]["files"]]
        large = {name: name.endswith(".safetensors") for name in names}
        return 200, {"files": [{"path": n, "uploadMode": modes[large[n]], "shouldIgnore": False} for n in names]}

    def batch(self, repo: str, _: str, sent: list[Any]) -> tuple[int, Any]:
        to = {
            file["oid"]: {"upload": {"href": f"{self.server.endpoint}/large/{file['oid']}"}}
            for file in sent[0]["objects"]
        }
        return 200, {
            "transfer": "basic",
            "objects": [file | {"actions": to[file["oid"]]} for file in sent[0]["objects"]],
        }

    def commit(self, repo: str, branch: str, sent: list[Any]) -> tuple[int, Any]:
        header, files = sent[0]["value"], {}
        for line in sent[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            files[value["path"]] = self.server.large[value["oid"]] if large else base64.b64decode(value["content"])
        place = repo if branch == "main" else f"{repo}@{branch}"
        self.server.files |= {(place, name): content for name, content in files.items()}
        self.server.files.setdefault((repo, ".gitattributes"), b"")  # what a new repository has
        self.server.commits.append((place, header["summary"], sorted(files)))
        oid = self.server.heads[place] = hashlib.sha1(repr(self.server.commits).encode()).hexdigest()
        return 200, {"commitUrl": f"{self.server.endpoint}/{repo}/commit/{oid}", "commitOid": oid}

    def validate(self, card: str) -> None:
        """As far as it matters here: the facts in front are a table, and a licence is called as the hub calls it."""
        facts = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
        licence = facts.get("license", "other")
        wrong = (
            [] if licence in ("apache-2.0", "mit", "cc-by-4.0", "other") else [{"message": '"license" must be one of'}]
        )
        self.reply(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def body(self) -> bytes:
        """What was sent, at once or in pieces."""
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def reply(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def json_lines(text: bytes) -> list[Any]:
    """A commit is one JSON value a line, everything else one value."""
    return [json.loads(line) for line in text.splitlines()]
