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
from paris_p2p.disk import named_path
from paris_p2p.errors import DiskFullError, InviteError, ParisError, ReadOnlyError, UsageError
from paris_p2p.pasted import decode_pasted
from paris_p2p.shown import FIELD_LETTERS, lose_closed_terminal, put, ready_streams, shown, shown_lines

if TYPE_CHECKING:
    from paris_p2p.invite import Invite

ERROR_LETTERS = 2000
MAX_INVITE_BYTES = 1 << 16
_ENOSPC, _EDQUOT, _EROFS, _EACCES = 28, 122, 30, 13


class Ended(SystemExit):
    """Ends a command after a signal, once what is open is closed, with 128 and the signal's number."""


def run_app(app: typer.Typer) -> NoReturn:
    """Runs a command; an error we raised on purpose is its message and its exit status, never a traceback."""
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
    """Prints what a command answers: lines of ours, in which others may have had a say."""
    put(shown_lines(text))


async def confirmed(question: str) -> bool:
    """Asks a person and waits for the answer, which Ctrl-C cuts short; UsageError where nobody can be asked.

    It reads no line in a thread, for a thread that waits for one cannot be stopped.
    """
    import asyncio

    if not sys.stdin.isatty():
        raise UsageError("cannot ask here, since there is no terminal; read the above and add --yes")
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    sys.stdout.write(f"{question} [y/N]: ")
    sys.stdout.flush()
    loop.add_reader(sys.stdin, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def wrapped(text: str) -> str:
    """Returns lines broken between words at 80 columns, or at the terminal's when that is wider."""
    columns = max(80, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80
    wrapper = textwrap.TextWrapper(
        columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapper.fill(line) if len(line) > columns else line for line in text.splitlines())


def end_in_order() -> None:
    """Lets SIGTERM and, unless nohup switched it off, SIGHUP end a command in good order, as Ctrl-C does."""

    def on_signal(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            lose_closed_terminal()
        raise Ended(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, on_signal)


def parse_invite(argument: str, home: Path) -> Invite:
    """Returns the invite, which must name a peer unless its run was joined from `home` before."""
    from paris_p2p.invite import Invite
    from paris_p2p.node.host import spec_path

    parsed = Invite.parse(read_invite(argument))
    if not parsed.peers and not spec_path(home, parsed.run).exists():
        raise InviteError(
            f"the invite paris:{parsed.run[:16]}… names no peer to ask: it seems cut at the `?`, "
            "which a shell may do; "
            "put the whole invite in quotes"
        )
    return parsed


def read_invite(argument: str) -> str:
    """Returns an invite's text, out of `@file`, or of stdin for `-`, where no shell's history keeps it."""
    if argument == "-":
        return _decoded(_stdin_bytes(), "standard input")
    if argument.startswith("@"):
        path = named_path(argument[1:])
        if not path.is_file():
            raise InviteError(f"there is no file {path} to read the invite from")
        try:
            with path.open("rb") as file:
                return _decoded(file.read(MAX_INVITE_BYTES), str(path))
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}; check the path and who may read it"
            ) from error
    # os.path's, because long words are an error to Path.exists
    if "paris" not in argument.lower() and os.path.exists(argument):
        kind = "folder" if Path(argument).is_dir() else "file"
        hint = f"; to read the invite from it, write @{argument}" if kind == "file" else ""
        raise InviteError(f"{argument} is a {kind}, where an invite (paris:…) is wanted{hint}")
    return argument


def _stdin_bytes() -> bytes:
    """Returns a line that is typed, or all of a pipe."""
    if sys.stdin.isatty():
        return sys.stdin.readline().encode(errors="surrogateescape")
    return sys.stdin.buffer.read(MAX_INVITE_BYTES)


def _decoded(data: bytes, where: str) -> str:
    try:
        return decode_pasted(data)
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not a text file (byte {error.start} is none); name another") from error


def read_text(path: Path) -> str:
    """Returns a file's text, UTF-8 or marked UTF-16, with its line ends as they are; UsageError otherwise."""
    from paris_p2p.data.text_files import NotTextError, decode_text

    try:
        return decode_text(named_path(path).read_bytes()).text
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; check the path and who may read it"
        ) from error
    except NotTextError as error:
        raise UsageError(f"{path} is not a text file in UTF-8 or marked UTF-16; save it as UTF-8") from error


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Draws one bar per stage: call what it yields with (stage, done, total)."""
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

    from paris_p2p.byte_size import in_units

    class Done(ProgressColumn):
        """Shows how many of how many are done; of bytes the rate too."""

        def render(self, task: Task) -> Text:
            done, total = task.completed, task.total or 0
            if not task.description.endswith("bytes"):
                return Text(f"{done:.0f}/{total:.0f}")
            return Text(f"{in_units(done)} of {in_units(total)}, {in_units(task.speed or 0)}/s")

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
