"""A trainer in a session of its own gives way to other sessions, where the kernel shares by sessions."""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from paris_p2p.peer.process import Worker
from paris_p2p.sensors import priority
from paris_p2p.sensors.priority import nice_session, nice_session_soon

HERE = Path("/proc/self/autogroup").exists()


def faked(folder: Path, pid: int = 7) -> Path:
    (folder / str(pid)).mkdir()
    file = folder / str(pid) / "autogroup"
    file.write_text("")
    return file


def test_the_group_of_a_session_that_the_process_leads_gets_the_value(tmp_path: Path) -> None:
    file = faked(tmp_path)
    assert nice_session(7, 19, tmp_path, lambda pid: pid) == "done"
    assert file.read_text() == "19\n"


def test_a_session_of_others_is_left_alone(tmp_path: Path) -> None:
    file = faked(tmp_path)
    assert nice_session(7, 19, tmp_path, lambda pid: 1) == "not here"
    assert file.read_text() == ""


def test_a_kernel_without_groups_and_a_process_that_is_gone_are_no_trouble(tmp_path: Path) -> None:
    assert nice_session(7, 19, tmp_path, lambda pid: pid) == "not here"
    assert nice_session(1 << 22, 19) == "not here"


@pytest.mark.parametrize(("number", "said"), [(errno.EPERM, "not allowed"), (errno.EROFS, "not allowed")])
def test_what_the_kernel_refuses_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    faked(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(Path, "open", refuse)
    assert nice_session(7, 0, tmp_path, lambda pid: pid) == said


async def test_a_kernel_that_takes_one_change_at_a_time_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter(["later", "later", "done"])
    monkeypatch.setattr(priority, "nice_session", lambda *_: next(told))
    monkeypatch.setattr(priority, "_PAUSE_S", 0.0)
    assert await nice_session_soon(7, 19, tmp_path) == "done"
    monkeypatch.setattr(priority, "nice_session", lambda *_: "later")
    assert await nice_session_soon(7, 19, tmp_path) == "later"


@pytest.mark.skipif(not HERE, reason="this kernel shares the processor by processes alone")
async def test_this_kernel_takes_it() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert await nice_session_soon(child.pid, 7) == "done"
        assert Path(f"/proc/{child.pid}/autogroup").read_text().endswith("nice 7\n")
    finally:
        child.kill()
        await child.wait()


class _Job(BaseModel):
    word: str = "a job"


@pytest.mark.skipif(not HERE, reason="this kernel shares the processor by processes alone")
async def test_a_worker_that_is_nice_is_so_to_other_sessions_too() -> None:
    own = Path("/proc/self/autogroup").read_text()
    worker = Worker("code", nice=11)  # the library's module that reads its input
    try:
        await worker.start(_Job())
        assert Path(f"/proc/{worker.pid}/autogroup").read_text().endswith("nice 11\n")
    finally:
        await worker.kill()
    assert Path("/proc/self/autogroup").read_text() == own
    gate = Worker("code")
    try:
        await gate.start(_Job(), nice=10)  # of the gate's own accord: it gives way within its session alone
        assert Path(f"/proc/{gate.pid}/autogroup").read_text().endswith("nice 0\n")
    finally:
        await gate.kill()
