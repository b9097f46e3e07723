"""What clients get: answers with all pictures, and streams of server-sent events, in OpenAI's fields and ours."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nextscale.recipe import shown
from nextscale.scales import Size
from nextscale.serve import media
from nextscale.serve.batching import Job, scales_shown
from nextscale.serve.errors import Refused
from nextscale.serve.front import Asked, Front
from nextscale.serve.guards import Receive, Scope, Send
from nextscale.serve.schema import Generation, size_text
from nextscale.serve.service import Service
from nextscale.serve.store import Store
from nextscale.serve.worker import Pixels


@dataclass(eq=False)
class Drawing:
    """A request that is drawn. kind: what its events are called; base: the address of this server; grown: of pictures
    whose growth is kept, by picture what it looked like after every scale so far.
    """

    service: Service
    job: Job
    front: Front
    body: Generation
    kind: str
    store: Store
    base: str
    grown: dict[int, list[Pixels]] = field(default_factory=dict)
    partial: dict[int, int] = field(default_factory=dict)

    @property
    def asked(self) -> Asked:
        return self.job.asked

    @property
    def format(self) -> str:
        """The format of finished pictures."""
        return self.body.output_format or "png"

    @property
    def tokens(self) -> int:
        """Tokens that a picture is drawn in."""
        return sum(row.size[0] * row.size[1] for row in self.asked.plan.rows)

    def usage(self, pictures: int) -> dict[str, Any]:
        """Tokens read and drawn."""
        read = 0 if self.asked.edit is None else pictures * self.asked.plan.schedule.tokens
        drawn = pictures * self.tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {"text_tokens": 0, "image_tokens": read},
            "output_tokens": drawn,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
            "total_tokens": read + drawn,
        }

    def about(self, i: int) -> dict[str, Any]:
        """What was drawn, in words."""
        entry = self.asked.entries[i]
        told = ", ".join(shown({"entry": entry}).values())
        return {"revised_prompt": told, "seed": self.asked.seeds[i], "index": i}

    async def events(self) -> AsyncIterator[tuple[str, int, Any]]:
        """What becomes of the pictures until all are drawn. Raises ``Refused`` where that fails."""
        left = len(self.asked.entries)
        while left:
            what, i, content = await self.job.events.get()
            if what == "failed":
                raise content
            left -= what == "drawn"
            yield what, i, content

    async def file(self, i: int, pixels: Pixels) -> tuple[bytes, Size]:
        """Finished picture i as a file, and its size."""
        return await self.service.encode(self._file, i, pixels)

    async def still(self, pixels: Pixels) -> tuple[bytes, Size]:
        """A picture that grows, as a file."""
        return await self.service.encode(self._still, pixels)

    def keep(self, i: int, pixels: Pixels) -> None:
        """What an animation shows of picture i."""
        self.grown.setdefault(i, []).append(pixels)

    def _file(self, i: int, pixels: Pixels) -> tuple[bytes, Size]:
        image = media.finished(pixels, self.asked)
        size = (image.height, image.width)
        if self.format == "gif":
            frames = [media.finished(one, self.asked) for one in self.grown.pop(i, [])]
            return media.growing([*frames, image]), size
        recipe = None
        if self.format == "png":
            ready = self.service.devices[0].ready
            assert ready is not None
            recipe = media.recipe_of(self.asked, i, self.front, ready.device, ready.dtype)
        return media.encoded(image, self.format, self.quality, recipe), size

    def _still(self, pixels: Pixels) -> tuple[bytes, Size]:
        image = media.finished(pixels, self.asked)
        return media.encoded(image, self.still_format, self.quality), (image.height, image.width)

    @property
    def still_format(self) -> str:
        """The format of partial pictures."""
        return "png" if self.format == "gif" else self.format

    @property
    def quality(self) -> int:
        return 100 if self.body.output_compression is None else self.body.output_compression


async def answer(drawing: Drawing, request: Request) -> Response:
    """All pictures at once; nothing for a client that went away."""
    drawn = asyncio.ensure_future(_all(drawing))
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({drawn, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not drawn.done():
            request.scope["outcome"] = "cancelled"
            return Response(status_code=499)
        return JSONResponse(drawn.result())
    finally:
        drawn.cancel()
        gone.cancel()
        drawing.service.leave(drawing.job)


async def _all(drawing: Drawing) -> dict[str, Any]:
    files: dict[int, asyncio.Future[tuple[bytes, Size]]] = {}
    async for what, i, content in drawing.events():
        if what == "grown":
            drawing.keep(i, content[1])
        else:
            files[i] = asyncio.ensure_future(drawing.file(i, content))
    found = [await files[i] for i in sorted(files)]
    data = []
    for i, (content, _) in enumerate(found):
        if drawing.body.response_format == "url":
            where = {"url": f"{drawing.base}/v1/images/files/{drawing.store.add(content, drawing.format)}"}
        else:
            where = {"b64_json": base64.b64encode(content).decode()}
        data.append({**where, **drawing.about(i)})
    return {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": drawing.format,
        "size": size_text(found[0][1]),
        "data": data,
        "usage": drawing.usage(len(data)),
        "model": drawing.front.id,
        "warnings": drawing.asked.warnings,
    }


class Stream(Response):
    """The events of a drawing, with a comment where nothing happens for long. It ends with the drawing or when the
    client goes away, whichever is first.
    """

    def __init__(self, drawing: Drawing) -> None:
        super().__init__(headers={"cache-control": "no-store"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self.drawing = drawing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(receive))
        events = self._events()
        following: asyncio.Future[Any] = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                seconds = self.drawing.service.settings.keep_alive
                done, _ = await asyncio.wait({following, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if gone in done:
                    scope["outcome"] = "cancelled"
                    return
                text = following.result() if done else b": keep-alive\n\n"
                if text is None:
                    break
                await send({"type": "http.response.body", "body": text, "more_body": True})
                if done:
                    following = asyncio.ensure_future(anext(events, None))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Refused as refused:
            scope["outcome"] = "failed"
            await send({"type": "http.response.body", "body": event("error", refused.body), "more_body": False})
        finally:
            gone.cancel()
            following.cancel()
            self.drawing.service.leave(self.drawing.job)

    async def _events(self) -> AsyncIterator[bytes]:
        drawing, scales = self.drawing, len(self.drawing.asked.plan.rows)
        partial = scales_shown(drawing.body.partial_images, scales)
        async for what, i, content in drawing.events():
            common = {"background": "opaque", "created_at": int(time.time()), "quality": "auto", "scales": scales}
            if what == "drawn":
                file, size = await drawing.file(i, content)
                more = {
                    "usage": drawing.usage(1),
                    "output_format": drawing.format,
                    "scale": scales - 1,
                    **drawing.about(i),
                }
                more |= {"model": drawing.front.id, "warnings": drawing.asked.warnings}
                yield event(f"{drawing.kind}.completed", {**_picture(file, size), **common, **more})
                continue
            k, pixels = content
            if drawing.format == "gif":
                drawing.keep(i, pixels)
            if k not in partial:
                continue
            file, size = await drawing.still(pixels)
            number = drawing.partial.get(i, 0)
            drawing.partial[i] = number + 1
            more = {"partial_image_index": number, "index": i, "scale": k, "seed": drawing.asked.seeds[i]}
            more |= {"output_format": drawing.still_format}
            yield event(f"{drawing.kind}.partial_image", {**_picture(file, size), **common, **more})


def event(kind: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _picture(content: bytes, size: Size) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(content).decode(), "size": size_text(size)}


async def _gone(receive: Receive) -> None:
    """Ends when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
