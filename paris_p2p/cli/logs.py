"""Where the log goes: `--verbose` and `--log-file` on every command, and what an operator needs without
either.

A terminal gets warnings; commands that run for days (`start`, `publish`, `serve`) also say what they do.
`say` prints its own lines, so they go to the file alone here.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, TextIO

import typer

from paris_p2p.disk import named_path
from paris_p2p.errors import UsageError
from paris_p2p.shown import SAID, put, shown, shown_lines

FILE_BYTES, FILES_KEPT = 10_000_000, 5
MESSAGE_LETTERS = 2000
OURS = "paris_p2p"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
_KEPT = f"Log to this file too; at {FILE_BYTES // 1_000_000} MB a new one begins, {FILES_KEPT} old ones stay."


@dataclass(frozen=True)
class LogFlags:
    """Holds the options of every command about its log."""

    verbose: Annotated[
        bool, typer.Option("--verbose", help="Say everything, to find a fault.", rich_help_panel="Log")
    ] = False
    log_file: Annotated[
        Path | None, typer.Option("--log-file", metavar="FILE", help=_KEPT, rich_help_panel="Log")
    ] = None


def set_up() -> None:
    """Sends warnings to standard error, ours and every library's, through one formatter."""
    root = logging.getLogger()
    for handler in [*root.handlers]:
        if isinstance(handler, _Terminal):
            root.removeHandler(handler)
    root.addHandler(_Terminal())
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(logging.WARNING)


def long_running() -> None:
    """Prints what a command does that runs for days."""
    _listen(logging.INFO)


@contextmanager
def logging_as(flags: LogFlags) -> Iterator[None]:
    """Logs as the options say, within it."""
    if flags.verbose:
        _listen(logging.DEBUG)
    with _logging_to(flags.log_file):
        yield


@contextmanager
def _logging_to(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    try:
        handler = _File(named_path(path))
    except OSError as error:
        raise UsageError(f"--log-file {path}: {error.strerror}; name a file that can be written") from error
    ours, root = logging.getLogger(OURS), logging.getLogger()
    ours.setLevel(min(logging.INFO, ours.level or logging.INFO))
    root.addHandler(handler)
    try:
        yield
    except Exception as error:
        root.handle(_last_words(error))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


def _last_words(error: Exception) -> logging.LogRecord:
    """Returns what ended the command, for the file alone: `run_app` tells the terminal."""
    return logging.LogRecord(SAID, logging.ERROR, __file__, 0, "error: %s", (error,), None)


def _listen(level: int) -> None:
    """Lets our messages through down to this level, on the terminal too."""
    ours = logging.getLogger(OURS)
    ours.setLevel(min(level, ours.level))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Terminal):
            handler.setLevel(min(level, handler.level))


def _level(record: logging.LogRecord) -> str:
    """Returns the level's usual word: hivemind renames the levels of the whole process."""
    words = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
    return words.get(record.levelno, record.levelname.lower())


class _Formatter(logging.Formatter):
    """Makes one line of a message, whatever it holds; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        text = self.head(record) + shown(record.getMessage(), MESSAGE_LETTERS)
        if record.exc_info:
            told = shown_lines(self.formatException(record.exc_info))
            text += "\n" + indent(told, "    ", lambda _: True)  # no line of it can pose as another entry
        return text

    def head(self, record: logging.LogRecord) -> str:
        at = time.localtime(record.created)
        return f"{time.strftime('%Y-%m-%d %H:%M:%S%z', at)} {_level(record):<8} {record.name}: "


class _Brief(_Formatter):
    def head(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        if record.levelno == logging.INFO:
            return f"{clock} "
        where = f" {record.name}" if record.levelno < logging.INFO else ""
        return f"{clock} {_level(record)}{where}: "


class _ForJournal(_Formatter):
    """Has a priority before each line, which the journal takes away (sd-daemon(3)), and no clock."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))

    def head(self, record: logging.LogRecord) -> str:
        return "" if record.levelno == logging.INFO else f"{_level(record)}: "


def is_journal(stream: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Tells whether a stream of this process goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        at = os.fstat(stream)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{at.st_dev}:{at.st_ino}"


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to standard error as it is when a line comes: a live view stands in for it while it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self.setFormatter(_ForJournal() if is_journal(2) else _Brief())
        self.addFilter(lambda record: record.name != SAID)

    def emit(self, record: logging.LogRecord) -> None:
        put(self.format(record), sys.stderr)


class _File(RotatingFileHandler):
    def __init__(self, path: Path):
        super().__init__(
            path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", errors="backslashreplace"
        )
        self.setFormatter(_Formatter())
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error: Any = sys.exc_info()[1]
        if not self._told:  # a full disk: once, and the work goes on
            put(
                f"cannot write to the log file {shown(self.baseFilename)}: {shown(error)}; going on without",
                sys.stderr,
            )
        self._told = True
