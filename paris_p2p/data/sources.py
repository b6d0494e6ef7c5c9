"""Which videos and images there are and their captions: files with sidecars or one table, webdataset tars."""

from __future__ import annotations

import io
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from paris_p2p.data.captions import OTHER_TABLES, TABLES, Caption, CaptionTable, Note, name_key, read_table
from paris_p2p.data.images import IMAGE_SUFFIXES
from paris_p2p.data.sidecars import MAX_SIDECAR_BYTES, Sidecars, read_caption
from paris_p2p.data.text_files import NotTextError, shown
from paris_p2p.errors import DataError

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv",
    ".ts", ".webm", ".wmv",
))  # fmt: skip
SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
MAX_TAR_VIDEO_BYTES = 256 << 20  # a file inside a tar is read into memory
MAX_TAR_MEMBERS = 2_000_000
HASHED_WHOLE_BYTES = 256 << 10
HASHED_PIECES = 4


@dataclass(frozen=True)
class Source:
    """One video or image with its caption. `name` is its path inside the clips folder (`a.tar/000.mp4` inside a tar)."""

    name: str
    path: Path  # the file, or the tar that holds it
    offset_bytes: int
    size_bytes: int
    mtime_ns: int
    caption: str
    group: str  # what the owner says it was cut from; empty: it is its own source
    member: bool  # inside a tar

    @property
    def is_image(self) -> bool:
        return Path(self.name).suffix.lower() in IMAGE_SUFFIXES

    def open(self) -> BinaryIO:
        """The file's bytes."""
        if not self.member:
            return self.path.open("rb")
        with self.path.open("rb") as file:
            file.seek(self.offset_bytes)
            return io.BytesIO(file.read(self.size_bytes))

    def content_hash(self) -> str:
        """BLAKE3 of the size and, of a large file, of pieces spread over it: the same file gives the same hash."""
        digest = blake3(str(self.size_bytes).encode())
        with self.path.open("rb") as file:
            if self.size_bytes <= HASHED_WHOLE_BYTES:
                file.seek(self.offset_bytes)
                digest.update(file.read(self.size_bytes))
            else:
                piece = HASHED_WHOLE_BYTES // HASHED_PIECES
                for i in range(HASHED_PIECES):
                    file.seek(self.offset_bytes + i * (self.size_bytes - piece) // (HASHED_PIECES - 1))
                    digest.update(file.read(piece))
        return digest.hexdigest()


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why; `reason` is one of a few words to count by."""

    name: str
    reason: str
    detail: str = ""


@dataclass
class Found:
    """The captioned files of a folder by name, what is not used and why, and what was done to captions."""

    sources: list[Source] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def find_sources(folder: Path, leave_out: Path | None = None, encoding: str = "") -> Found:
    """Every captioned video and image under `folder`, sorted by name, but for what is under `leave_out`.

    `encoding` is of captions that are no Unicode; without it those are skipped. DataError when the folder
    is not there or its table cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder that holds the clips")
    found = Found()
    files = {path.relative_to(folder).as_posix(): path for path in _walk(folder, leave_out)}
    table = read_table(folder, encoding)
    matched, missed = table.match(folder, [name for name in files if name not in TABLES])
    sidecars = Sidecars(files, encoding, found.notes)
    for name, path in files.items():
        if path.suffix.lower() == ".tar":
            _read_tar(path, name, encoding, found)
        elif path.suffix.lower() in SUFFIXES or name in matched:
            _add(path, name, _from_table(name, matched) or sidecars, table, found)
        elif path.name in TABLES + OTHER_TABLES and path != table.path:
            found.notes.append(Note(name, "table not read", _table_advice(name, table)))
    for miss in missed:
        near = f"; nearly {shown(miss.near)}: make the two names alike" if miss.near else ""
        where = f"named in {table.name}, line {miss.line}, but not there{near}"
        found.skipped.append(Skipped(miss.name, "missing", where))
    found.notes += table.notes
    found.sources = _without_thumbnails(sorted(found.sources, key=lambda source: source.name), found.skipped)
    return found


def _table_advice(name: str, table: CaptionTable) -> str:
    if Path(name).name in OTHER_TABLES:
        return "write it as captions.jsonl, one object with file and caption a line"
    if table.path is not None and "/" not in name:
        return f"{table.name} is; keep one table a folder"
    return "only a table right in the prepared folder is read; move its rows there, paths from that folder"


def _from_table(name: str, matched: dict[str, list[Caption]]) -> Caption | None:
    rows = matched.get(name)
    if rows is None or not rows[0].text:
        return None
    return rows[0]


def _without_thumbnails(sources: list[Source], skipped: list[Skipped]) -> list[Source]:
    """`clip.jpg` beside `clip.mp4` shares its caption: it is that video's picture, not an image to learn from."""
    videos = {Path(source.name).with_suffix("").as_posix() for source in sources if not source.is_image}
    thumbnails = {s.name for s in sources if s.is_image and Path(s.name).with_suffix("").as_posix() in videos}
    skipped += [Skipped(name, "thumbnail", "an image beside the video of the same name") for name in sorted(thumbnails)]
    return [source for source in sources if source.name not in thumbnails]


def _walk(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    hidden = leave_out.resolve() if leave_out is not None else None
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (Path(root) / name).resolve() != hidden)
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root) / name


