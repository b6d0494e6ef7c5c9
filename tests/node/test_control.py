"""The control API: only with the token, only what there is, and words a person can act on when nobody is
there.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.errors import StoreError, UnreachableError
from paris_p2p.node.control import serve_control
from paris_p2p.node.control_client import CONTROL_FILE, call_control
from paris_p2p.node.status import Status

STATUS = Status(
    at=1.0,
    run="ab" * 32,
    name="a run",
    owner="o",
    peer_id="p",
    role="peer",
    phase="idle",
    why="testing",
    slots=(),
    peers=(),
)


async def status() -> Status:
    return STATUS


async def stop() -> str:
    return "stopping after the checkpoint"


async def fails() -> str:
    raise StoreError("no space left for the checkpoint; free some")


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with serve_control(tmp_path, status, {"stop": stop, "fails": fails}) as served:
        yield served


async def call(data_dir: Path, method: str, name: str) -> dict[str, Any]:
    return await asyncio.to_thread(call_control, data_dir, method, name, 20.0)


def raw(url: str, method: str, authorization: str | None) -> int:
    request = urllib.request.Request(
        url, method=method, headers={"Authorization": authorization} if authorization is not None else {}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_status_and_actions_are_answered(url: str, tmp_path: Path) -> None:
    assert Status.model_validate(await call(tmp_path, "GET", "status")) == STATUS
    assert await call(tmp_path, "POST", "stop") == {"message": "stopping after the checkpoint"}


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer ", "Bearer wrong", "Basic abc", "Bearer t\u00f6ken"]
)
@pytest.mark.parametrize(("method", "name"), [("GET", "status"), ("POST", "stop"), ("POST", "nonsense")])
async def test_without_the_token_there_is_nothing(
    url: str, method: str, name: str, authorization: str | None
) -> None:
    assert await asyncio.to_thread(raw, f"{url}/{name}", method, authorization) == 401


async def test_only_its_user_can_read_the_token_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    async with serve_control(tmp_path, status, {}) as url:
        file = tmp_path / CONTROL_FILE
        assert file.stat().st_mode & 0o777 == 0o600
        control = json.loads(file.read_text())
        assert control["url"] == url
        assert control["pid"] == os.getpid()
        assert len(control["token"]) >= 32
        assert url.startswith("http://127.0.0.1:")
    assert list(tmp_path.iterdir()) == []


async def test_an_unknown_action_names_those_there_are(url: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no action 'dance'; there are fails, stop"):
        await call(tmp_path, "POST", "dance")


async def test_an_action_that_fails_says_why(url: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no space left for the checkpoint"):
        await call(tmp_path, "POST", "fails")
    assert await call(tmp_path, "POST", "stop")


async def test_a_file_left_by_a_killed_peer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / CONTROL_FILE).write_text("{")
    async with serve_control(tmp_path, status, {}):
        assert (await call(tmp_path, "GET", "status"))["name"] == "a run"


def test_no_peer_running_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(
        UnreachableError, match=r"no peer is running on .*; start one with `paris-peer start INVITE`"
    ):
        call_control(tmp_path, "GET", "status")


def test_a_peer_that_was_killed_says_so(tmp_path: Path) -> None:
    (tmp_path / CONTROL_FILE).write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "t", "pid": 99}))
    with pytest.raises(
        UnreachableError, match=r"\(pid 99\) does not answer \(Connection refused\); if it was killed"
    ):
        call_control(tmp_path, "GET", "status")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"url": "http://127.0.0.1:1"}', '{"url": "", "token": "", "pid": "x"}']
)
def test_a_damaged_control_file_is_said_without_a_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / CONTROL_FILE).write_text(text)
    with pytest.raises(UnreachableError, match="damaged"):
        call_control(tmp_path, "GET", "status")
