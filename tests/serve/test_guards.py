"""Every guard, beside the attack that it keeps out: the attack succeeds where the guard is left out. Real sockets."""

from __future__ import annotations

import asyncio
import io
import logging
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from nextscale.errors import InputError
from nextscale.serve import media
from nextscale.serve.guards import (
    CHECKS,
    HEADERS,
    Check,
    check_host,
    check_key,
    check_origin,
    check_size,
    check_type,
)
from tests.serve.conftest import Start
from tests.serve.test_clients import holed, png

FACE = b'{"class_labels": "face"}'
JSON = {"content-type": "application/json"}


def without(check: Check) -> Sequence[Check]:
    return [one for one in CHECKS if one is not check]


def code(answer: httpx.Response) -> str | None:
    found: str | None = answer.json()["error"]["code"]
    return found


def test_a_name_that_was_pointed_here_is_refused(idle: Start, guarded: str) -> None:
    """DNS rebinding: a page of evil.example becomes same-origin with this server once its name resolves to it."""
    attack = {**JSON, "host": "evil.example:80", "origin": "http://evil.example:80"}
    open_ = idle(without(check_host)).url
    assert httpx.post(f"{open_}/v1/plan", content=FACE, headers=attack).status_code == 200
    refused = httpx.post(f"{guarded}/v1/plan", content=FACE, headers=attack)
    assert (refused.status_code, code(refused)) == (403, "wrong_host")
    assert httpx.post(f"{guarded}/v1/plan", content=FACE, headers=JSON).status_code == 200


def test_a_page_of_another_site_is_refused(idle: Start, guarded: str) -> None:
    """A form elsewhere can be posted here without being asked, and uploads a picture."""
    open_ = idle(without(check_origin)).url
    form: Any = {"files": {"image": png(holed())}, "data": {"prompt": "face", "deadline": "0.05"}}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        attack = {**form, "headers": {"origin": origin}}
        assert httpx.post(f"{open_}/v1/images/edits", **attack).status_code == 504  # it waited for its turn
        refused = httpx.post(f"{guarded}/v1/images/edits", **attack)
        assert (refused.status_code, code(refused)) == (403, "wrong_origin")
    own = httpx.post(f"{guarded}/v1/plan", content=FACE, headers={**JSON, "origin": guarded})
    assert own.status_code == 200


def test_json_that_says_it_is_something_else_is_refused(idle: Start, guarded: str) -> None:
    """These types need no leave of the server; a browser sends them for any page."""
    open_ = idle(without(check_type)).url
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        attack: Any = {"content": FACE, "headers": {"content-type": kind}}
        assert httpx.post(f"{open_}/v1/plan", **attack).status_code == 200
        refused = httpx.post(f"{guarded}/v1/plan", **attack)
        assert (refused.status_code, code(refused)) == (415, "wrong_content_type")


def test_a_key_is_needed_where_there_is_one(idle: Start) -> None:
    open_, guarded = idle(without(check_key), key="secret").url, idle(key="secret").url
    for address in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/v1/suggestions"):
        assert httpx.get(open_ + address).status_code == 200
        for given in ("Bearer wrong", "Basic secret", "secret", ""):
            refused = httpx.get(guarded + address, headers={"authorization": given} if given else {})
            assert (refused.status_code, code(refused)) == (401, "invalid_api_key")
        assert httpx.get(guarded + address, headers={"authorization": "Bearer secret"}).status_code == 200
    assert httpx.get(guarded).status_code == 200
    assert httpx.get(f"{guarded}/health").status_code == 503  # no worker, but no key either


def test_a_body_without_end_is_cut_off(idle: Start, guarded: str) -> None:
    """One that says its length, and one that does not."""
    open_ = idle(without(check_size)).url
    large = b'{"user": "' + b"x" * (2 << 20) + b'", "class_labels": "face"}'
    pieces = [large[i : i + 65536] for i in range(0, len(large), 65536)]
    for content in (large, pieces):
        answer = httpx.post(f"{open_}/v1/plan", content=iter(content) if content is pieces else content, headers=JSON)
        assert answer.status_code == 200
        refused = httpx.post(
            f"{guarded}/v1/plan", content=iter(content) if content is pieces else content, headers=JSON
        )
        assert (refused.status_code, code(refused)) == (413, "too_large")


