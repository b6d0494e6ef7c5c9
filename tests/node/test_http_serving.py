"""Strangers cannot hold all connections of a node that serves HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from paris_p2p.node import http_serving
from paris_p2p.node.http_serving import listening_at, serving_http

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


async def test_who_says_nothing_is_given_up_and_too_many_are_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_serving, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(http_serving, "REQUEST_S", 0.3)
    listener = listening_at("127.0.0.1:0", "--metrics")
    port = listener.getsockname()[1]
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        await stack.enter_async_context(serving_http(Starlette(routes=[Route("/", hello)]), listener))
        readers = []
        for place in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            readers.append(reader)
            if place == 0:  # who asked may stay
                writer.write(GET)
                assert b"200 OK" in await reader.readuntil(b"\r\n")
            else:
                writer.write(b"GET / HT")
        assert await ended(readers[3])  # there are three already
        assert await ended(readers[1])  # its request does not come
        assert await ended(readers[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        writer.write(GET)
        assert (await reader.read(1 << 12)).endswith(b"hello")
        assert b"hello" in await readers[0].read(1 << 12)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return not await reader.read(1)
    except ConnectionResetError:
        return True
