"""Finds videos and images with their captions: files with sidecars or one table, and webdataset tars."""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from paris_p2p.data.captions import OTHER_TABLES, TABLES, Caption, CaptionTable, Note, name_key, read_table
from paris_p2p.data.film_parts import Span
from paris_p2p.data.folder import SUFFIXES, is_read, not_read, printable, walk
from paris_p2p.data.images import IMAGE_SUFFIXES
from paris_p2p.data.sidecars import MAX_SIDECAR_BYTES, Sidecars, read_caption
from paris_p2p.data.text_files import NotTextError, quoted
from paris_p2p.data.timed_captions import TimedCaption, timed_rows
from paris_p2p.data.track import Track
from paris_p2p.errors import DataError

MAX_TAR_VIDEO_BYTES = 256 << 20  # a file inside a tar is read into memory
MAX_TAR_MEMBERS = 2_000_000
HASHED_AT_ONCE_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """Describes one video or image with its caption.

    `name` is its path inside the clips folder (`a.tar/000.mp4` inside a tar).
    """

    name: str
    path: Path  # the file, or the tar that holds it
    offset_bytes: int
    size_bytes: int
    mtime_ns: int
    caption: str
    group: str  # what the owner says it was cut from; empty: it is its own source
    member: bool  # inside a tar
    timed: tuple[TimedCaption, ...] = ()  # captions by time; what lies between them is not used
    span: Span | None = None  # the part of a long video that this is; None: all of it
    track: Track | None = None  # what a pass over a video's packets found

    @property
    def id(self) -> str:
        """Returns the name, and which part of it this is."""
        return self.name if self.span is None else f"{self.name}#{self.span.number:05d}"

    @property
    def stretches_s(self) -> list[tuple[float, float]]:
        """Returns what of a video is read, from when to when: its part's edges, then captions by time."""
        part = [(self.span.start_s, self.span.end_s)] if self.span is not None else []
        return part + [(cue.start_s, cue.end_s) for cue in self.timed]

    def caption_at(self, start_s: float) -> str:
        """Returns the caption of the clip that starts at `start_s`."""
        return next(
            (cue.text for cue in self.timed if cue.start_s - 1e-6 <= start_s < cue.end_s), self.caption
        )

    @property
    def is_image(self) -> bool:
        return Path(self.name).suffix.lower() in IMAGE_SUFFIXES

    def open(self) -> BinaryIO:
        """Opens the file's bytes."""
        if not self.member:
            return self.path.open("rb")
        with self.path.open("rb") as file:
            file.seek(self.offset_bytes)
            return io.BytesIO(file.read(self.size_bytes))

    def content_hash(self) -> str:
        """Returns BLAKE3 of the size and all bytes: only what is equal in each of them is a copy."""
        digest = blake3(str(self.size_bytes).encode())
        with self.path.open("rb") as file:
            file.seek(self.offset_bytes)
            left = self.size_bytes
            while left > 0 and (piece := file.read(min(left, HASHED_AT_ONCE_BYTES))):
                digest.update(piece)
                left -= len(piece)
        return digest.hexdigest()


@dataclass(frozen=True)
class Skipped:
    """Names a file that is not used, and why; `reason` is one of a few words to count by."""

    name: str
    reason: str
    detail: str = ""


