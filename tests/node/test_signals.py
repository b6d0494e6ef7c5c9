"""Which signals ask a long-running command to leave, and which of them hurry it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, os, signal, sys
from paris_p2p.node.signals import on_leave_signals
async def life():
    left = asyncio.Event()
    on_leave_signals(lambda: (print("leaving", flush=True), left.set()), lambda: print("at once", flush=True))
    print("ready", flush=True)
    await left.wait()
    for line in iter(sys.stdin.readline, ""):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    print("ended in order", flush=True)
asyncio.run(life())
"""


def life(*numbers: int, before: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Exit status and words of a command that gets these signals, and then time to end."""
    command = [*before, sys.executable, "-c", SCRIPT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = [process.stdout.readline()]
        for place, number in enumerate(numbers):
            process.send_signal(number)
            if place == 0 and not before:
                said.append(process.stdout.readline())
        rest, _ = process.communicate("\n", timeout=60)
        return process.returncode, [line.strip() for line in [*said, *rest.splitlines()]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_lets_the_command_end_in_order(number: int) -> None:
    assert life(number) == (0, ["ready", "leaving", "ended in order"])


def test_a_terminal_that_closes_says_so_more_than_once_and_hurries_nothing() -> None:
    assert life(signal.SIGHUP, signal.SIGHUP, signal.SIGHUP) == (0, ["ready", "leaving", "ended in order"])
    assert life(signal.SIGTERM, signal.SIGHUP) == (0, ["ready", "leaving", "ended in order"])


async def test_a_second_ctrl_c_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from paris_p2p.node.signals import on_leave_signals

    done: list[object] = []
    ended = asyncio.Event()
    monkeypatch.setattr(os, "_exit", lambda status: (done.append(status), ended.set()))
    on_leave_signals(lambda: done.append("leave"), lambda: done.append("at once"))
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        while not done:
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await ended.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
    assert done == ["leave", "at once", 130]


def test_nohup_still_means_that_a_closed_terminal_is_nothing() -> None:
    status, said = life(signal.SIGHUP, signal.SIGTERM, before=("sh", "-c", 'trap "" HUP; exec "$@"', "sh"))
    assert (status, said) == (0, ["ready", "leaving", "ended in order"])
