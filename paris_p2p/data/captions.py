"""Reads captions from one table of a folder: what its rows must be, and which file each row names.

The tables are captions.csv, .tsv and .jsonl and, as other tools call them, metadata.csv, .tsv and .jsonl.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from paris_p2p.data.table_rows import (
    CAPTION_KEYS,
    END_KEY,
    FILE_KEYS,
    GROUP_KEY,
    START_KEY,
    cell_rows,
    json_rows,
    shown_row,
    value_of,
)
from paris_p2p.data.text_files import NotTextError, clean_caption, decode_text, quoted
from paris_p2p.errors import DataError

TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "metadata.csv", "metadata.tsv", "metadata.jsonl")
OTHER_TABLES = (
    "captions.json", "captions.parquet", "captions.xlsx",
    "metadata.json", "metadata.parquet", "metadata.xlsx",
)  # fmt: skip
MAX_TABLE_BYTES = 1 << 30
_NEAR_NAMES = 200  # so many missing names are compared with the files: each looks at every file


@dataclass(frozen=True)
class Note:
    """Says what was cut, guessed or converted of a file that is used; `what` is one of a few phrases."""

    name: str
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Caption:
    """Holds a caption, the source that the owner named, and the row's line.

    `start` and `end` are as written.
    """

    text: str
    group: str = ""
    line: int = 0
    start: str = ""
    end: str = ""


@dataclass(frozen=True)
class Missed:
    """Holds a row's name that no file has; `near` is a file's name much like it, or empty."""

    name: str
    line: int
    near: str = ""


@dataclass
class CaptionTable:
    """Holds the rows of a folder's table by the name as written; it is empty without a table.

    `notes` say what was done to them.
    """

    path: Path | None = None
    rows: dict[str, list[Caption]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name if self.path is not None else "captions.csv"

    def match(self, folder: Path, names: Sequence[str]) -> tuple[dict[str, list[Caption]], list[Missed]]:
        """Returns (a file's name -> its rows, rows that name no file).

        Names match exactly, or else as the file systems of other machines match them, where one file does.
        """
        left, found = dict(self.rows), dict[str, list[Caption]]()
        here = set(names)
        for written in [written for written in left if written in here]:
            found[written] = left.pop(written)
        by_key: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            by_key[name_key(name)].append(name)
        missed: list[Missed] = []
        for written, rows in left.items():
            same = by_key[key] if (key := name_key(_inside(folder, written))) in by_key else []
            if len(same) == 1 and same[0] not in found:
                found[same[0]] = rows
                why = f"{self.name} names {quoted(written)}"
                self.notes.append(Note(same[0], "name matched though written otherwise", why))
            else:
                near = ", ".join(same) or (_nearest(key, by_key) if len(missed) < _NEAR_NAMES else "")
                missed.append(Missed(written, rows[0].line, near))
        return found, missed


def name_key(name: str) -> str:
    """Returns a key equal for names that differ in case, separators or composition of accents."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
    return unicodedata.normalize("NFC", str(PurePosixPath(plain)))


def _inside(folder: Path, written: str) -> str:
    """Returns the name inside the folder of a row written from the root of this or another machine's disk."""
    plain = written.replace("\\", "/")
    for root in (folder.absolute(), folder.resolve()):
        prefix = name_key(root.as_posix()) + "/"
        if name_key(plain).startswith(prefix):
            return name_key(plain)[len(prefix) :]
    return plain


def _nearest(key: str, by_key: Mapping[str, Sequence[str]]) -> str:
    """Returns the file whose path, or else own name without its ending, is nearly this one."""
    own = PurePosixPath(key)
    others = [(PurePosixPath(other), names[0]) for other, names in by_key.items()]
    alike = [name for other, name in others if other.name == own.name]
    alike += [name for other, name in others if other.stem in (own.stem, own.name)]
    if alike:
        return alike[0]
    close = get_close_matches(key, by_key, n=1, cutoff=0.85) if len(by_key) <= 20_000 else []
    return by_key[close[0]][0] if close else ""


def read_table(folder: Path, encoding: str = "") -> CaptionTable:
    """Reads the folder's one table; DataError names the line that cannot be a row, and shows it."""
    here = [name for name in TABLES if (folder / name).is_file()]
    if not here:
        return CaptionTable()
    path = folder / here[0]
    table = CaptionTable(path)
    for other in here[1:]:
        table.notes.append(Note(other, "table not read", f"{here[0]} is; keep one table a folder"))
    text = _text_of(path, encoding, table)
    rows = json_rows(path, text) if path.suffix == ".jsonl" else cell_rows(path, text)
    for line, row in rows:
        _take(table, path, line, row)
    return table


def _text_of(path: Path, encoding: str, table: CaptionTable) -> str:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes, at most {MAX_TABLE_BYTES}; split the folder"
            )
        decoded = decode_text(path.read_bytes(), encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check who may read it") from error
    except NotTextError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if decoded.converted_from:
        table.notes.append(Note(path.name, f"read as {decoded.converted_from}", "as --caption-encoding says"))
    return decoded.text


def _take(table: CaptionTable, path: Path, line: int, row: Mapping[str, Any]) -> None:
    """Puts a row under its file's name; DataError for a value of the wrong kind."""
    name, caption = value_of(path, line, row, FILE_KEYS), value_of(path, line, row, CAPTION_KEYS)
    group, start, end = (value_of(path, line, row, (key,)) for key in (GROUP_KEY, START_KEY, END_KEY))
    if not name and not caption:
        table.notes.append(Note(f"{path.name}, line {line}", "row without file and caption left out"))
        return
    if not name:
        raise DataError(
            f"{path}, line {line} names no file: {shown_row(row)}; fill in its name, or delete the line"
        )
    if end and not start:
        raise DataError(
            f"{path}, line {line} has an end and no start: {shown_row(row)}; "
            "a row with times needs a start, 0 for the video's own"
        )
    text, done = clean_caption(caption)
    table.notes += [Note(name, what) for what in done]
    name = PurePosixPath(name).as_posix()
    known = table.rows.setdefault(name, [])
    new = Caption(text, clean_caption(group)[0], line, start, end)
    if known and not (start and all(row.start for row in known)):
        if (known[0].text, known[0].group) != (new.text, new.group):
            raise DataError(
                f"{path} names {quoted(name)} on line {known[0].line} and again, "
                f"with another caption or source, on line {line}; keep one, or give both a start and an end"
            )
        return
    known.append(new)
