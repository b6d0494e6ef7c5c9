"""A running peer is controlled over HTTP on 127.0.0.1 with a token, from a file only its user can read."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from paris_p2p.disk import explained, write_atomic
from paris_p2p.errors import ParisError, UsageError
from paris_p2p.node.control_client import CONTROL_FILE, USAGE_STATUS
from paris_p2p.node.control_guard import Guarded
from paris_p2p.node.http_serving import body_of, serving_http

ControlAction = Callable[[], Awaitable[str]]
Question = Callable[[bytes], Awaitable[BaseModel]]  # from a JSON body to what is answered
TokenCheck = Callable[[Request], None]  # raises HTTPException 401 where a request has not the token
Pages = Callable[[FastAPI, TokenCheck, str], None]  # adds routes; the last is the token
MAX_QUESTION_BYTES = 1 << 26


@asynccontextmanager
async def serve_control(
    data_dir: Path,
    status: Callable[[], Awaitable[BaseModel]],
    actions: Mapping[str, ControlAction],
    questions: Mapping[str, Question] = MappingProxyType({}),
    pages: Sequence[Pages] = (),
) -> AsyncIterator[str]:
    """Serves GET /status, POST /<action>, POST /ask/<question> and what `pages` add while inside; yields the
    URL.
    """
    token = secrets.token_urlsafe(24)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # before anybody can read where: the server takes it over in a moment
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = _app(token, status, actions, questions, pages)
    path = data_dir / CONTROL_FILE
    with explained(path):  # whole, or not there: another command may be reading it
        write_atomic(path, json.dumps({"url": url, "token": token, "pid": os.getpid()}), mode=0o600)
    async with serving_http(Guarded(app), listener):
        try:
            yield url
        finally:
            path.unlink(missing_ok=True)


def _app(
    token: str,
    status: Callable[[], Awaitable[BaseModel]],
    actions: Mapping[str, ControlAction],
    questions: Mapping[str, Question],
    pages: Sequence[Pages],
) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "the token is in control.json of the peer's data directory")

    for add in pages:
        add(app, check, token)

    @app.get("/status")
    async def get_status(request: Request) -> Any:
        check(request)
        try:
            return (await status()).model_dump()
        except ParisError as error:  # p2pd is being restarted, or the peer is on its way out
            raise HTTPException(503, str(error)) from error

    @app.post("/ask/{question}")
    async def post_question(request: Request, question: str) -> Response:
        check(request)
        if question not in questions:
            raise HTTPException(404, f"this peer is not asked {question[:40]!r}; update it, or this command")
        data = await body_of(request, MAX_QUESTION_BYTES)
        try:
            answer = await questions[question](data)
        except ParisError as error:
            is_usage = isinstance(error, UsageError)
            raise HTTPException(USAGE_STATUS if is_usage else 409, str(error)) from error
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.post("/{action}")
    async def post_action(request: Request, action: str) -> Any:
        check(request)
        if action not in actions:
            raise HTTPException(404, f"no action {action[:40]!r}; there are {', '.join(sorted(actions))}")
        try:
            return {"message": await actions[action]()}
        except ParisError as error:
            raise HTTPException(409, str(error)) from error

    return app
