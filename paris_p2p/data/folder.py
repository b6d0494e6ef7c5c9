"""Lists what lies in a folder: links are followed once, names made printable, media files found."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from paris_p2p.data.images import IMAGE_SUFFIXES

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m1v",
    ".m2p", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
    ".mts", ".mxf", ".nut", ".ogg", ".ogm", ".ogv", ".tod", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# fmt: on
SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
# fmt: off
_NOT_READ = {
    "convert it to .jpg or .png": (
        ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jp2",
        ".jxl", ".nef", ".orf", ".pcx", ".pgm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga", ".xcf",
    ),
    "convert it to .mp4 or .mkv": (
        ".264", ".265", ".av1", ".avs", ".bik", ".braw", ".crm", ".h264", ".h265", ".hevc", ".insv", ".lrv",
        ".ogx", ".qt", ".r3d", ".rm", ".rmvb", ".swf", ".trp", ".wtv", ".xvid", ".yuv",
    ),
    "unpack it": (
        ".7z", ".bz2", ".gz", ".rar", ".tgz", ".xz", ".zip", ".zst",
    ),
}
# fmt: on
_NEVER = (*_NOT_READ["convert it to .jpg or .png"], *_NOT_READ["unpack it"])  # of HEIC, FFmpeg gives one tile
_ADVICE = {suffix: advice for advice, suffixes in _NOT_READ.items() for suffix in suffixes}
_CAPTION_SUFFIXES = (".txt", ".caption", ".json", ".srt", ".vtt", ".csv", ".tsv", ".jsonl", ".md", ".tar")


@dataclass
class Walk:
    """Holds the files of a folder by printable name, and what is not looked at: name -> why."""

    files: dict[str, Path] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def walk(folder: Path, leave_out: Path | None) -> Walk:
    """Lists all files by name, except hidden ones and `leave_out`.

    A linked folder is followed once, after the others.
    """
    found = Walk()
    visited: set[tuple[int, int]] = set()
    hidden = leave_out.resolve() if leave_out is not None else None
    links = [folder]
    while links:
        start = links.pop(0)
        before = len(links)
        for path in _files(start, hidden, visited, links, folder, found):
            name = printable(path.relative_to(folder).as_posix())
            if _is_special(path):
                found.left[name] = "it is not a file but a pipe, a socket or a device"
            elif name in found.files:
                found.left[name] = "another file's name looks the same; rename one of them"
            else:
                found.files[name] = path
        links[before:] = sorted(links[before:])
    found.files = dict(sorted(found.files.items()))
    return found


def _files(
    start: Path,
    hidden: Path | None,
    visited: set[tuple[int, int]],
    links: list[Path],
    folder: Path,
    found: Walk,
) -> Iterator[Path]:
    """Yields the files of a tree, except of folders that were visited; linked folders go to `links`."""

    def refused(error: OSError) -> None:
        found.left[_name(Path(error.filename), folder)] = f"the folder cannot be read ({error.strerror})"

    for root, folders, files in os.walk(start, onerror=refused):
        here = Path(root)
        if _is_new(here, visited):
            mine = sorted(
                name for name in folders if not name.startswith(".") and (here / name).resolve() != hidden
            )
            links += [here / name for name in mine if (here / name).is_symlink()]
            folders[:] = [name for name in mine if not (here / name).is_symlink()]
            yield from (here / name for name in sorted(files) if not name.startswith("."))
        else:
            folders.clear()
            found.left[_name(here, folder)] = "the linked folder was seen already"


def _is_special(path: Path) -> bool:
    """Says whether opening a file may wait for ever; a broken link is for its reader to name."""
    try:
        return not S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _is_new(folder: Path, visited: set[tuple[int, int]]) -> bool:
    status = folder.stat()
    place = status.st_dev, status.st_ino
    known = place in visited
    visited.add(place)
    return not known


def _name(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path))


def printable(name: str) -> str:
    """Returns a file name as text that any output takes.

    Bytes that are not UTF-8 and control characters become escapes.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text
    )


def is_read(name: str, named: bool) -> bool:
    """Says whether a file is tried: for its ending, or because a table named it.

    Some kinds are never read, whatever a table says.
    """
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in SUFFIXES or (named and suffix not in _NEVER)


def not_read(files: dict[str, Path], read: set[str]) -> dict[str, str]:
    """Returns files that look like media or have a caption and are not read: name -> why, and what to do."""
    stems = {_stem(name) for name in read}
    captioned = {_stem(name) for name in files if name.lower().endswith((".txt", ".caption", ".srt", ".vtt"))}
    found: dict[str, str] = {}
    for name in files:
        suffix = PurePosixPath(name).suffix.lower()
        if name in read or suffix in SUFFIXES or suffix in _CAPTION_SUFFIXES:
            continue
        if suffix in _ADVICE:
            found[name] = f"{suffix} files are not read; {_ADVICE[suffix]}"
        elif _stem(name) in captioned - stems:
            found[name] = (
                f"it has a caption, but {suffix or 'a name without ending'} is not read; convert or rename it"
            )
    return found


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
