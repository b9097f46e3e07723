"""Every guard, beside the attack that it keeps out: the attack succeeds where the guard is left out. Real sockets."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from nextscale.errors import InputError
from nextscale.recipe import Recipe
from nextscale.serve import front, media
from nextscale.serve.front import Front
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
from nextscale.serve.schema import Generation
from nextscale.serve.service import Service
from tests.serve.conftest import Start, until
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


ENDLESS = 1 << 60
"""Instead of a limit, where it is left out."""


def bomb(side: int = 5000) -> bytes:
    """A PNG of some kilobytes and 25 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side * (side + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def many_scans(times: int = 100) -> bytes:
    """A progressive JPEG whose scans are repeated, each of which costs a pass over the picture."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * times + content[-2:]


@pytest.mark.parametrize(("attack", "said"), [(bomb, "at most 16,000,000"), (many_scans, "scans; expected at most 64")])
def test_an_upload_is_measured_before_it_is_decoded(
    guarded: str, attack: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its limits the service decodes whatever comes, for many times as long as it takes to refuse that."""
    content = attack()
    with monkeypatch.context() as bare:
        bare.setattr(media, "MOST_PIXELS", ENDLESS)
        bare.setattr(media, "MOST_SCANS", ENDLESS)
        start = time.thread_time()
        assert media.opened(content, "image").width > 100
        decoding = time.thread_time() - start
    start = time.thread_time()
    with pytest.raises(InputError, match=said):
        media.opened(content, "image")
    assert time.thread_time() - start < decoding / 5
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


@pytest.mark.parametrize(("queue", "refused"), [(ENDLESS, 0), (2, 2)])
def test_more_than_may_wait_is_refused_before_it_is_read(idle: Start, queue: int, refused: int) -> None:
    """However long it takes to understand a request, no more of them lie in memory than may wait; without the bound of
    the queue as many do as are sent.
    """
    running, busy = idle(queue=queue), threading.Event()
    service = running.service

    async def crowd() -> list[httpx.Response]:
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            loop.run_in_executor(service._thinking, busy.wait)
            asked = [asyncio.ensure_future(client.post("/v1/plan", json={"class_labels": 0})) for _ in range(4)]
            await until(lambda: sum(one.done() for one in asked) == refused and service._thoughts == 4 - refused)
            busy.set()
            return await asyncio.gather(*asked)

    answers = sorted(asyncio.run(crowd()), key=lambda one: one.status_code)
    assert [one.status_code for one in answers] == [200] * (4 - refused) + [429] * refused
    if refused:
        assert "2 requests wait to be read already" in answers[-1].json()["error"]["message"]


def test_the_queue_has_an_end(idle: Start) -> None:
    """Without one, whatever is sent waits, and whoever comes later waits behind it."""
    face = {"class_labels": "face", "n": 10, "deadline": 0.5}

    async def crowd(queue: int) -> tuple[int, list[int]]:
        running = idle(queue=queue)
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            asked = [asyncio.ensure_future(client.post("/v1/images/generations", json=face)) for _ in range(20)]
            longest = 0
            while not all(one.done() for one in asked):
                longest = max(longest, running.counts[1])
                await asyncio.sleep(0.01)
            return longest, [one.result().status_code for one in asked]

    longest, answers = asyncio.run(crowd(ENDLESS))
    assert longest > 30
    assert set(answers) == {504}, "all of them waited for their turn"
    longest, answers = asyncio.run(crowd(30))
    assert longest <= 30
    assert set(answers) == {429, 504}


PART = b'--x\r\ncontent-disposition: form-data; name="image"; filename="image.png"\r\n\r\n'


class Upload:
    """A form of about 2 MiB that is not sent to its end."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        body = PART + b"x" * (2 << 20) + b"\r\n--x--\r\n"
        head = (
            f"POST /v1/recipe HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: {len(body)}\r\n"
            "content-type: multipart/form-data; boundary=x\r\n\r\n"
        )
        self.rest, self.socket = body[-4:], socket.create_connection((host, int(port)), timeout=60)
        with suppress(ConnectionError):  # refused before all of it was sent
            self.socket.sendall(head.encode() + body[:-4])

    def status(self, whole: bool = True) -> int | None:
        """That of the answer, None where there is none."""
        with self.socket, suppress(ConnectionError, TimeoutError):
            if whole:
                self.socket.sendall(self.rest)
            return int(self.socket.recv(100).split()[1])
        return None


def test_bodies_that_are_read_at_once_are_bounded(idle: Start) -> None:
    """Each is no larger than it may be, and none comes to its end; what is refused is let go of, and so is what was
    answered.
    """
    for checks, full in ((without(check_size), False), (CHECKS, True)):
        url = idle(checks, bodies=5 << 20).url
        answers = [one.status() for one in [Upload(url) for _ in range(4)]]
        assert (429 in answers) == full
        assert 400 in answers, "what was read to its end is no picture"
        assert [Upload(url).status() for _ in range(4)] == [400] * 4


def test_a_body_that_does_not_end_is_waited_for_as_long_as_a_request_may_take(idle: Start) -> None:
    """Without the guard it is held as long as its client likes."""
    uploads = [Upload(idle(checks, deadline=0.2).url) for checks in (without(check_size), CHECKS)]
    assert uploads[1].status(whole=False) == 408
    uploads[0].socket.settimeout(0.2)
    assert uploads[0].status(whole=False) is None


def test_what_is_no_picture_is_400(guarded: str) -> None:
    for content in (b"GIF89a", b"%!PS-Adobe", b"", b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"<svg/>"):
        for address in ("/v1/images/edits", "/v1/recipe"):
            answer = httpx.post(guarded + address, files={"image": content})
            assert answer.status_code == 400
            assert "image" in answer.json()["error"]["message"]


def waits(url: str, body: dict[str, Any]) -> bool:
    """Whether a generation is let in, to wait for its turn; else it is refused."""
    answer = httpx.post(f"{url}/v1/images/generations", json={**body, "deadline": 0.05}, timeout=60)
    assert answer.status_code in (400, 404, 504), answer.text
    return answer.status_code == 504


def test_a_prompt_is_measured_before_its_words_are_looked_for(
    guarded: str, fronts: list[Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its words is compared with all that are known."""
    body: dict[str, Any] = {"prompt": " ".join(f"w{i}" for i in range(2000))}

    def seconds(said: str) -> float:
        start = time.thread_time()
        with pytest.raises(InputError, match=said):
            fronts[0].understood(Generation(**body))
        return time.thread_time() - start

    with monkeypatch.context() as bare:
        bare.setattr(front, "LONGEST_OF_CLASSES", ENDLESS)
        looking = seconds("no class is known")
    assert seconds("prompt has 10,889 letters; expected at most 500") < looking / 10
    assert not waits(guarded, body)


def test_a_plan_is_checked_and_priced_before_it_waits(
    guarded: str, fronts: list[Front], idle: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check a plan of thousands of candidates for each prompt waits to be drawn, and one that names a part
    to keep, or a source to see, by any name; without the limits so does one that takes more memory, computing or time
    than there is.
    """
    plan = fronts[0].pipe.plan().to_dict()
    attacks: list[dict[str, Any]] = [
        {**plan, "candidates": 5000},
        {**plan, "rows": [{**row, "keep": "/etc/passwd"} for row in plan["rows"]]},
        {**plan, "branches": [["/etc/passwd"], []]},
    ]
    with monkeypatch.context() as bare:
        bare.setattr(Front, "_checked", lambda self, plan, edited: plan)
        bare.setattr(Service, "limit", lambda self, asked, images: 1)
        assert all(waits(guarded, {"class_labels": "face", "plan": one}) for one in attacks)
    assert not any(waits(guarded, {"class_labels": "face", "plan": one}) for one in attacks)
    limited = [idle(memory=1), idle(cost=0.5), idle()]
    limited[-1].service.flops_per_second = 1.0
    with monkeypatch.context() as bare:
        bare.setattr(Service, "limit", lambda self, asked, images: 1)
        assert all(waits(one.url, {"class_labels": "face"}) for one in limited)
    assert not any(waits(one.url, {"class_labels": "face"}) for one in limited)


def test_a_recipe_is_of_a_model_that_is_served_and_of_few_pictures(
    guarded: str, fronts: list[Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checks hundreds of pictures are let in by one request, and the recipe of another model, which names a
    file here, is drawn as though it were this one's.
    """
    made: dict[str, Any] = {"format": 2, "model": "tiny", "dtype": "float32", "plan": fronts[0].pipe.plan().to_dict()}
    many = {**made, "entries": [{"class": "face"}] * 200, "seeds": list(range(200))}
    foreign = {**made, "model": "/etc/passwd", "entry": {"class": "face"}, "seed": 1}
    attacks: list[dict[str, Any]] = [{"recipe": many}, {"recipe": foreign, "model": "tiny"}]
    with monkeypatch.context() as bare:
        bare.setattr(front, "MOST_PICTURES", ENDLESS)
        bare.setattr(Front, "recipe", lambda self, data: replace(Recipe.from_dict(data), model=self.id))
        bare.setattr(Service, "limit", lambda self, asked, images: 1)
        assert all(waits(guarded, one) for one in attacks)
    assert not any(waits(guarded, one) for one in attacks)


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
