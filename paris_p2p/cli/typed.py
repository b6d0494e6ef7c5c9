"""What is typed is checked while it is read.

A usage mistake is a word that cannot be right whatever the network, this machine and the data are like: an
unknown option or name, a value past its limit, a path where nothing is or something else, an invite that is
none. It may stand on the command line, in a variable or in a settings file. It is a UsageError, or typer's
own, and ends every command with status 2 before anything is fetched or written (docs/commands.md).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from paris_p2p.disk import named_path
from paris_p2p.errors import DataError, UsageError

INPUT_LETTERS = 100
_INVITE_MARKS = ("paris:", "@", "paris%3a")


def folder(what: str) -> Callable[[str], Path]:
    """Returns a reader of a folder that is there; `what` says which is wanted."""

    def read(text: str) -> Path:
        path = _not_an_invite(text, what)
        if not path.is_dir():
            state = "is not a folder" if path.exists() else "is not there"
            raise UsageError(f"{path} {state}, where {what} is wanted")
        return path

    return read


def file(what: str) -> Callable[[str], Path]:
    """Returns a reader of a file that is there; `what` says which is wanted."""

    def read(text: str) -> Path:
        path = _not_an_invite(text, what)
        if not path.is_file():
            state = "is not a file" if path.exists() else "is not there"
            raise UsageError(f"{path} {state}, where {what} is wanted")
        return path

    return read


def to_write(what: str) -> Callable[[str], Path]:
    """Returns a reader of a file to be written, new or instead of an old one; of a link, what it names.

    A device or a pipe would be replaced by the file, and a folder that is not there is noticed late.
    """

    def read(text: str) -> Path:
        path = named_path(text).resolve()
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a file, where {what} is to be written")
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent} is not a folder, where {what} is to be written; make it first")
        return path

    return read


def existing(what: str) -> Callable[[str], Path]:
    """Returns a reader of a file or folder that is there; `what` says which is wanted."""

    def read(text: str) -> Path:
        path = named_path(text)
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder, where {what} are wanted")
        return path

    return read


def model_folder(path: Path) -> Path:
    """Returns the folder of an exported model; UsageError when it is none."""
    if not (path / "model_index.json").is_file():
        state = "holds no model" if path.is_dir() else "is not a folder" if path.exists() else "is not there"
        raise UsageError(f"{path} {state}, where an invite or a folder of `paris-run export` is wanted")
    return path


def prepared(what: str) -> Callable[[str], Path]:
    """Returns a reader of a folder that `paris-run prepare` wrote; a damaged one passes."""
    read_folder = folder(what)

    def read(text: str) -> Path:
        from paris_p2p.data.prepared import FILE_NAME, Prepared

        path = read_folder(text)
        if not (path / FILE_NAME).is_file():
            try:
                Prepared.load(path)
            except DataError as error:
                raise UsageError(str(error)) from error
        return path

    return read


def _not_an_invite(text: str, what: str) -> Path:
    """Returns the path; UsageError when an invite stands there, since the two are easily swapped."""
    if text.lower().lstrip("\"'<").startswith(_INVITE_MARKS) and not os.path.exists(text):
        raise UsageError(f"an invite stands where {what} is wanted: {text[:40]!r}; see --help for the order")
    return named_path(text)


def rights(text: str) -> str:
    """Returns rights, separated by commas and in their order."""
    from paris_p2p.owner_records import RIGHTS

    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if word not in RIGHTS]
    if wrong:
        raise UsageError(
            f"--for {text[:INPUT_LETTERS]!r}: {wrong[0][:40]!r} is no right; there are {', '.join(RIGHTS)}, "
            "separated by commas"
        )
    return ",".join(right for right in RIGHTS if right in words)


def until(text: str) -> float:
    """Returns a date to come as Unix time; infinity for never."""
    return _moment(text, "--until", ago=False)


def every(text: str) -> float:
    """Returns a span of time between two things, in seconds; 0 for never."""
    from paris_p2p.time_span import seconds_in

    try:
        span_s = seconds_in(text)
    except ValueError as error:
        raise UsageError(f"{text[:INPUT_LETTERS]!r} {error}") from error
    return 0.0 if span_s == float("inf") else span_s


def since(text: str) -> float:
    """Returns a date that is over as Unix time."""
    return _moment(text, "--since", ago=True)


def _moment(text: str, flag: str, *, ago: bool) -> float:
    from paris_p2p.time_span import moment_in

    try:
        return moment_in(text, time.time(), ago=ago)
    except ValueError as error:
        raise UsageError(f"{flag} {text[:INPUT_LETTERS]!r} {error}") from error


def slot(text: str) -> str:
    """Returns the name of a slot; whether the run has it is another question."""
    if re.fullmatch(r"expert-(0|[1-9][0-9]{0,2})|router", text) is None:
        raise UsageError(
            f"{text[:INPUT_LETTERS]!r} is no slot; they are called expert-0, expert-1, … and router"
        )
    return text


def expert(text: str) -> str:
    """Returns the name of an expert; whether the run has it is another question."""
    if text == "router":
        raise UsageError("the router is no expert; they are called expert-0, expert-1, …")
    return slot(text)


def device(text: str) -> str:
    """Returns the name of a device; whether it is here is another question."""
    from paris_p2p.peer_settings import device_name

    try:
        return device_name(text)
    except ValueError as error:
        raise UsageError(f"--device {text[:40]!r} {error}") from error


def multiaddr(text: str) -> str:
    """Returns the address of a peer."""
    from paris_p2p.invite import peer_address

    try:
        return peer_address(text)
    except ValueError as error:
        raise UsageError(f"{text[:INPUT_LETTERS]!r} {error}") from error


def given(*groups: object) -> dict[str, Any]:
    """Returns the options of groups whose values are None unless they were typed."""
    return {name: value for group in groups for name, value in vars(group).items() if value not in (None, [])}


def typed_names(context: typer.Context, group: Any) -> set[str]:
    """Returns which of a group's options stand on the command line, their defaults typed out too."""
    sources = {field.name: context.get_parameter_source(field.name) for field in fields(group)}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


@contextmanager
def checked_options(*groups: object, **spelled: str) -> Iterator[None]:
    """Turns what a settings model refuses into a UsageError with the option, the value and the limit.

    Fields are spelled as the groups' options of the same name are, or as `spelled` says.
    """
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        flag = spelled.get(field) or _flags(groups).get(field) or "--" + field.replace("_", "-")
        limit = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise UsageError(f"{flag} {str(first['input'])[:INPUT_LETTERS]}: {limit}") from error


def _flags(groups: tuple[object, ...]) -> dict[str, str]:
    """Returns the first option of each field of the groups that is named otherwise than its field."""
    found: dict[str, str] = {}
    for group in groups:
        hints = get_type_hints(type(group), include_extras=True)
        for one in fields(group) if is_dataclass(group) else ():
            option = hints[one.name].__metadata__[0]
            # To typer the first positional argument is the default, until it sees it in an annotation.
            names = [name for name in (option.default, *option.param_decls) if isinstance(name, str)]
            long = [name for name in names if name.startswith("--")]
            if long:
                found[one.name] = long[0].partition("/")[0]
    return found
