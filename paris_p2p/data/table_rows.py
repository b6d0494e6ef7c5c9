"""Reads the rows of a table of captions, cells or JSON lines, and checks each; errors show the line.

What separates the columns (comma, semicolon, tab or bar) is read off the header.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from paris_p2p.data.text_files import quoted
from paris_p2p.errors import DataError

FILE_KEYS = (
    "file", "file_name", "filename", "filepath", "file_path", "path", "name", "media", "video", "video_path",
    "image", "image_path", "clip",
)  # fmt: skip
CAPTION_KEYS = ("caption", "text", "prompt", "description", "txt")
GROUP_KEY, START_KEY, END_KEY = "source", "start", "end"
_KEYS = (*FILE_KEYS, *CAPTION_KEYS, GROUP_KEY, START_KEY, END_KEY)
_DELIMITERS = ",;\t|"
_SHOWN_CHARACTERS = 100


def cell_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, column -> cell).

    A row must be as wide as the header: a bare comma would cut the caption.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    delimiter = _delimiter(path, lines[first])
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    began = 1
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 20))
    try:
        for cells in reader:
            line, began = began, reader.line_num + 1
            if not header:
                if any(cell.strip() for cell in cells):
                    header = [cell.strip().lower() for cell in cells]
                    _check_keys(path, line, header, _shown_line(lines, line))
                continue
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {line} has {len(cells)} cells, "
                    f"the header has {len(header)} ({', '.join(header)}): {_shown_line(lines, line)}. "
                    f"Put a caption that holds {quoted(delimiter)} into double quotes"
                )
            _check_quotes(path, lines, (line, reader.line_num), delimiter)
            yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {began}: {_shown_line(lines, began)} cannot be read ({error}). "
            'A quote that opens must close, and one inside a caption is written twice: "says ""hi"""'
        ) from error


def json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, the object on it) of JSON lines; DataError for a line that is not such an object."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not JSON ({error}): {_cut(line)}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number} is {_kind(row)}, not an object with file and caption: {_cut(line)}"
            )
        row = {key.strip().lower(): value for key, value in row.items()}
        _check_keys(path, number, row, _cut(line))
        yield number, row


def value_of(path: Path, line: int, row: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Returns the first of the keys that the row has, as text; empty when none is filled."""
    for key in keys:
        value = row.get(key)
        if value is None or value == "":
            continue
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if numeric and key in (GROUP_KEY, START_KEY, END_KEY):
            return str(value)
        if not isinstance(value, str):
            raise DataError(f"{path}, line {line}: {key} is {_kind(value)}, not text: {shown_row(row)}")
        if value.strip():
            return value.strip()
    return ""


def _check_quotes(path: Path, lines: Sequence[str], span: tuple[int, int], delimiter: str) -> None:
    """Raises DataError when a row over several lines, first and last given, seems to hold other rows."""
    line, last = span
    for inside in range(line + 1, last + 1):
        suffix = PurePosixPath(lines[inside - 1].split(delimiter)[0].strip().strip('"')).suffix
        if delimiter in lines[inside - 1] and suffix and " " not in suffix:
            raise DataError(
                f"{path}: a quote opens on line {line} and closes on line {last} only, "
                f"so that line {inside} ({_shown_line(lines, inside)}) would be part of a caption: "
                f"{_shown_line(lines, line)}. Close it"
            )


def _delimiter(path: Path, header: str) -> str:
    """Returns what separates the header so that it names a file and a caption.

    When nothing does, it is the delimiter of the file's ending.
    """
    own = "\t" if path.suffix == ".tsv" else ","
    for delimiter in own + _DELIMITERS:
        names = {cell.strip().strip('"').lower() for cell in header.split(delimiter)}
        if names & set(FILE_KEYS) and names & set(CAPTION_KEYS):
            return delimiter
    return own


def _kind(value: Any) -> str:
    kinds = {
        list: "a list",
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return kinds.get(type(value), "a text")


def shown_row(row: Mapping[str, Any]) -> str:
    """Quotes a row as a message can hold it, cut to its first characters."""
    return _cut(", ".join(f"{key}: {value}" for key, value in row.items()))


def _shown_line(lines: Sequence[str], line: int) -> str:
    return _cut(lines[line - 1]) if line <= len(lines) else "the end of the file"


def _cut(text: str) -> str:
    text = text.strip()
    return quoted(text[:_SHOWN_CHARACTERS] + ("…" if len(text) > _SHOWN_CHARACTERS else ""))


def _check_keys(path: Path, line: int, keys: Iterable[str], row: str) -> None:
    """Raises DataError when a header or a row has no key for the file or the caption."""
    here = list(keys)
    twice = [key for key in _KEYS if here.count(key) > 1]
    if twice:
        raise DataError(f"{path}, line {line} has {twice[0]} twice: {row}. Rename one of the two columns")
    for what, wanted in (("file", FILE_KEYS), ("caption", CAPTION_KEYS)):
        if not set(wanted) & set(here):
            raise DataError(
                f"{path}, line {line} has {', '.join(map(quoted, here[:12])) or 'nothing'} and so no {what}: "
                f"{row}. Each line needs file and caption (and may have source); "
                f"a {what} may be called {', '.join(wanted)}"
            )
