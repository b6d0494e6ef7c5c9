"""Which videos and images there are and their captions: a folder of files, captions.csv or captions.jsonl, webdataset tars."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from paris_p2p.data.images import IMAGE_SUFFIXES
from paris_p2p.errors import DataError
from paris_p2p.weights import MAX_CAPTION_CHARACTERS

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv",
    ".ts", ".webm", ".wmv",
))  # fmt: skip
SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
MAX_SIDECAR_BYTES = 1 << 20
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


@dataclass(frozen=True)
class _Caption:
    text: str
    group: str


def find_sources(folder: Path, leave_out: Path | None = None) -> tuple[list[Source], list[Skipped]]:
    """Every captioned video and image under `folder`, sorted by name, but for what is under `leave_out`.

    DataError when the folder is not there or its captions file cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder that holds the clips")
    captions = _read_captions(folder)
    sources: list[Source] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for path in _walk(folder, leave_out):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() == ".tar":
            _read_tar(path, name, sources, skipped)
        elif path.suffix.lower() in SUFFIXES or name in captions:
            seen.add(name)
            _add(path, name, captions.get(name) or _sidecar(path), sources, skipped)
    skipped += [Skipped(name, "missing", "named in the captions file, but not there") for name in sorted(captions.keys() - seen)]
    return _without_thumbnails(sorted(sources, key=lambda source: source.name), skipped), skipped


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


def _add(path: Path, name: str, caption: _Caption | None, sources: list[Source], skipped: list[Skipped]) -> None:
    try:
        status = path.stat()
    except OSError as error:
        skipped.append(Skipped(name, "unreadable", str(error)))
        return
    if status.st_size == 0:
        skipped.append(Skipped(name, "empty"))
    elif caption is None or not caption.text:
        skipped.append(Skipped(name, "no caption", f"write one into {Path(name).with_suffix('.txt')}, captions.csv or captions.jsonl"))
    else:
        sources.append(Source(name, path, 0, status.st_size, status.st_mtime_ns, caption.text, caption.group, member=False))


def _clean(text: str) -> str:
    return " ".join(text.split())[:MAX_CAPTION_CHARACTERS]


def _sidecar(path: Path) -> _Caption | None:
    sidecar = path.with_suffix(".txt")
    try:
        with sidecar.open("rb") as file:
            return _Caption(_clean(file.read(MAX_SIDECAR_BYTES).decode("utf-8-sig", "replace")), "")
    except OSError:
        return None


def _read_captions(folder: Path) -> dict[str, _Caption]:
    """File name -> caption, from captions.csv (columns file, caption[, source]) or captions.jsonl (the same keys)."""
    for name, read in (("captions.csv", _csv_rows), ("captions.jsonl", _jsonl_rows)):
        path = folder / name
        if path.is_file():
            try:
                return dict(_row(path, number, row) for number, row in read(path))
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                raise DataError(f"{path} cannot be read as {path.suffix[1:]} in UTF-8 ({error})") from error
    return {}


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            yield number, {str(key).strip().lower(): value for key, value in row.items()}


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number} is not JSON ({error})") from error
                yield number, row if isinstance(row, dict) else {}


_FILE_KEYS = ("file", "file_name", "filename", "path", "video", "image")
_CAPTION_KEYS = ("caption", "text", "prompt")


def _row(path: Path, number: int, row: dict[str, object]) -> tuple[str, _Caption]:
    name = next((row[key] for key in _FILE_KEYS if row.get(key)), None)
    caption = next((row[key] for key in _CAPTION_KEYS if row.get(key)), "")
    if not isinstance(name, str) or not isinstance(caption, str):
        raise DataError(f"{path}, line {number} has no file name; each line needs `file` and `caption` (and may have `source`)")
    return Path(name.strip()).as_posix(), _Caption(_clean(caption), str(row.get("source") or "").strip())


def _read_tar(path: Path, name: str, sources: list[Source], skipped: list[Skipped]) -> None:
    """Add a webdataset tar's samples: a video or an image and a `.txt` or `.json` (keys caption, source) with the same key."""
    media: dict[str, tarfile.TarInfo] = {}
    captions: dict[str, _Caption] = {}
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
                    _tar_caption(tar, member, suffix.lower(), key, captions)
    except (OSError, tarfile.TarError) as error:
        skipped.append(Skipped(name, "unreadable", f"{error}; what came before is used"))
    for member in media.values():
        key = member.name.rpartition(".")[0]
        inside = f"{name}/{member.name}"
        caption = captions.get(key)
        if member.size == 0:
            skipped.append(Skipped(inside, "empty"))
        elif member.size > MAX_TAR_VIDEO_BYTES:
            skipped.append(Skipped(inside, "too large", f"{member.size} bytes; at most {MAX_TAR_VIDEO_BYTES} inside a tar"))
        elif caption is None or not caption.text:
            skipped.append(Skipped(inside, "no caption", f"the tar has no {key}.txt or {key}.json with a caption"))
        else:
            sources.append(Source(inside, path, member.offset_data, member.size, mtime_ns, caption.text, caption.group, member=True))


def _tar_caption(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, key: str, captions: dict[str, _Caption]) -> None:
    file = tar.extractfile(member)
    data = file.read(MAX_SIDECAR_BYTES) if file is not None else b""
    if suffix == "txt":
        earlier = captions.get(key)
        captions[key] = _Caption(_clean(data.decode("utf-8-sig", "replace")), earlier.group if earlier else "")
        return
    try:
        row = json.loads(data)
    except ValueError:
        return
    if isinstance(row, dict):
        text = next((row[k] for k in _CAPTION_KEYS if isinstance(row.get(k), str)), "")
        earlier = captions.get(key)
        captions[key] = _Caption(earlier.text if earlier else _clean(text), str(row.get("source") or "").strip())
