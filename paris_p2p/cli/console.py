"""How the commands speak to a person: errors on one line, invites from anywhere, progress bars, sizes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from paris_p2p.cli import logs
from paris_p2p.errors import DiskFullError, InviteError, ParisError, ReadOnlyError, UsageError
from paris_p2p.pasted import decode_pasted
from paris_p2p.shown import FIELD_LETTERS, lose_closed_terminal, put, ready_streams, shown, shown_lines

if TYPE_CHECKING:
    from paris_p2p.spec import Invite

ERROR_LETTERS = 2000
MAX_INVITE_BYTES = 1 << 16
_ENOSPC, _EDQUOT, _EROFS, _EACCES = 28, 122, 30, 13


class Ended(SystemExit):
    """A signal ends this command: what is open is closed on the way out, then it exits with 128 and the
    signal's number.
    """


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command; an error we raised on purpose is its message and its exit status, never a traceback."""
    ready_streams()
    logs.set_up()
    end_in_order()
    try:
        app(standalone_mode=True)
    except ParisError as error:
        fail(error)
    except KeyboardInterrupt:
        put("interrupted", sys.stderr)
        sys.exit(130)
    except Ended as ended:
        put(f"ended by {signal.Signals(int(ended.code or 0) - 128).name}", sys.stderr)
        raise
    except OSError as error:
        where = error.filename or "this disk"
        if error.errno in (_ENOSPC, _EDQUOT):
            fail(DiskFullError(f"no space left for {where}; free some, or choose another folder"))
        if error.errno in (_EROFS, _EACCES):
            fail(
                ReadOnlyError(
                    f"cannot write {where}: {error.strerror}; choose another folder with --data-dir or --out"
                )
            )
        raise
    sys.exit(0)


def fail(error: ParisError) -> NoReturn:
    put(f"error: {shown(error, ERROR_LETTERS)}", sys.stderr)
    sys.exit(error.exit_code)


def echo(text: str) -> None:
    """Print what a command answers: lines of ours, in which others may have had a say."""
    put(shown_lines(text))


def wrapped(text: str) -> str:
    """Lines broken between words at 80 columns, or at the terminal's when that is wider; what goes on is
    indented.
    """
    columns = max(80, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80
    wrapper = textwrap.TextWrapper(
        columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapper.fill(line) if len(line) > columns else line for line in text.splitlines())


def end_in_order() -> None:
    """SIGTERM and, unless nohup switched it off, SIGHUP end a command as Ctrl-C does, and not at once."""

    def on_signal(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            lose_closed_terminal()
        raise Ended(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, on_signal)


@contextmanager
def checked_options(**spelled: str) -> Iterator[None]:
    """Within it, a value that a settings model refuses is a UsageError with the option as typed, the value
    and the limit.

    `spelled` gives the option of a field that is called otherwise.
    """
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        option = spelled.get(field, "--" + field.replace("_", "-"))
        limit = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise UsageError(f"{option} {str(first['input'])[:100]}: {limit}") from error


def parse_invite(argument: str, home: Path) -> Invite:
    """The invite, which must name a peer unless its run was joined from `home` before."""
    from paris_p2p.node.host import spec_path
    from paris_p2p.spec import Invite

    parsed = Invite.parse(read_invite(argument))
    if not parsed.peers and not spec_path(home, parsed.run).exists():
        raise InviteError(
            f"the invite paris:{parsed.run[:16]}… names no peer to ask: it seems cut at the `?`, "
            "which a shell may do; "
            "put the whole invite in quotes"
        )
    return parsed


def read_invite(argument: str) -> str:
    """The invite itself, `@file`, or `-` for stdin, so that a private one need not stand in the shell's
    history.
    """
    if argument == "-":
        return _decoded(_stdin_bytes(), "standard input")
    if argument.startswith("@"):
        path = Path(argument[1:]).expanduser()
        if not path.is_file():
            raise InviteError(f"there is no file {path} to read the invite from")
        try:
            with path.open("rb") as file:
                return _decoded(file.read(MAX_INVITE_BYTES), str(path))
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}; check the path and who may read it"
            ) from error
    if "paris" not in argument.lower() and Path(argument).exists():
        kind = "folder" if Path(argument).is_dir() else "file"
        hint = f"; to read the invite from it, write @{argument}" if kind == "file" else ""
        raise InviteError(f"{argument} is a {kind}, where an invite (paris:…) is wanted{hint}")
    return argument


def want_folder(argument: Path, what: str) -> None:
    """UsageError when an invite stands where a folder is wanted: the two are easily swapped."""
    if str(argument).lower().lstrip("\"'<").startswith(("paris:", "@", "paris%3a")) and not argument.exists():
        raise UsageError(
            f"an invite stands where {what} is wanted: {str(argument)[:40]!r}; see --help for the order"
        )


def _stdin_bytes() -> bytes:
    """A line that is typed, or all of a pipe."""
    if sys.stdin.isatty():
        return sys.stdin.readline().encode(errors="surrogateescape")
    return sys.stdin.buffer.read(MAX_INVITE_BYTES)


def _decoded(data: bytes, where: str) -> str:
    try:
        return decode_pasted(data)
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not a text file (byte {error.start} is none); name another") from error


def read_text(path: Path) -> str:
    """A text file that the user named, UTF-8 or marked UTF-16, its line ends as they are; UsageError
    otherwise.
    """
    from paris_p2p.data.text_files import NotTextError, decode_text

    try:
        return decode_text(path.expanduser().read_bytes()).text
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; check the path and who may read it"
        ) from error
    except NotTextError as error:
        raise UsageError(f"{path} is not a text file in UTF-8 or marked UTF-16; save it as UTF-8") from error


def default_data_dir() -> Path:
    """XDG data directory, or PARIS_DATA_DIR."""
    from platformdirs import user_data_path

    return Path(os.environ.get("PARIS_DATA_DIR") or user_data_path("paris-p2p"))


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """One bar per stage: call it with (stage, done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Done(ProgressColumn):
        """How many of how many; of bytes their rate too."""

        def render(self, task: Task) -> Text:
            done, total = task.completed, task.total or 0
            if not task.description.endswith("bytes"):
                return Text(f"{done:.0f}/{total:.0f}")
            return Text(f"{human_bytes(done)} of {human_bytes(total)}, {human_bytes(task.speed or 0)}/s")

    bars: dict[str, int] = {}
    name = TextColumn("{task.description:<28}", markup=False)
    columns = (
        name,
        BarColumn(),
        Done(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))

    def report(stage: str, done: int, total: int) -> None:
        if not bars:
            progress.start()  # with nothing to show yet it would leave an empty line, above an error say
        if stage not in bars:
            bars[stage] = progress.add_task(shown(stage, FIELD_LETTERS), total=total)
        progress.update(bars[stage], completed=done, total=total)  # type: ignore[arg-type]

    try:
        yield report
    finally:
        if bars:
            progress.stop()