@dataclass
class Found:
    """Holds a folder's captioned files by name, what is skipped and why, and what was done to captions."""

    sources: list[Source] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def find_sources(folder: Path, leave_out: Path | None = None, encoding: str = "") -> Found:
    """Finds every captioned video and image under `folder`, sorted by name, except under `leave_out`.

    `encoding` is that of captions that are not Unicode; without it those are skipped. DataError when the
    folder is not there or its table cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder that holds the clips")
    found = Found()
    walked = walk(folder, leave_out)
    files = walked.files
    table = read_table(folder, encoding)
    matched, missed = table.match(folder, [name for name in files if name not in TABLES])
    sidecars = Sidecars(files, encoding, found.notes)
    for name, path in files.items():
        if path.suffix.lower() == ".tar":
            _read_tar(path, name, encoding, found)
        elif is_read(name, name in matched):
            _add(path, name, matched.get(name, []), sidecars, table, found)
        elif path.name.lower() in TABLES + OTHER_TABLES and path != table.path:
            found.notes.append(Note(name, "table not read", _table_advice(name, table)))
    for miss in missed:
        near = f"; nearly {quoted(miss.near)}: make the two names alike" if miss.near else ""
        where = f"named in {table.name}, line {miss.line}, but not there{near}"
        found.skipped.append(Skipped(miss.name, "missing", where))
    found.notes += table.notes
    left = not_read(files, {name for name in matched if is_read(name, True)}) | walked.left
    found.skipped += [Skipped(name, "not read", why) for name, why in left.items()]
    found.sources = _without_thumbnails(sorted(found.sources, key=lambda source: source.name), found.skipped)
    return found


def _table_advice(name: str, table: CaptionTable) -> str:
    if Path(name).name.lower() in OTHER_TABLES:
        return "write it as captions.jsonl, one object with file and caption a line"
    if table.path is not None and "/" not in name:
        return f"{table.name} is; keep one table a folder"
    if "/" not in name:
        return f"call it {name.lower()}"
    return "only a table right in the prepared folder is read; move its rows there, paths from that folder"


def _without_thumbnails(sources: list[Source], skipped: list[Skipped]) -> list[Source]:
    """Drops `clip.jpg` beside `clip.mp4`.

    It shares the video's caption, so it is that video's picture and no image to learn from.
    """
    videos = {Path(source.name).with_suffix("").as_posix() for source in sources if not source.is_image}
    thumbnails = {s.name for s in sources if s.is_image and Path(s.name).with_suffix("").as_posix() in videos}
    skipped += [
        Skipped(name, "thumbnail", "an image beside the video of the same name")
        for name in sorted(thumbnails)
    ]
    return [source for source in sources if source.name not in thumbnails]


def _add(
    path: Path, name: str, rows: list[Caption], sidecars: Sidecars, table: CaptionTable, found: Found
) -> None:
    """Adds a file with the captions of its rows, or else of its sidecar."""
    try:
        status = path.stat()
        if status.st_size == 0:
            found.skipped.append(Skipped(name, "empty"))
            return
        by_time, image = bool(rows and rows[0].start), path.suffix.lower() in IMAGE_SUFFIXES
        if by_time and image:
            raise NotTextError(f"an image has no time: leave its start and end out of {table.name}")
        timed = timed_rows(rows, f"{table.name} for {quoted(name)}") if by_time else ()
        read = rows[0] if rows and (rows[0].text or timed) else sidecars.of(name)
        text = "" if timed or read is None else read.text
        if not image:
            timed = sidecars.timed(name, has_caption=bool(text or timed)) or timed
    except OSError as error:
        found.skipped.append(Skipped(name, "unreadable", printable(str(error))))
    except NotTextError as error:
        found.skipped.append(Skipped(name, "caption not readable", str(error)))
    else:
        if not text and not timed:
            found.skipped.append(Skipped(name, "no caption", _caption_advice(name, table, read)))
        else:
            place = 0, status.st_size, status.st_mtime_ns
            group = (rows[0].group if rows else "") or (read.group if read is not None else "")
            found.sources.append(Source(name, path, *place, text, group, member=False, timed=timed))


def _caption_advice(name: str, table: CaptionTable, read: Caption | None) -> str:
    if read is not None:
        return "its caption file holds no words"
    for rows in (rows for written, rows in table.rows.items() if name_key(written) == name_key(name)):
        return f"{table.name}, line {rows[0].line}, has an empty caption"
    return f"write one into {Path(name).with_suffix('.txt')}, captions.csv or captions.jsonl"


def _read_tar(path: Path, name: str, encoding: str, found: Found) -> None:
    """Adds a webdataset tar's samples.

    A sample is a video or an image and a `.txt` or `.json` (keys caption, source) with the same key.
    """
    media: dict[str, tarfile.TarInfo] = {}
    captions: dict[str, dict[str, bytes]] = defaultdict(dict)
    others: dict[str, Path] = {}
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
                elif suffix.lower() in ("txt", "json"):
                    file = tar.extractfile(member)
                    captions[key][suffix.lower()] = file.read(MAX_SIDECAR_BYTES + 1) if file else b""
                if f".{suffix.lower()}" not in SUFFIXES:
                    others[printable(f"{name}/{member.name}")] = path
    # Hostile headers raise all of these.
    except (OSError, tarfile.TarError, ValueError, LookupError, OverflowError) as error:
        found.skipped.append(Skipped(name, "unreadable", f"{error}; what came before is used"))
    left = not_read(others, {printable(f"{name}/{inside}") for inside in media})
    found.skipped += [Skipped(inside, "not read", why) for inside, why in left.items()]
    for member in media.values():
        key = member.name.rpartition(".")[0]
        inside = printable(f"{name}/{member.name}")
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
    """Returns a sample's caption, from its text or else its object.

    Without one it returns None and adds a line to what is skipped.
    """
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
