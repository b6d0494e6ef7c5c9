"""The demo's account of processor time has each second once, also of processes that ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from examples.demo.shares import (
    DAEMONS,
    DEMO,
    ENDED,
    GATES,
    KINDS,
    NODES,
    TRAINERS,
    Look,
    Shares,
    kind_of,
    look_around,
)

ME = 1


def look(
    pid: int,
    cpu_s: float,
    words: str = "",
    *,
    parent: int = ME,
    ended_s: float = 0.0,
    started_at: float = 0.0,
) -> Look:
    return Look(pid, started_at, parent, tuple(words.split()), cpu_s, ended_s)


NODE, TRAINER, GATE = (
    "python paris-peer start",
    "python -m paris_p2p.training.trainer",
    "python -m paris_p2p.training.gate",
)


def test_processes_are_told_apart_by_their_command_lines() -> None:
    assert kind_of(tuple(TRAINER.split())) == TRAINERS
    assert kind_of(("nice", "-n", "10", *GATE.split())) == GATES
    assert kind_of(("/somewhere/hivemind_cli/p2pd", "-listen=/unix/x")) == DAEMONS
    assert kind_of(tuple(NODE.split())) == NODES


def test_only_what_was_used_since_the_beginning_counts() -> None:
    shares = Shares(ME)
    shares.begin([look(ME, 100.0), look(2, 7.0, NODE)])
    shares.add([look(ME, 101.0), look(2, 9.0, NODE), look(3, 5.0, TRAINER, parent=2)])
    assert shares.seconds() == dict.fromkeys(KINDS, 0.0) | {DEMO: 1.0, NODES: 2.0, TRAINERS: 5.0}
    assert shares.share() == pytest.approx(5 / 8)


def test_what_a_process_used_between_its_last_look_and_its_end_is_counted_once() -> None:
    shares = Shares(ME)
    shares.begin([look(ME, 0.0)])
    shares.add([look(ME, 0.0), look(2, 1.0, NODE), look(3, 4.0, GATE, parent=2)])
    shares.add([look(ME, 0.0), look(2, 1.5, NODE, ended_s=4.6)])
    assert shares.seconds()[GATES] == 4.0
    assert shares.seconds()[ENDED] == pytest.approx(0.6)


def test_what_ended_before_the_beginning_and_what_a_killed_parent_left_does_not_count_twice() -> None:
    shares = Shares(ME)
    shares.begin([look(ME, 0.0, ended_s=50.0)])
    shares.add([look(ME, 0.0, ended_s=50.0), look(2, 1.0, NODE), look(3, 9.0, TRAINER, parent=2)])
    shares.add([look(ME, 0.0, ended_s=51.2)])  # the node was killed: nobody waited for its trainer
    assert shares.seconds() | {ENDED: 0.0} == dict.fromkeys(KINDS, 0.0) | {NODES: 1.0, TRAINERS: 9.0}
    assert shares.seconds()[ENDED] == pytest.approx(0.2)


def test_a_trainer_that_is_ending_and_has_no_command_line_any_more_is_still_a_trainer() -> None:
    shares = Shares(ME)
    shares.begin([])
    shares.add([look(3, 70.0, TRAINER)])
    shares.add([look(3, 71.0)])
    assert shares.seconds() == dict.fromkeys(KINDS, 0.0) | {TRAINERS: 71.0}


def test_a_pid_that_is_used_again_is_another_process() -> None:
    shares = Shares(ME)
    shares.begin([])
    shares.add([look(5, 3.0, TRAINER, started_at=1.0)])
    shares.add([look(5, 1.0, GATE, started_at=9.0)])
    assert (shares.seconds()[TRAINERS], shares.seconds()[GATES]) == (3.0, 1.0)


def test_real_processes_are_seen_with_their_parents_and_their_times() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "sum(range(3_000_000)); print('done', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    seen = {some.pid: some for some in look_around()}
    before_s = seen[os.getpid()].ended_children_cpu_s
    assert seen[child.pid].parent == os.getpid()
    assert seen[child.pid].cpu_s > 0
    child.communicate(b"\n")
    after = {some.pid: some for some in look_around()}
    assert child.pid not in after
    assert after[os.getpid()].ended_children_cpu_s - before_s >= seen[child.pid].cpu_s - 0.02