def test_every_answer_forbids_frames_scripts_of_others_and_guesses_of_types(idle: Start, guarded: str) -> None:
    """Without these headers a page could be shown in another site's frame, and load what another site says."""
    bare = idle(headers={}).url
    for address in ("/", "/v1/models", "/nothing", "/v1/images/files/x.png"):
        assert not set(HEADERS) & set(httpx.get(bare + address).headers)
        assert HEADERS.items() <= dict(httpx.get(guarded + address).headers).items()
    refused = httpx.get(guarded, headers={"host": "evil.example"})
    assert HEADERS.items() <= dict(refused.headers).items()


def bomb(side: int = 5000) -> bytes:
    """A PNG of some kilobytes and 25 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side * (side + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def many_scans(times: int = 200) -> bytes:
    """A progressive JPEG whose scans are repeated, each of which costs a pass over the picture."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * times + content[-2:]


@pytest.mark.parametrize(("attack", "said"), [(bomb, "at most 16,000,000"), (many_scans, "scans; expected at most 64")])
def test_an_upload_is_measured_before_it_is_decoded(guarded: str, attack: Any, said: str) -> None:
    content = attack()
    assert len(content) < 1 << 20
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # decoded, whatever it costs
    start = time.thread_time()
    with pytest.raises(InputError, match=said):
        media.opened(content, "image")
    assert time.thread_time() - start < 0.1
    answer = httpx.post(f"{guarded}/v1/images/edits", files={"image": content}, data={"prompt": ""})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_prompts_stand_in_the_log_only_where_that_was_asked_for(
    idle: Start, guarded: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor can a path write lines of its own into it."""
    caplog.set_level(logging.INFO, "nextscale.serve")

    def logged(words: str) -> bool:
        """A line is written after its answer was sent."""
        end = time.monotonic() + 10
        while words not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        return words in caplog.text

    body = {"prompt": "grinning cat", "user": "somebody", "deadline": 0.05}
    assert httpx.post(f"{idle(log_prompts=True).url}/v1/images/generations", json=body).status_code == 504
    assert logged("grinning cat")
    assert logged("504 refused")
    caplog.clear()
    assert httpx.post(f"{guarded}/v1/images/generations?prompt=grinning", json=body).status_code == 504
    assert httpx.get(f"{guarded}/x%0agrin").status_code == 404
    assert logged("POST /v1/images/generations 504 refused")
    assert logged("GET '/x\\ngrin' 404 refused")
    assert not any(word in caplog.text for word in ("grinning", "somebody"))


def test_more_than_may_wait_is_refused_before_it_is_read(idle: Start) -> None:
    """However long it takes to understand a request, no more of them lie in memory than may wait."""
    running, busy = idle(queue=2), threading.Event()

    async def crowd() -> list[httpx.Response]:
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            loop.run_in_executor(running.service._thinking, busy.wait)
            asked = [asyncio.ensure_future(client.post("/v1/plan", json={"class_labels": 0})) for _ in range(3)]
            while not any(one.done() for one in asked):
                await asyncio.sleep(0.01)
            busy.set()
            return await asyncio.gather(*asked)

    answers = sorted(asyncio.run(crowd()), key=lambda one: one.status_code)
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert "2 requests wait to be read already" in answers[-1].json()["error"]["message"]


def test_what_is_no_picture_is_400(guarded: str) -> None:
    for content in (b"GIF89a", b"%!PS-Adobe", b"", b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"<svg/>"):
        for address in ("/v1/images/edits", "/v1/recipe"):
            answer = httpx.post(guarded + address, files={"image": content})
            assert answer.status_code == 400
            assert "image" in answer.json()["error"]["message"]


IMAGE = ("image", png(holed().convert("RGB")))


@pytest.mark.parametrize(
    ("files", "fields", "said"),
    [
        ([IMAGE, IMAGE], {}, "2 files image were given; expected one"),
        ([("image[]", IMAGE[1]), ("image[]", IMAGE[1])], {}, "2 files image were given; expected one"),
        ([IMAGE, ("picture", IMAGE[1])], {}, "the form has a file 'picture'"),
        ([IMAGE], {}, "nothing says where to paint; expected a mask"),
        ([IMAGE, ("mask", IMAGE[1])], {}, "mask has no transparent pixels"),
        ([IMAGE, ("mask", png(holed().resize((8, 8))))], {}, "mask"),
        ([IMAGE], {"box": "[0, 0, 99, 1]"}, "box"),
        ([IMAGE], {"box": "[0, 0, 2, 2]", "outpaint": '{"left": 4}'}, "box and outpaint were given; expected one"),
        ([IMAGE], {"n": "2", "n[]": ["3"]}, "the form gives 'n' twice"),
        ([IMAGE], {"n": ["2", "3"]}, "the form gives 'n' twice"),
        ([IMAGE], {"input_fidelity": "high"}, "there is no field 'input_fidelity'"),
    ],
)
def test_an_edit_that_cannot_be_is_one_sentence(guarded: str, files: Any, fields: Any, said: str) -> None:
    answer = httpx.post(f"{guarded}/v1/images/edits", files=files, data={"prompt": "face", **fields})
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True), answer.text


def test_a_plan_names_nothing_that_is_not_served(guarded: str, tmp_path: Path) -> None:
    """Neither a model, a calibration, nor a part to keep; nothing is looked for on the disk."""
    url = guarded
    plan = httpx.post(f"{url}/v1/plan", json={"class_labels": "face"}).json()["plan"]
    secret = tmp_path / "secret.safetensors"
    memory = {**plan["memories"]["model"], "calibration": str(secret)}
    rows = plan["rows"]
    attacks = [
        {**plan, "memories": {"model": memory}},
        {**plan, "rows": [{**row, "model": str(secret)} for row in rows], "memories": {}},
        {**plan, "rows": [{**row, "keep": str(secret)} for row in rows]},
        {**plan, "candidates": 5000},
        {**plan, "branches": [[str(secret)], []]},
        {**plan, "rows": rows * 50},
    ]
    recipe = {
        "format": 2,
        "model": str(secret),
        "dtype": "float32",
        "entry": {"class": "face"},
        "seed": 1,
        "plan": plan,
    }
    answer = httpx.post(f"{url}/v1/images/generations", json={"recipe": recipe})
    assert (answer.status_code, code(answer)) == (404, "model_not_found")
    for one in attacks:
        answer = httpx.post(f"{url}/v1/images/generations", json={"class_labels": "face", "plan": one}, timeout=60)
        assert answer.status_code == 400, one
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"prompt": 3}', b'{"prompt": "a", "prompt": "b"}', b"\xff\xfe",
        b"[" * 100_000,
        b'{"class_labels": "face", "n": true}',
        b'{"class_labels": {"a": 1}}', b'{"class_labels": "face", "top_k": 1e400}',
        b'{"class_labels": "face", "seed": ' + b"9" * 5000 + b"}", b'{"class_labels": "face", "plan": {"rows": [[]]}}',
        b'{"class_labels": "face", "methods": [{"name": "os.system"}]}',
        b'{"class_labels": "face", "methods": [{"name": "snapkv", "budget": 0.5, "window": "a"}]}',
        b'{"class_labels": "face", "methods": [{"name": "h2o", "budget": [], "model": {}}]}',
        b'{"class_labels": "face", "deadline": -1}',
        b'{"class_labels": "face", "recipe": {"format": 2}}', b'{"prompt": "' + b"a " * 20_000 + b'"}',
        b'{"class_labels": "face", "stream": true, "partial_images": 4}', b'{"class_labels": "face", "size": "0x0"}',
        b'{"class_labels": ["face", 1, 2, 3, 4, 0], "n": 2}', b'{"class_labels": "face", "partial_images": 2}',
        b'{"class_labels": "face", "moderation": "low"}', b'{"class_labels": "face", "response_format": "json"}',
        b'{"class_labels": "face", "quality": "high"}', b'{"class_labels": "face", "output_compression": 50}',
        b'{"class_labels": "face", "stream": true, "response_format": "url"}', b'{"class_labels": "face", "size": 96}',
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(guarded: str, body: bytes) -> None:
    answer = httpx.post(f"{guarded}/v1/images/generations", content=body, headers=JSON)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) <= 1000
    assert "\n" not in error["message"]


def test_bad_words_in_an_address_are_one_sentence(guarded: str) -> None:
    for query in ("limit=0", "limit=101", "limit=%C2%B2", f"limit={'9' * 5000}", "limit=", "model=none"):
        answer = httpx.get(f"{guarded}/v1/suggestions?{query}")
        assert (answer.status_code, answer.json()["error"]["type"]) in [
            (n, "invalid_request_error") for n in (400, 404)
        ]
