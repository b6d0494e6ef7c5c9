"""The page's routes beside the control API: the page itself, which holds nothing, and what it shows, which
needs the token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent

from paris_p2p.dashboard.codes import LoginCodes
from paris_p2p.dashboard.feed import Feed, TooManyWatchersError
from paris_p2p.errors import ParisError
from paris_p2p.node.control import Pages, TokenCheck
from paris_p2p.node.http_serving import body_of

ASSETS = {
    "page.css": "text/css",
    **dict.fromkeys(
        ("main.js", "answer.js", "charts.js", "experts.js", "here.js", "lists.js", "parts.js", "run.js"),
        "text/javascript",
    ),
    **dict.fromkeys(("session.js", "state.js", "words.js"), "text/javascript"),
    "icon.svg": "image/svg+xml",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
}
_PING_S = 15
_SEND_S = 30  # a page that takes nothing for so long is given up
_MAX_CODE_BYTES = 1024

Files = Callable[[str], Awaitable[tuple[bytes, str]]]  # name -> bytes and media type; KeyError: none


class _Code(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str = Field(min_length=1, max_length=200)


def asset(name: str) -> Response:
    """Returns a file of the page as it is in the package."""
    kind = "text/html" if name == "page.html" else ASSETS[name]
    data = files("paris_p2p.dashboard").joinpath("static", name).read_bytes()
    return Response(data, media_type=f"{kind}; charset=utf-8")


def pages(feed: Feed, about: Callable[[], Mapping[str, Any]], previews: Files, codes: LoginCodes) -> Pages:
    """Returns what adds the page's routes to the control API.

    GET / and /assets/… are the page; POST /session gives the token for a code of a link, POST /link such a
    code for the token; GET /live, /about, /points and /previews/… need the token.
    """

    def add(app: FastAPI, check: TokenCheck, token: str) -> None:
        add_page(app)
        _add_login(app, check, token, codes)
        add_views(app, check, feed, about, previews)

    return add


def add_page(app: FastAPI) -> None:
    """Adds the page itself, which holds nothing."""

    @app.get("/")
    async def get_page() -> Response:
        return asset("page.html")

    @app.get("/assets/{name}")
    async def get_asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404, "there is no such part of the page")
        return asset(name)


def _add_login(app: FastAPI, check: TokenCheck, token: str, codes: LoginCodes) -> None:
    @app.post("/link")
    async def post_link(request: Request) -> Any:
        check(request)
        return {"code": codes.give(time.monotonic())}

    @app.post("/session")
    async def post_session(request: Request) -> Any:
        data = await body_of(request, _MAX_CODE_BYTES)
        try:
            given = _Code.model_validate_json(data).code
        except ValidationError as error:
            raise HTTPException(422, "that is no code of a link") from error
        is_token = secrets.compare_digest(given.encode(), token.encode())
        if not is_token and not codes.take(given, time.monotonic()):
            raise HTTPException(
                401, "this link was used, or is too old; `paris peer dashboard` gives another one"
            )
        return {"token": token}


def add_views(
    app: FastAPI, check: TokenCheck, feed: Feed, about: Callable[[], Mapping[str, Any]], previews: Files
) -> None:
    """Adds what the page asks for once it may."""

    @app.get("/about")
    async def get_about(request: Request) -> Any:
        check(request)
        return about()

    @app.get("/points")
    async def get_points(request: Request) -> Any:
        check(request)
        return [point.model_dump() for point in feed.points]

    @app.get("/previews/{folder}/{file}")
    async def get_preview(request: Request, folder: str, file: str) -> Response:
        check(request)
        try:
            data, kind = await previews(f"{folder}/{file}")
        except KeyError as error:
            raise HTTPException(404, "there is no such clip any more") from error
        return Response(data, media_type=kind)

    @app.get("/live")
    async def get_live(request: Request) -> Response:
        check(request)

        async def events() -> AsyncIterator[ServerSentEvent]:
            try:
                async for look in feed.looks():
                    yield ServerSentEvent(look, event="look")
            except (TooManyWatchersError, ParisError) as error:
                yield ServerSentEvent(str(error), event="refused")

        return EventSourceResponse(events(), ping=_PING_S, send_timeout=_SEND_S)
