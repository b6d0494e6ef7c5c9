"""Nothing outlives a dev-swarm, however it ends: its warden kills what carries its mark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paris_p2p.dev_swarm.namespaces import SPACES, Switch, enter, sweep_spaces, why_no_spaces
from paris_p2p.dev_swarm.warden import MARK, all_marked, kill_marked, kill_orphans, new_mark

SLEEP = [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(600)"]


def sleeper(mark: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        SLEEP, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # its environment is its own by now
    return process


def test_a_warden_kills_halted_processes_too_once_its_dev_swarm_is_gone() -> None:
    mark = new_mark()
    halted, running, strange = sleeper(mark), sleeper(mark), sleeper("1-other")
    try:
        halted.send_signal(signal.SIGSTOP)
        warden = subprocess.Popen(
            [sys.executable, "-m", "paris_p2p.dev_swarm.warden", mark, ""],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        assert warden.stdin is not None
        assert running.poll() is None
        warden.stdin.close()  # as the kernel does when the dev-swarm dies
        assert warden.wait(60) == 0
        assert halted.wait(60) == running.wait(60) == -signal.SIGKILL
        assert strange.poll() is None
    finally:
        for process in (halted, running, strange):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_what_a_dev_swarm_left_whose_warden_died_too_is_killed_by_the_next() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    orphan, living = sleeper(f"{gone.pid}-ab"), sleeper(new_mark())
    try:
        assert {orphan.pid, living.pid} <= set(all_marked())
        assert kill_orphans() >= 1
        assert orphan.wait(60) == -signal.SIGKILL
        assert living.poll() is None
        assert kill_marked(all_marked()[living.pid]) == 1
        living.wait(60)
    finally:
        for process in (orphan, living):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def spaces() -> None:
    if why := why_no_spaces():
        pytest.skip(f"no namespaces here: {why}")


@pytest.mark.usefixtures("spaces")
def test_machines_reach_each_other_until_a_link_is_cut_and_again_when_it_is_mended() -> None:
    switch = Switch()
    try:
        switch.open()
        a, b = switch.add("a"), switch.add("b")

        def reaches() -> bool:
            ping = [*a.prefix, sys.executable, "-S", "-c", CONNECT, b.address]
            return subprocess.run(ping, check=False).returncode == 0

        assert reaches()
        switch.plug(b, "down")
        assert not reaches()
        switch.plug(b, "up")
        assert reaches()
    finally:
        switch.close()
    assert not list(Path("/run/netns").glob(f"{switch.mark}*"))


# A refusal comes from the other machine; a machine without its link says nothing.
CONNECT = """
import socket, sys
link = socket.socket()
link.settimeout(1.0)
sys.exit(0 if link.connect_ex((sys.argv[1], 9)) == 111 else 1)
"""


@pytest.mark.usefixtures("spaces")
def test_a_thread_that_entered_a_namespace_has_its_own_loopback(tmp_path: Path) -> None:
    import socket
    import threading

    switch, found = Switch(), list[int]()
    try:
        switch.open()
        space = switch.add("a")
        with socket.create_server(("127.0.0.1", 0)) as outside:

            def look() -> None:
                enter(space)
                with socket.socket() as link:
                    found.append(link.connect_ex(outside.getsockname()))

            thread = threading.Thread(target=look)
            thread.start()
            thread.join(30)
        assert found == [111]  # nobody listens there
    finally:
        switch.close()


@pytest.mark.usefixtures("spaces")
def test_namespaces_of_a_killed_program_are_deleted_by_the_next() -> None:
    made = (
        "import os; from paris_p2p.dev_swarm.namespaces import Switch; Switch().open(); "
        "print(os.getpid(), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=False)
    left = f"{SPACES}{done.stdout.strip()}-switch"
    assert (Path("/run/netns") / left).exists()
    assert sweep_spaces() >= 1
    assert not (Path("/run/netns") / left).exists()
