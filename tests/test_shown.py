"""Words of strangers are shown, and do nothing: through every path that prints, whatever the terminal's
encoding.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console as RichConsole

from paris_p2p.cli import console, logs
from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.node.status import Status
from paris_p2p.peer.summary import describe_run
from paris_p2p.peer.view import Console, draw
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.probe_result import ProbeResult
from paris_p2p.score.page import Report, Section, Table, render
from paris_p2p.shown import LINE_LETTERS, ready_streams, say, shown, shown_lines
from paris_p2p.spec import RunSpec
from tests.peer.world import World

HOSTILE = (
    "nice\x1b[3A\r\x1b[2KOwner      12D3KooWTheUniversity\x1b[2B\r",
    "\x1b]52;c;cm0gLXJm\x07evil",
    "\x9b2J\x9d0;title\x9c",
    "line\r\nOwner      12D3KooWTheUniversity (the signature on the run is this key's)",
    "a\u2028Owner      b\u2029c\x85d\vd\fe",
    "\u202egpj.exe\u202c \u2066x\u2069",
    "pay\u200bpal\ufeff\u00ad\u2060\U000e0041",
    "a" + "\u0301" * 400,
    "\ud83d half",
    "[red]red[/red] [link=https://example.org]here[/link] [/]",
    "name" + " " * 300 + "Owner      12D3KooWTheUniversity",
    "\u3164\u2800\u3000\xa0x" * 40,
    "x" * 100_000,
)
STEERS = ("Cc", "Cf", "Cs", "Zl", "Zp")


def harmless(text: str, *, lines: bool = True) -> None:
    for letter in text:
        assert unicodedata.category(letter) not in STEERS or (lines and letter == "\n"), (letter, text[:300])
    assert "\u0301" * 5 not in text
    for line in text.splitlines():
        assert not line.startswith("Owner      12D3KooWTheUniversity")
        assert " " * 40 + "Owner" not in line


@pytest.mark.parametrize("words", HOSTILE)
def test_one_line_stays_one_line_of_bounded_length_that_steers_nothing(words: str) -> None:
    line = shown(words)
    harmless(line, lines=False)
    assert 0 < len(line) <= LINE_LETTERS
    assert shown(line) == line


@pytest.mark.parametrize(
    "words", ["", "a red ball rolls", "naïve café, 猫が走る, Ελληνικά, עברית, क्षेत्र", "🎬 film", "[red]"]
)
def test_honest_words_are_shown_as_they_are(words: str) -> None:
    assert shown(words) == words


def test_lines_of_ours_keep_their_columns_and_their_length() -> None:
    ours = "slot       card\n  expert-0   " + "x" * 900
    assert shown_lines(ours) == ours
    harmless(shown_lines("ok\n" + "\n".join(HOSTILE[:3])))


def hostile_run(run: Envelope[RunSpec], words: str) -> Envelope[RunSpec]:
    """The run as if its parts had not been bounded when it was parsed."""
    told = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), words)
    told |= {
        kind: getattr(run.record, kind).model_copy(update={"preset": words}) for kind in ("expert", "router")
    }
    return Envelope(
        record=run.record.model_copy(update=told), signer=run.signer, payload=run.payload, data=run.data
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Envelope[RunSpec]:
    return World(tmp_path_factory.mktemp("world")).run


@pytest.mark.parametrize("words", HOSTILE)
def test_what_is_asked_before_the_yes_has_one_owner_line_whatever_the_run_says_of_itself(
    words: str, run: Envelope[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.summary.weights_bytes", lambda spec, slot: 2000)
    monkeypatch.setenv("COLUMNS", "80")
    asked = describe_run(hostile_run(run, words), PeerSettings(data_dir=tmp_path))
    harmless(asked)
    assert [line.split()[1] for line in asked.splitlines() if line.startswith("Owner")] == [run.signer]
    assert all(cell_len(line) < 80 for line in asked.splitlines())  # a terminal never begins a row of its own
    assert all(line.startswith(" " * 11) or line[0].isupper() for line in asked.splitlines())


@pytest.mark.parametrize("words", HOSTILE)
def test_the_live_view_and_status_show_names_reasons_and_roles_as_plain_text(words: str) -> None:
    status = Status(
        at=0,
        run="ab" * 32,
        name=words,
        owner="o",
        peer_id="p" * 52,
        role="peer",
        phase="training",
        why=words,
        slots=(),
        peers=(),
        refused_cards={words: 3},
    )
    screen = io.StringIO()
    RichConsole(file=screen, force_terminal=True, color_system=None, width=120).print(draw(status))
    harmless(screen.getvalue())
    if words.startswith("[red]"):
        assert words in screen.getvalue()  # markup is text, too
    assert json.dumps(
        status.model_dump()
    ).isascii()  # `status --json`: every letter that others wrote is escaped


def failing(error: RecordError) -> None:
    with pytest.raises(SystemExit):
        console.fail(error)


PRINTERS: dict[str, Callable[[str], None]] = {
    "say of the view": lambda words: Console().say(f"refused expert-0 seq 3: {words}"),
    "say": lambda words: say(f"mirroring run {words!s}"),
    "echo": lambda words: console.echo(f"cluster 0: {words.splitlines()[0]}"),
    "fail": lambda words: failing(RecordError(f"it said: {words}")),
    "a warning": lambda words: logging.getLogger("paris_p2p.test").warning("dropped source %s", words),
    "a library's warning": lambda words: logging.getLogger("other").warning("odd: %s", words),
}


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("path", PRINTERS)
def test_no_path_that_prints_lets_them_through(
    path: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    PRINTERS[path](words)
    printed = capsys.readouterr()
    assert printed.out + printed.err
    harmless(printed.out + printed.err)


@pytest.mark.parametrize("words", HOSTILE)
def test_a_traceback_in_the_log_file_keeps_its_lines_and_nothing_else(words: str, tmp_path: Path) -> None:
    with logs._logging_to(tmp_path / "log"):
        try:
            raise ValueError(words)
        except ValueError:
            logging.getLogger("paris_p2p.test").exception("it failed: %s", words)
    written = (tmp_path / "log").read_text(encoding="utf-8")
    assert "Traceback" in written
    harmless(written)


@pytest.mark.parametrize("words", HOSTILE)
def test_a_progress_bar_is_named_in_plain_text(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bars() as progress:
        progress(words, 1, 2)
    harmless(capsys.readouterr().err)


def test_bars_say_nothing_before_there_is_anything_and_fit_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with console.progress_bars():
        pass
    assert capsys.readouterr().err == ""
    with console.progress_bars() as progress:
        progress("fetching bytes", 600_000_000, 600_000_000)
        progress("denoising steps", 20, 20)
    rows = capsys.readouterr().err.splitlines()
    assert [row.split()[0] for row in rows] == ["fetching", "denoising"], rows
    assert all(cell_len(row) <= 80 for row in rows)


@pytest.mark.parametrize("words", HOSTILE)
def test_the_report_escapes_markup_and_shows_no_controls(words: str) -> None:
    page = render(Report(words, (words,), (Section(words, (words,), (Table("t", ("a",), ((words,),)),)),)))
    assert not [letter for letter in page if unicodedata.category(letter) in STEERS and letter not in "\n"]


def test_a_probed_node_says_nothing_but_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from paris_p2p import probe

    told = ProbeResult.model_construct(
        **{
            **ProbeResult.model_construct(address="a", expected_peer_id="p", reachable=True).__dict__,
            "agent": HOSTILE[0],
            "peer_id": "p",
        }
    )
    monkeypatch.setattr(probe, "installed", lambda: True)
    monkeypatch.setattr(probe, "dial", lambda address, limit_s: told)
    address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW9vug3AtaGFBnXRVRDan6a8NjvZVEhLsrSz1Rf5a1sfyf"
    for options in ([], ["--json"]):
        probe.main([address, *options])
        harmless(capsys.readouterr().out)


@pytest.mark.parametrize("field", ["name", "purpose", "data_licence", "weights_licence"])
def test_a_run_whose_words_hold_control_characters_is_not_read_at_all(
    field: str, run: Envelope[RunSpec]
) -> None:
    with pytest.raises(ValueError, match="control characters"):
        RunSpec.model_validate({**run.record.model_dump(), field: "x\x1b[2K"})
    assert (
        RunSpec.model_validate({**run.record.model_dump(), "purpose": "two\nlines"}).purpose == "two\nlines"
    )


# encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_no_stream_fails_for_its_encoding(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    ready_streams(stream)
    stream.write("12… × 3 – 猫 \udcff")
    stream.flush()
    written = raw.getvalue().decode(encoding)
    assert "12" in written
    if encoding == "ascii":
        assert written == "12... x 3 - \\u732b \\udcff"


@pytest.mark.parametrize(
    "setting",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_the_commands_speak_on_an_8_bit_terminal(setting: dict[str, str]) -> None:
    for module in ("peer", "run", "bootstrap"):
        script = f"import sys; sys.argv = ['x', '--help']; from paris_p2p.cli.{module} import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, check=False, env={**os.environ, **setting}
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert b"Usage" in done.stdout


def test_words_of_others_are_printed_where_there_is_no_letter_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ready_streams(stream)
    monkeypatch.setattr(sys, "stdout", stream)
    console.echo("cut: 'un château…'")
    assert raw.getvalue() == b"cut: 'un ch\\xe2teau...'\n"


# streams that are gone


def test_a_pipe_without_a_reader_and_a_terminal_that_was_closed_end_nothing() -> None:
    script = (
        "from paris_p2p.shown import say\nfor _ in range(3): "
        "say('still here')\nopen(__import__('sys').argv[1], 'w').write('ended')"
    )
    for make in (os.pipe, pty.openpty):
        reader, writer = make()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-c", script, "/dev/stderr"], stdout=writer, stderr=subprocess.PIPE, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"ended")
