"""The examples of each client run against a server and leave the pictures they promise; so do a page's files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.serve.conftest import Running, Start

EXAMPLES = Path(__file__).parents[2] / "examples" / "serve"
PROGRAMS = {"draw.sh": "sh", "draw.py": sys.executable, "draw.mjs": "node"}
LEFT = {
    "draw.sh": ["cat.png", "edited.png"],
    "draw.py": ["cat-0.png", "cat-1.png", "edited.png"],
    "draw.mjs": ["scale-3.png"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_draws(server: Running, name: str, tmp_path: Path) -> None:
    if shutil.which(PROGRAMS[name]) is None or (name == "draw.sh" and shutil.which("curl") is None):
        pytest.skip(f"{PROGRAMS[name]} is not installed")
    command = [PROGRAMS[name], str(EXAMPLES / name), server.url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in LEFT[name]:
        with Image.open(tmp_path / file) as drawn:
            assert drawn.size == ((32, 16) if file == "edited.png" else (16, 16))


def test_the_page_and_its_files_are_served_and_nothing_beside_them(idle: Start, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<!doctype html><title>here</title>")
    (page / "app.js").write_text("'use strict'")
    (page / "notes.py").write_text("secret = 1")
    (tmp_path / "secret.txt").write_text("secret")
    url = idle(page=page).url
    assert "here" in httpx.get(url).text
    assert httpx.get(f"{url}/page/app.js").headers["content-type"].startswith("text/javascript")
    for name in ("notes.py", "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "none.js", ""):
        assert httpx.get(f"{url}/page/{name}").status_code == 404


def test_what_a_page_asks_for(http: httpx.Client) -> None:
    """Suggestions, prices and recipes."""
    found = http.get("/v1/suggestions", params={"text": "cat"}).json()["data"]
    assert found == [{"text": "grinning cat", "kind": "name", "class": "face", "styles": []}]
    assert [one["text"] for one in http.get("/v1/suggestions", params={"limit": 2}).json()["data"]] == [
        "animal",
        "face",
    ]
    told = http.post("/v1/plan", json={"n": 3}).json()
    assert (told["images"], told["entries"], len(told["rows"])) == (3, [], 6)
    assert told["peak_memory"] > told["weights"] > 0
    drawn = http.post("/v1/images/generations", json={"class_labels": 4, "n": 1, "seed": 3, "response_format": "url"})
    png = http.get(drawn.json()["data"][0]["url"]).content
    recipe = http.post("/v1/recipe", files={"image": png}).json()
    assert (recipe["object"], recipe["pictures"], recipe["edit"]) == ("recipe", 1, None)
    for body in ({"recipe": recipe["recipe"]}, recipe["request"]):
        again = http.post("/v1/images/generations", json={**body, "response_format": "url"}).json()
        assert http.get(again["data"][0]["url"]).content == png