def _add(path: Path, name: str, caption: Caption | Sidecars, table: CaptionTable, found: Found) -> None:
    """Add a file with its row's caption, or else its sidecar's."""
    try:
        status = path.stat()
        if status.st_size == 0:
            found.skipped.append(Skipped(name, "empty"))
            return
        read = caption.of(name) if isinstance(caption, Sidecars) else caption
    except OSError as error:
        found.skipped.append(Skipped(name, "unreadable", str(error)))
    except NotTextError as error:
        found.skipped.append(Skipped(name, "caption not readable", str(error)))
    else:
        if read is None or not read.text:
            found.skipped.append(Skipped(name, "no caption", _caption_advice(name, table, read)))
        else:
            place = 0, status.st_size, status.st_mtime_ns
            found.sources.append(Source(name, path, *place, read.text, read.group, member=False))


def _caption_advice(name: str, table: CaptionTable, read: Caption | None) -> str:
    if read is not None:
        return "its caption file holds no words"
    for rows in (rows for written, rows in table.rows.items() if name_key(written) == name_key(name)):
        return f"{table.name}, line {rows[0].line}, has an empty caption"
    return f"write one into {Path(name).with_suffix('.txt')}, captions.csv or captions.jsonl"


def _read_tar(path: Path, name: str, encoding: str, found: Found) -> None:
    """Add a webdataset tar's samples: a video or an image and a `.txt` or `.json` (keys caption, source) with the same key."""
    media: dict[str, tarfile.TarInfo] = {}
    captions: dict[str, dict[str, bytes]] = defaultdict(dict)
    try:
        mtime_ns = path.stat().st_mtime_ns
        with tarfile.open(path, "r:") as tar:
            for count, member in enumerate(tar):
                if count >= MAX_TAR_MEMBERS:
                    raise tarfile.TarError(f"more than {MAX_TAR_MEMBERS} members")
                key, dot, suffix = member.name.rpartition(".")
                if not member.isreg() or not dot:
                    continue
                if f".{suffix.lower()}" in SUFFIXES:
                    media[member.name] = member
                elif suffix.lower() in ("txt", "json") and member.size <= MAX_SIDECAR_BYTES:
                    file = tar.extractfile(member)
                    captions[key][suffix.lower()] = file.read(MAX_SIDECAR_BYTES) if file is not None else b""
    except (OSError, tarfile.TarError) as error:
        found.skipped.append(Skipped(name, "unreadable", f"{error}; what came before is used"))
    for member in media.values():
        key = member.name.rpartition(".")[0]
        inside = f"{name}/{member.name}"
        if member.size == 0:
            found.skipped.append(Skipped(inside, "empty"))
        elif member.size > MAX_TAR_VIDEO_BYTES:
            size = f"{member.size} bytes; at most {MAX_TAR_VIDEO_BYTES} inside a tar"
            found.skipped.append(Skipped(inside, "too large", size))
        elif caption := _tar_caption(captions.get(key, {}), key, inside, encoding, found):
            place = member.offset_data, member.size, mtime_ns
            found.sources.append(Source(inside, path, *place, caption.text, caption.group, member=True))


def _tar_caption(
    files: dict[str, bytes], key: str, inside: str, encoding: str, found: Found
) -> Caption | None:
    """A sample's caption, of its text or else its object; None, and a line among the skipped, without one."""
    read: dict[str, Caption] = {}
    try:
        for kind, data in files.items():
            read[kind] = read_caption(data, f"{key}.{kind}", inside, encoding, found.notes)
    except NotTextError as error:
        found.skipped.append(Skipped(inside, "caption not readable", str(error)))
        return None
    text = next((read[kind].text for kind in ("txt", "json") if kind in read and read[kind].text), "")
    if not text:
        missing = f"the tar has no {key}.txt or {key}.json with a caption"
        found.skipped.append(Skipped(inside, "no caption", missing))
        return None
    return Caption(text, read["json"].group if "json" in read else "")
