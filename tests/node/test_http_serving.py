"""Strangers cannot hold all connections of a node that serves HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from paris_p2p.node import http_serving
from paris_p2p.node.http_serving import body_of, listening_at, serving_http
from paris_p2p.node.visitors import Visitors, visitor_of

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


async def test_one_visitor_is_turned_away_where_it_holds_too_much_and_others_are_not() -> None:
    now = 0.0
    visitors = Visitors(
        lambda host: "" if host == "127.0.0.1" else host, most_open=2, per_s=1.0, at_once=3, clock=lambda: now
    )
    listener = listening_at("127.0.0.1:0", "--public-page")
    port = listener.getsockname()[1]
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        app = Starlette(routes=[Route("/", hello)])
        await stack.enter_async_context(serving_http(app, listener, visitors))

        async def came(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
            stack.callback(writer.close)
            return reader, writer

        async def status(one: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
            one[1].write(GET)
            head = await one[0].readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await one[0].readexactly(length)
            return head.split()[1]

        first, second = await came("127.0.0.2"), await came("127.0.0.2")
        assert [await status(first) for _ in range(2)] == [b"200"] * 2
        assert await status(second) == b"200"
        assert await ended((await came("127.0.0.2"))[0])  # a third connection
        assert await status(second) == b"429"  # a fourth request
        assert await status(await came("127.0.0.3")) == b"200"
        proxy = [await came("127.0.0.1") for _ in range(4)]
        assert {await status(one) for one in proxy for _ in range(2)} == {b"200"}
        now += 1.0
        assert await status(first) == b"200"
        first[1].close()
        while visitors._open["127.0.0.2"] > 1:
            await asyncio.sleep(0.01)
        now += 1.0
        assert await status(await came("127.0.0.2")) == b"200"


@pytest.mark.parametrize(
    ("host", "visitor"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_visitor_is_an_address_or_what_one_household_has(host: str, visitor: str) -> None:
    assert visitor_of(host) == visitor


def test_what_is_remembered_of_visitors_is_bounded() -> None:
    visitors = Visitors()
    for number in range(9000):
        host = f"10.{number >> 8}.{number & 255}.1"
        assert visitors.enters(host)
        assert visitors.asks(host)
        visitors.leaves(host)
    assert not visitors._open
    assert len(visitors._requests._left) < 5000


async def test_a_body_that_is_too_long_is_not_read_on() -> None:
    read = 0

    async def receive() -> dict[str, object]:
        nonlocal read
        read += 100
        return {"type": "http.request", "body": b"x" * 100, "more_body": read < 100_000}

    scope: dict[str, object] = {"type": "http", "method": "POST", "headers": []}
    with pytest.raises(HTTPException) as error:
        await body_of(Request(scope, receive), 1000)
    assert error.value.status_code == 413
    assert read == 1100
    read = 99_900
    assert await body_of(Request(scope, receive), 1000) == b"x" * 100
    read, scope["headers"] = 0, [(b"content-length", b"1001")]
    with pytest.raises(HTTPException):
        await body_of(Request(scope, receive), 1000)
    assert read == 0


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return not await reader.read(1)
    except ConnectionResetError:
        return True
