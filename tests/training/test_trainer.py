"""Tests the trainer as a process.

Resuming equals not stopping, it dies with its parent, and it speaks only events.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from paris_p2p.training import trainer
from paris_p2p.training.messages import CheckpointReady, Failed, Message, Started, Stopped, parse_event
from tests.made.tiny_run import TinyRun, checkpoint_of, start_process, train_here, train_in_process

ENDLESS = {"max_steps": 0, "checkpoint_s": 0}


@pytest.mark.parametrize("slot", ["expert-1", "router"])
def test_resuming_in_a_new_process_equals_not_stopping_bit_for_bit(tiny: TinyRun, slot: str) -> None:
    straight = checkpoint_of(train_here(tiny.train_job(slot, out=f"straight-{slot}", max_steps=8)))
    half = checkpoint_of(train_here(tiny.train_job(slot, out=f"half-{slot}", max_steps=4)))
    resumed = checkpoint_of(
        train_in_process(tiny.train_job(slot, out=f"rest-{slot}", max_steps=8, **tiny.resume(half)))
    )
    assert (half.steps, half.clips, resumed.steps, resumed.clips) == (4, 16, 8, 32)
    assert resumed.resume_path.read_bytes() == straight.resume_path.read_bytes()
    assert resumed.weights_path.read_bytes() == straight.weights_path.read_bytes()


def test_checkpoint_stop_and_the_end_over_the_pipe(tiny: TinyRun) -> None:
    with start_process(
        "paris_p2p.training.trainer", line=tiny.train_job(out="pipe", **ENDLESS).to_line()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert isinstance(parse_event(process.stdout.readline()), Started)
        for command, expected in (("checkpoint", CheckpointReady), ("stop", Stopped)):
            process.stdin.write(json.dumps({"command": command}).encode() + b"\n")
            process.stdin.flush()
            while not isinstance(event := parse_event(process.stdout.readline()), expected):
                pass
        assert event == Stopped(reason="asked to stop")
        assert process.stdout.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("how", ["stdin closes", "kill command"])
def test_the_trainer_dies_at_once(tiny: TinyRun, how: str) -> None:
    with start_process(
        "paris_p2p.training.trainer", line=tiny.train_job(out="dies", **ENDLESS).to_line()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert isinstance(parse_event(process.stdout.readline()), Started)
        if how == "kill command":
            process.stdin.write(b'{"command":"kill"}\n')
            process.stdin.flush()
        else:
            process.stdin.close()
        rest = process.stdout.read()  # ends only when the process has
        assert process.wait() == 3
        assert b"stopped" not in rest


def test_the_trainer_dies_when_its_parent_is_killed_even_with_stdin_open(tiny: TinyRun) -> None:
    parent_code = """
        import os, subprocess, sys
        command = [sys.executable, "-m", "paris_p2p.training.trainer"]
        child = subprocess.Popen(command, stdin=int(sys.argv[1]), stdout=subprocess.PIPE)
        print(child.pid, child.stdout.readline().decode(), flush=True)
        child.wait()
    """
    reader, writer = os.pipe()  # this test holds the writing end, so the trainer's stdin never closes
    os.write(writer, tiny.train_job(out="orphan", **ENDLESS).to_line().encode())
    command = [sys.executable, "-c", textwrap.dedent(parent_code), str(reader)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(reader,)) as parent:
        assert parent.stdout is not None
        child_pid, first_event = parent.stdout.readline().split(maxsplit=1)
        assert isinstance(parse_event(first_event), Started)
        watched = os.pidfd_open(int(child_pid))
        parent.send_signal(signal.SIGKILL)
    signalled = _wait_for_end(watched)
    for descriptor in (reader, writer, watched):
        os.close(descriptor)
    assert signalled


def _wait_for_end(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 60)[0])


def test_errors_reach_the_node_with_their_names_and_words(tiny: TinyRun, tmp_path: Path) -> None:
    bad_resume = tmp_path / "resume.safetensors"
    bad_resume.write_bytes(b"\xff" * 100)
    for changes, name, words in (
        ({"device": "cuda:99"}, "DeviceError", "cuda:99"),
        ({"resume_path": bad_resume}, "CheckpointError", "not a readable safetensors file"),
    ):
        events = train_in_process(tiny.train_job(**changes))
        assert [type(event) for event in events] == [Failed]
        assert isinstance(events[0], Failed)
        assert events[0].error == name
        assert words in events[0].message


def test_a_malformed_job_is_an_event_too() -> None:
    with start_process("paris_p2p.training.trainer", line='{"run": 1}\n') as process:
        assert process.stdout is not None
        event = parse_event(process.stdout.readline())
    assert isinstance(event, Failed)
    assert "malformed" in event.message


def test_what_nobody_foresaw_is_told_as_a_death_which_a_new_process_may_survive(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent:
        def receive(self) -> bytes:
            raise OSError("the cable came off")

        def send(self, message: Message) -> None:
            raise AssertionError(message)

    monkeypatch.setattr(trainer, "open_line", lambda is_kill: Silent())
    assert trainer.main() == 1
    assert "the cable came off" in caplog.text
