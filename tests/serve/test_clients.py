"""OpenAI's own client draws, streams, edits and lists, and raises its own errors, sync and async; real sockets."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from nextscale.pictures import read_recipe
from nextscale.pipeline import Pipeline
from nextscale.serve.store import Store
from tests.serve.conftest import Running, Start, until

OPEN: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def client(url: str, **settings: Any) -> openai.OpenAI:
    OPEN.append(openai.OpenAI(base_url=f"{url}/v1", api_key="any", **{"max_retries": 0, **settings}))
    return OPEN[-1]


def both(url: str, call: Any) -> list[Any]:
    """What a call gives by the sync and by the async client; streams are read to their ends."""

    async def later() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as found:
            answer = await call(found)
            return [event async for event in answer] if hasattr(answer, "__aiter__") else answer

    now = call(client(url))
    return [list(now) if isinstance(now, openai.Stream) else now, asyncio.run(later())]


def picture(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def holed() -> Image.Image:
    """A picture of 16x16 pixels with a hole."""
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[4:12, 4:12, 3] = 0
    return Image.fromarray(pixels)


def same(image: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


@pytest.mark.filterwarnings("ignore:'grinning cat' is drawn as")
def test_generate_draws_what_the_pipeline_draws(server: Running, pipes: dict[str, Pipeline], tmp_path: Any) -> None:
    wanted = pipes["tiny"](prompt="grinning cat", num_images=2, seed=5)
    for answer in both(server.url, lambda c: c.images.generate(prompt="grinning cat", n=2, extra_body={"seed": 5})):
        assert [same(picture(one.b64_json), image) for one, image in zip(answer.data, wanted, strict=True)] == [
            True
        ] * 2
        assert (answer.size, answer.output_format, answer.background) == ("16x16", "png", "opaque")
        assert answer.usage.output_tokens == answer.usage.total_tokens == 2 * (1 + 4 + 9 + 16)
        assert [one.revised_prompt for one in answer.data] == ["face"] * 2
        (tmp_path / "one.png").write_bytes(base64.b64decode(answer.data[1].b64_json))
        recipe = read_recipe(tmp_path / "one.png")
        assert recipe == json.loads(json.dumps({**wanted.recipe_of(1), "revision": recipe["revision"]}))


def test_a_stream_sends_pictures_as_they_grow(server: Running, pipes: dict[str, Pipeline]) -> None:
    scales = [event.images()[0] for event in pipes["tiny"].stream("face", seed=5)]

    def call(c: Any) -> Any:
        extra = {"class_labels": "face", "seed": 5}
        return c.images.generate(prompt="", stream=True, partial_images=2, extra_body=extra)

    for events in both(server.url, call):
        assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + [
            "image_generation.completed"
        ]
        assert [event.partial_image_index for event in events[:2]] == [0, 1]
        assert [event.scale for event in events] == [0, 2, 3]
        assert all(same(picture(event.b64_json), scales[event.scale]) for event in events)
        assert events[-1].usage.output_tokens == 30
        for event in events:  # every field that the client's type requires is there, and of its type
            type(event).model_validate(event.model_dump())
    every: Any = client(server.url).images.generate(
        prompt="", n=2, stream=True, extra_body={"class_labels": "face", "seed": 5, "partial_images": "all"}
    )
    assert sorted((event.index, event.scale) for event in every) == [(i, k) for i in range(2) for k in range(4)]


def test_edit_and_stream_an_edit(server: Running, pipes: dict[str, Pipeline]) -> None:
    image, pipe = holed(), pipes["tiny"]
    hole = np.asarray(image)[..., 3] == 0
    (wanted,) = pipe.edit(image.convert("RGB"), "face", mask_image=hole, seed=7)

    def edit(c: Any, **more: Any) -> Any:
        return c.images.edit(image=("a.png", png(image)), prompt="face", extra_body={"seed": 7}, **more)

    for answer in both(server.url, edit):
        assert same(picture(answer.data[0].b64_json), wanted)
    mask = Image.fromarray(np.where(hole, 0, 255).astype(np.uint8)).convert("RGBA")
    mask.putalpha(Image.fromarray(np.where(hole, 0, 255).astype(np.uint8)))
    plain = png(image.convert("RGB"))
    for answer in both(
        server.url,
        lambda c: c.images.edit(
            image=[("a.png", plain)], mask=("m.png", png(mask)), prompt="face", extra_body={"seed": 7}
        ),
    ):
        assert same(picture(answer.data[0].b64_json), wanted)
    for events in both(server.url, lambda c: edit(c, stream=True, partial_images=1)):
        assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
        assert same(picture(events[-1].b64_json), wanted)
        for event in events:
            type(event).model_validate(event.model_dump())


def test_models_are_listed_and_retrieved(server: Running) -> None:
    for page in both(server.url, lambda c: c.models.list()):
        assert [model.id for model in (page.data if hasattr(page, "data") else page)] == ["tiny", "styles", "free"]
    for model in both(server.url, lambda c: c.models.retrieve("styles")):
        assert (model.id, model.object, model.owned_by) == ("styles", "model", "nextscale")
        assert (model.kind, model.styles, model.size) == ("class-conditional", ["noto", "twemoji", "openmoji"], "16x16")


@pytest.mark.parametrize(
    ("asked", "error", "said", "param"),
    [
        ({"prompt": "face", "n": 0}, openai.BadRequestError, "n is 0; expected 1 to 10", "n"),
        ({"prompt": "face", "n": 11}, openai.BadRequestError, "n is 11; expected 1 to 10", "n"),
        ({"prompt": "face", "model": "dall-e-3"}, openai.NotFoundError, "tiny, styles, free", "model"),
        ({"prompt": "face", "quality": "hd"}, openai.BadRequestError, "expected 'auto' or 'standard'", "quality"),
        ({"prompt": "face", "style": "vivid"}, openai.BadRequestError, "has no styles", None),
        ({"prompt": "face", "size": "1024x1024"}, openai.BadRequestError, "16x16 pixels", "size"),
        ({"prompt": "xyzzy"}, openai.BadRequestError, "no class is known for 'xyzzy'", None),
        ({"prompt": "face", "extra_body": {"steeps": 3}}, openai.BadRequestError, "did you mean steps?", "steeps"),
        ({"prompt": "face", "extra_body": {"seed": -1.5}}, openai.BadRequestError, "seed is -1.5", "seed"),
        ({"prompt": "face", "background": "transparent"}, openai.BadRequestError, "background is", "background"),
    ],
)
def test_a_wrong_request_raises_the_clients_own_error(
    server: Running, asked: dict[str, Any], error: type[openai.APIStatusError], said: str, param: str | None
) -> None:
    """And the service goes on."""
    with pytest.raises(error) as caught:
        client(server.url).images.generate(**asked)
    assert said in str(caught.value)
    assert caught.value.param == param


def test_a_full_queue_and_a_deadline_raise_in_the_client(idle: Start) -> None:
    """Nothing is drawn here: two pictures wait, and the third is one too many."""
    running = idle(queue=2)
    face = {"class_labels": "face"}

    async def crowd() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as found:
            waiting = asyncio.ensure_future(found.images.generate(prompt="", n=2, extra_body=face))
            await until(lambda: running.counts == (0, 2))
            late = found.images.generate(prompt="", extra_body=face)
            full = await asyncio.gather(late, return_exceptions=True)
            for picture in running.service.waiting._pictures:
                picture.job.end = 0.0
            return [*await asyncio.gather(waiting, return_exceptions=True), *full]

    deadline, full = asyncio.run(crowd())
    assert isinstance(full, openai.RateLimitError)
    assert 1 <= int(full.response.headers["retry-after"]) <= 60
    assert full.response.headers["x-should-retry"] == "true"
    assert isinstance(deadline, openai.InternalServerError)
    assert (deadline.status_code, deadline.code) == (504, "deadline")
    assert deadline.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.InternalServerError):  # obeyed: the client asks once, though it would ask three times
        client(running.url, max_retries=2).images.generate(prompt="", extra_body={**face, "deadline": 0.05})
    counted = httpx.get(f"{running.url}/metrics").text
    assert 'nextscale_requests_total{endpoint="/v1/images/generations",outcome="refused"} 3.0' in counted


def test_an_error_in_mid_stream_raises_in_the_client_after_comments(idle: Start) -> None:
    running = idle(deadline=0.5, keep_alive=0.02)
    body = {"class_labels": "face", "stream": True}
    with pytest.raises(openai.APIError, match=r"within 0\.5 seconds"):
        list(client(running.url).images.generate(prompt="", stream=True, extra_body={"class_labels": "face"}))
    with httpx.stream("POST", f"{running.url}/v1/images/generations", json=body) as answer:
        text = "".join(answer.iter_text())
    assert answer.status_code == 200
    assert text.count(": keep-alive\n\n") >= 2
    assert text.split("\n\n")[-2].startswith("event: error\ndata: {")


def test_a_picture_that_is_wider_than_high(http: httpx.Client) -> None:
    """OpenAI says WIDTHxHEIGHT, and Python height first."""
    answer = http.post("/v1/images/generations", json={"model": "free", "class_labels": 1, "size": "96x64"}).json()
    assert answer["size"] == "96x64"
    assert picture(answer["data"][0]["b64_json"]).size == (96, 64)
    told = http.post("/v1/plan", json={"model": "free", "class_labels": 1, "size": "96x64"}).json()
    assert (told["size"], told["scales"][-1]) == ("96x64", [16, 24])


def test_formats_and_addresses(http: httpx.Client) -> None:
    asked = {"class_labels": "face", "seed": 3}
    for kind, more in (("webp", {}), ("jpeg", {"output_compression": 60}), ("gif", {}), ("png", {})):
        body = {**asked, **more, "output_format": kind, "response_format": "url"}
        (one,) = http.post("/v1/images/generations", json=body).json()["data"]
        file = http.get(one["url"])
        assert file.headers["content-type"] == f"image/{kind}"
        image = Image.open(io.BytesIO(file.content))
        assert (image.format, image.size, getattr(image, "n_frames", 1)) == (
            kind.upper(),
            (16, 16),
            4 if kind == "gif" else 1,
        )
    assert http.get("/v1/images/files/other.png").status_code == 404
    edit: Any = {"data": {"prompt": "face", "output_format": "gif"}, "files": {"image": png(holed())}}
    (one,) = http.post("/v1/images/edits", **edit).json()["data"]
    growth = picture(one["b64_json"])
    assert growth.n_frames == 4  # type: ignore[attr-defined]
    outside = np.asarray(growth.convert("RGB"))[0, :, :].astype(int) - np.asarray(holed().convert("RGB"))[0]
    assert abs(outside).mean() < 40  # the picture around the hole, as well as a GIF's colours show it


def test_an_address_is_forgotten_after_a_while_or_where_there_are_too_many() -> None:
    store = Store(60.0, 10)
    first = store.add(b"12345678", "png")
    assert store.get(first) == b"12345678"
    second = store.add(b"123", "png")
    assert (store.get(first), store.get(second), store.bytes) == (None, b"123", 3)
    store.seconds = -1.0
    third = store.add(b"1234", "png")
    assert (store.get(third), len(first) > 32, first != second) == (None, True, True)
    assert Store(-1.0, 10).get(third) is None
