"""The control API answers this machine's own browser and programs alone."""

from __future__ import annotations

import http.client
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio.to_thread
import pytest

from paris_p2p.node.control import serve_control
from paris_p2p.node.control_guard import HEADERS, THIS_MACHINE, refusal_of
from paris_p2p.node.status import Status
from tests.node.test_control import STATUS


async def status() -> Status:
    return STATUS


@pytest.mark.parametrize(
    ("host", "origin", "site"),
    [
        ("127.0.0.1:4711", None, None),
        ("localhost:80", "http://localhost:80", "same-origin"),
        ("[::1]:9", "http://[::1]:9", "none"),
        ("LOCALHOST", None, "none"),
    ],
)
def test_this_machines_own_requests_are_answered(host: str, origin: str | None, site: str | None) -> None:
    assert refusal_of(host, origin, site, THIS_MACHINE) == ""


@pytest.mark.parametrize(
    ("host", "origin", "site"),
    [
        ("evil.example:4711", None, None),  # a name that was made to point here
        ("127.0.0.1.evil.example", None, None),
        ("", None, None),
        ("127.0.0.1:4711", "http://evil.example", None),
        ("127.0.0.1:4711", "null", None),
        ("127.0.0.1:4711", "http://127.0.0.1:4712", None),
        ("127.0.0.1:4711", None, "cross-site"),
        ("127.0.0.1:4711", None, "same-site"),
    ],
)
def test_other_sites_pages_are_refused(host: str, origin: str | None, site: str | None) -> None:
    assert refusal_of(host, origin, site, THIS_MACHINE)


def test_a_public_server_may_be_called_anything_but_is_asked_by_its_own_pages_alone() -> None:
    assert refusal_of("node.example", "https://node.example", "same-origin", ()) == ""
    assert refusal_of("node.example", "https://evil.example", None, ())


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with serve_control(tmp_path, status, {}) as served:
        yield served


def ask(url: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", "/status", headers=headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, text


async def test_every_answer_forbids_what_the_page_does_not_need(url: str) -> None:
    _, headers, _ = await anyio.to_thread.run_sync(ask, url, {})
    assert HEADERS.items() <= headers.items()


async def test_a_page_elsewhere_gets_nothing_even_with_the_token(url: str, tmp_path: Path) -> None:
    token = (tmp_path / "control.json").read_text().split('"token": "')[1].split('"')[0]
    bearer = {"Authorization": f"Bearer {token}"}
    own, _, text = await anyio.to_thread.run_sync(ask, url, bearer)
    assert own == 200
    assert "a run" in text
    for more in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        code, _, text = await anyio.to_thread.run_sync(ask, url, bearer | more)
        assert code == 403, more
        assert "a run" not in text
