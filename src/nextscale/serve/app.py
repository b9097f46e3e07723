"""The endpoints."""

from __future__ import annotations

import html
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from nextscale import __version__
from nextscale.errors import InputError, NextscaleError, one_line, quoted
from nextscale.serve import media
from nextscale.serve.answers import Drawing, Stream, answer
from nextscale.serve.batching import scales_shown
from nextscale.serve.errors import Refused, bad_value, failed
from nextscale.serve.front import Asked, Front
from nextscale.serve.guards import CHECKS, HEADERS, Check, Guard, Receive, Scope, Send
from nextscale.serve.schema import Generation, Painting, read_form, read_json
from nextscale.serve.service import Service
from nextscale.serve.settings import MOST_JSON
from nextscale.serve.store import Store
from nextscale.serve.told import model_told, plan_told, recipe_told, suggestions

PAGE = Path(__file__).parent / "page"
PAGE_FILES = re.compile(r"[\w-]+(\.[\w-]+)*\.(js|css|svg|png|webmanifest|txt|html)")
FIELDS = tuple(Painting.model_fields)
log = logging.getLogger("nextscale.serve")


def create_app(
    service: Service, checks: Sequence[Check] = CHECKS, headers: Mapping[str, str] = HEADERS, page: Path = PAGE
) -> Any:
    """The ASGI app of a service. checks, headers: what guards it, see ``guards.py``; page: the page's files."""
    app = FastAPI(title="nextscale", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    _errors(app)
    _drawing(app, service)
    _telling(app, service)
    _page(app, page)
    return _Noted(Guard(app, service.settings, checks, headers), service)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(NextscaleError)
    async def ours(request: Request, error: NextscaleError) -> Response:
        return await refused(request, bad_value(error, FIELDS))

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        sentences = {404: f"there is nothing at {path!r}", 405: f"{path} does not take {request.method}"}
        codes = {404: "not_found", 405: "method_not_allowed"}
        sentence = sentences.get(error.status_code, str(error.detail))
        return await refused(request, Refused(error.status_code, sentence, code=codes.get(error.status_code)))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        return await refused(request, failed(f"the server failed ({type(error).__name__}); its log says more"))


def _drawing(app: FastAPI, service: Service) -> None:
    store = Store(service.settings.kept, service.settings.kept_bytes)

    def understood(front: Front, body: Generation, *files: bytes | None) -> tuple[Asked, int]:
        """At once, so that no more than one picture that was not accepted yet is in memory."""
        image, mask = _pictures(body, *files) if files else (None, None)
        asked = front.understood(body, image, mask)
        return asked, service.limit(asked, len(asked.entries))

    async def draw(request: Request, body: Generation, kind: str, *files: bytes | None) -> Response:
        arrived, front = time.monotonic(), _model(service, body)
        if service.settings.log_prompts:
            log.info("%s %r", front.id, body.prompt)
        asked, limit = await service.think(understood, front, body, *files)
        if files:
            del files
            request.scope["body"].done()
        scales = len(asked.plan.rows)
        shown = scales_shown("all" if body.output_format == "gif" else body.partial_images, scales)
        job = service.accept(asked, shown, limit, arrived, body.deadline)
        drawing = Drawing(service, job, front, body, kind, store, str(request.base_url).rstrip("/"))
        return Stream(drawing) if body.stream else await answer(drawing, request)

    @app.post("/v1/images/generations", openapi_extra=_takes("application/json", Generation))
    async def generations(request: Request) -> Response:
        """Draw pictures."""
        return await draw(request, read_json(await request.body(), Generation), "image_generation")

    @app.post("/v1/images/edits", openapi_extra=_takes("multipart/form-data", Painting))
    async def edits(request: Request) -> Response:
        """Paint a part of a picture anew."""
        async with _Form(request) as form:
            files = [await form.file(name) for name in ("image", "mask")]
            body = read_form(form.texts, Painting)
        return await draw(request, body, "image_edit", files.pop(0), files.pop())

    @app.get("/v1/images/files/{name}")
    async def kept(name: str) -> Response:
        """A picture that was answered by its address."""
        content = store.get(name)
        if content is None:
            raise Refused(404, "there is no such picture, or no more: they are kept for ten minutes", code="not_found")
        kind = media.TYPES[name.rpartition(".")[2]]
        return Response(content, media_type=kind, headers={"cache-control": "private, no-store"})


def _telling(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> Any:
        """All models."""
        return {"object": "list", "data": [model_told(service, front) for front in service.fronts.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        """One model."""
        return model_told(service, service.front(name))

    @app.get("/v1/suggestions")
    async def suggested(model: str | None = None, text: str = "", limit: str = "20") -> Any:
        """What a model knows that fits a text."""
        if re.fullmatch("[1-9][0-9]?|100", limit) is None:
            raise Refused(400, f"limit is {quoted(limit)}; expected 1 to 100", param="limit")
        found = await service.think(suggestions, service.front(model), text[:200], int(limit))
        return {"object": "list", "data": found}

    @app.post("/v1/plan", openapi_extra=_takes("application/json", Generation))
    async def plan(request: Request) -> Any:
        """What would be drawn, and its price."""
        body = read_json(await request.body(), Generation)
        asked = await service.think(_model(service, body).understood, body, needed=False)
        return await service.think(plan_told, service, asked, len(asked.entries) or body.n or 1)

    @app.post("/v1/recipe", openapi_extra=_takes("multipart/form-data", None))
    async def recipe(request: Request) -> Any:
        """What a picture says of itself."""
        async with _Form(request) as form:
            content = await form.file("image")
            if form.texts or content is None:
                raise Refused(400, "the form has no file image alone; expected one, a PNG", param="image")
        return await service.think(recipe_told, service, await service.think(media.carried_recipe, content))

    @app.get("/health")
    async def health() -> Response:
        """Whether pictures are drawn."""
        found = service.health()
        return JSONResponse({**found, "version": __version__}, 200 if found["status"] == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _page(app: FastAPI, page: Path) -> None:
    fresh = {"cache-control": "no-cache"}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        if not (page / "index.html").is_file():
            return HTMLResponse("<!doctype html><title>nextscale</title><p>There is no page in this installation.</p>")
        return FileResponse(page / "index.html", headers=fresh)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if PAGE_FILES.fullmatch(name) is None or not (page / name).is_file():
            raise HTTPException(404)
        return FileResponse(page / name, headers=fresh)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        told = ((path, verb, one) for path, verbs in app.openapi()["paths"].items() for verb, one in verbs.items())
        lines = [
            f"<dt>{html.escape(f'{verb.upper()} {path}')}</dt><dd>{html.escape(str(one.get('description', '')))}</dd>"
            for path, verb, one in told
        ]
        rest = '<p>All fields: <a href="/openapi.json">openapi.json</a>, and docs/serve.md of nextscale.</p>'
        return HTMLResponse(
            f"<!doctype html><html lang=en><title>nextscale</title><dl>{''.join(lines)}</dl>{rest}</html>"
        )


def _model(service: Service, body: Generation) -> Front:
    """The model of a body, or of its recipe."""
    named = (body.recipe or {}).get("model")
    return service.front(body.model or (named if isinstance(named, str) else None))


def _takes(kind: str, body: type[Generation] | None) -> dict[str, Any]:
    """What an endpoint reads, for ``/openapi.json``."""
    schema = {"type": "object"} if body is None else body.model_json_schema()
    return {"requestBody": {"content": {kind: {"schema": schema}}, "required": True}}


class _Form:
    """A form, bounded in its parts; its files are gone at the end."""

    def __init__(self, request: Request) -> None:
        self._request, self._form = request, FormData()

    async def __aenter__(self) -> _Form:
        try:
            self._form = await self._request.form(max_files=4, max_fields=100, max_part_size=MOST_JSON)
        except HTTPException as error:
            raise Refused(400, f"the form cannot be read ({error.detail}); expected multipart/form-data") from None
        except (MultiPartException, KeyError, ValueError) as error:
            raise Refused(400, f"the form cannot be read ({error}); expected multipart/form-data") from None
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._form.close()

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The fields that are no files."""
        return [(name, value) for name, value in self._form.multi_items() if isinstance(value, str)]

    async def file(self, name: str) -> bytes | None:
        """The one file of this name. Raises ``Refused`` for more than one."""
        every = [(key, value) for key, value in self._form.multi_items() if isinstance(value, UploadFile)]
        if strange := [key for key, _ in every if key.removesuffix("[]") not in ("image", "mask")]:
            raise Refused(400, f"the form has a file {strange[0][:80]!r}; expected image, and perhaps mask")
        found = [value for key, value in every if key.removesuffix("[]") == name]
        if len(found) > 1:
            raise Refused(400, f"{len(found)} files {name} were given; expected one", param=name)
        return await found[0].read() if found else None


def _pictures(body: Generation, image: bytes | None, mask: bytes | None) -> tuple[Any, Any]:
    """The picture of an edit, and where it is painted anew, (H, W) bool; None where a box or a margin says it."""
    assert isinstance(body, Painting)
    if image is None:
        raise Refused(400, "no image was given; expected one file, a PNG, JPEG or WebP", param="image")
    picture = media.opened(image, "image")
    if mask is None and (body.box is not None or body.outpaint is not None or _repeats_without_mask(body)):
        return picture, None
    if mask is not None:
        found = media.transparent(media.opened(mask, "mask"))
        where = "mask has no transparent pixels; expected some, where the picture is painted anew"
    else:
        found = media.transparent(picture)
        where = "nothing says where to paint; expected a mask, an image with transparent pixels, box or outpaint"
    if found is None or not found.any():
        raise InputError(where)
    return media.opaque_there(picture, found), found


def _repeats_without_mask(body: Painting) -> bool:
    edit = (body.recipe or {}).get("edit")
    return isinstance(edit, dict) and "mask_image" not in edit


class _Noted:
    """Counts what becomes of requests, and writes a line of the log for each: no prompt, no query."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, whole = time.perf_counter(), 0, False

        async def noted(message: Any) -> None:
            nonlocal status, whole
            status = message.get("status", status)
            await send(message)
            whole = whole or (message["type"] == "http.response.body" and not message.get("more_body", False))

        try:
            await self.app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - start
            outcome = scope.get("outcome") or ("cancelled" if not whole else _outcome(status))
            route = getattr(scope.get("route"), "path", "other")
            self.service.metrics.request(route, outcome, seconds)
            path = one_line(repr(scope["path"]), 200) if route == "other" else route
            log.info("%s %s %d %s %.3f s", scope["method"], path, status, outcome, seconds)


def _outcome(status: int) -> str:
    """What a status says of a request."""
    return "answered" if status < 400 else "failed" if status == 500 else "refused"
