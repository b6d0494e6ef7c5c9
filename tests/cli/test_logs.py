"""Every command can say everything and keep a log; those that run for days say what an operator needs
without being asked.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from paris_p2p.cli import bootstrap, console, logs, peer, run
from paris_p2p.errors import UsageError
from paris_p2p.shown import say

LINE = "run ab was not joined through 12D3: peer was silent"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.OURS)
    kept = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = kept[0], kept[1]
    ours.setLevel(kept[2])
    logging.addLevelName(logging.WARNING, "WARNING")


@pytest.mark.parametrize("app", [peer.app, run.app, bootstrap.app])
def test_every_verb_takes_both_options(app: typer.Typer) -> None:
    whole = get_command(app).commands  # type: ignore[attr-defined]
    assert whole
    commands = {
        f"{name} {one}": verb
        for name, command in whole.items()
        for one, verb in getattr(command, "commands", {"": command}).items()
    }
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--verbose", "--log-file"} <= options, name


def test_an_operator_sees_what_happens_and_others_only_what_went_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("paris_p2p.bootstrap.serve")
    logging.addLevelName(logging.WARNING, "WARN")  # as importing hivemind does
    logs.set_up()
    log.info(LINE)
    assert capsys.readouterr().err == ""
    log.warning(LINE)
    assert "warning: " + LINE in capsys.readouterr().err
    logs.long_running()
    log.info(LINE)
    log.debug("a record was refused")
    logging.getLogger("hivemind.dht").info("chatter")
    assert capsys.readouterr().err.splitlines()[0].endswith(" " + LINE)
    assert capsys.readouterr().err == ""


def test_verbose_says_everything_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    logs._listen(logging.DEBUG)
    logging.getLogger("paris_p2p.node.run_node").debug("a record was refused")
    logging.getLogger("hivemind.dht").debug("chatter")
    assert capsys.readouterr().err.strip().endswith("debug paris_p2p.node.run_node: a record was refused")


def test_the_file_has_what_was_said_too_and_is_renamed_when_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2000)
    logs.set_up()
    with logs._logging_to(tmp_path / "peer.log"):
        for number in range(300):
            say(f"published expert-0 seq {number}")
    printed = capsys.readouterr()
    assert printed.err == ""  # said once, not logged again on the terminal
    assert printed.out.count("published") == 300
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs.FILES_KEPT
    assert all(file.stat().st_size <= 2000 for file in files)
    assert "seq 299" in (tmp_path / "peer.log").read_text(encoding="utf-8")


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--log-file"), logs._logging_to(tmp_path / "no" / "such.log"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_job_in_order_with_its_own_status(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app, closed = typer.Typer(add_completion=False), []

    @app.command()
    def job() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            closed.append("closed")

    monkeypatch.setattr(sys, "argv", ["job"])
    kept = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for one in kept:
            signal.signal(one, signal.SIG_DFL)
        with pytest.raises(SystemExit) as ended:
            console.run_app(app)
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)
    assert ended.value.code == 128 + number
    assert closed == ["closed"]
    assert f"ended by {signal.Signals(number).name}" in capsys.readouterr().err


def test_the_journal_gets_priorities_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    at = os.fstat(write)
    assert logs.is_journal(write, {"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"})
    assert not logs.is_journal(write, {"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino + 1}"})
    assert not logs.is_journal(write, {})
    os.close(read)
    os.close(write)
    assert not logs.is_journal(write, {"JOURNAL_STREAM": "1:1"})
    monkeypatch.setattr(logs, "is_journal", lambda stream: True)
    logs.set_up()
    (handler,) = (one for one in logging.getLogger().handlers if type(one).__name__ == "_Terminal")

    def written(level: int, text: str, fault: bool = False) -> str:
        found = (ValueError, ValueError("a\x1b[31m"), None) if fault else None
        return handler.format(logging.LogRecord("x", level, "", 0, text, None, found))

    assert written(logging.INFO, LINE) == f"<6>{LINE}"
    assert written(logging.WARNING, LINE) == f"<4>warning: {LINE}"
    lines = written(logging.ERROR, "could not", fault=True).split("\n")
    assert len(lines) > 1
    assert all(line.startswith("<3>") for line in lines)
    assert "\x1b" not in "".join(lines)
