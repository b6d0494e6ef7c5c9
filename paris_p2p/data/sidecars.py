"""Finds captions beside media: clip.txt next to clip.mp4, and what other tools call it, inside tars too."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from paris_p2p.data.captions import Caption, Note, name_key
from paris_p2p.data.table_rows import CAPTION_KEYS
from paris_p2p.data.text_files import NotTextError, clean_caption, decode_text
from paris_p2p.data.timed_captions import TIMED_SUFFIXES, TimedCaption, parse_subtitles

MAX_SIDECAR_BYTES = 1 << 20
MAX_SUBTITLES_BYTES = 64 << 20


@dataclass(frozen=True)
class Sidecars:
    """Finds the caption files beside media, whatever the case of their names."""

    files: dict[str, Path]
    encoding: str
    notes: list[Note]  # grows

    def of(self, name: str) -> Caption | None:
        """Reads the first that exists of clip.txt, clip.mp4.txt, clip.caption.txt, clip.caption, clip.json.

        It returns None when there is no such file. NotTextError, OSError.
        """
        there = [(end, path) for end in _ENDINGS if (path := self._find(_sidecar(end, name))) is not None]
        if not there:
            return None
        end, path = there[0]
        for _, other in there[1:]:
            two = f"{path.name} is read, {other.name} is not"
            self.notes.append(Note(name, "more than one caption file", two))
        with path.open("rb") as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
        caption = read_caption(data, path.name, name, self.encoding, self.notes)
        if end != _ENDINGS[0]:
            like = end.format(stem="clip", name="clip.mp4")
            self.notes.append(Note(name, f"caption read from a file named like {like}", path.name))
        return caption

    def timed(self, name: str, *, has_caption: bool) -> tuple[TimedCaption, ...]:
        """Reads clip.srt or clip.vtt, or clip.mp4.srt and so on, where the file has no other caption.

        NotTextError, OSError.
        """
        found = (self._find(_sidecar(end, name)) for end in _TIMED_ENDINGS)
        path = next((path for path in found if path is not None), None)
        if path is None:
            return ()
        if has_caption:
            why = f"the file has another caption; remove that if {path.name} says what is to be seen"
            self.notes.append(Note(name, "subtitles not used as captions", why))
            return ()
        with path.open("rb") as file:
            data = file.read(MAX_SUBTITLES_BYTES + 1)
        if len(data) > MAX_SUBTITLES_BYTES:
            raise NotTextError(
                f"{path.name} has more than {MAX_SUBTITLES_BYTES} bytes; those are not captions"
            )
        timed, done = parse_subtitles(data, path.name, self.encoding)
        once = dict.fromkeys(("captions by time from subtitles", *done))
        self.notes.extend(Note(name, what, path.name) for what in once)
        return timed

    def _find(self, name: str) -> Path | None:
        """Returns the file of that name.

        Else it is the file that some file systems take for it, if that belongs to no other.
        """
        if name in self.files:
            return self.files[name]
        alike = self._by_key.get(name_key(name), [])
        return self.files[alike[0]] if len(alike) == 1 and alike[0] not in self._owned else None

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.files:
            if name.lower().endswith(_SUFFIXES):
                found[name_key(name)].append(name)
        return dict(found)

    @cached_property
    def _owned(self) -> set[str]:
        """Returns the caption files that are named just as a file here asks for."""
        media = [name for name in self.files if not name.lower().endswith(_SUFFIXES)]
        asked = (_sidecar(end, name) for name in media for end in (*_ENDINGS, *_TIMED_ENDINGS))
        return {name for name in asked if name in self.files}


_SUFFIXES = (".txt", ".json", ".caption", *TIMED_SUFFIXES)
_ENDINGS = ("{stem}.txt", "{name}.txt", "{stem}.caption.txt", "{stem}.caption", "{stem}.json")
_TIMED_ENDINGS = tuple(f"{start}{suffix}" for start in ("{stem}", "{name}") for suffix in TIMED_SUFFIXES)


def _sidecar(ending: str, name: str) -> str:
    return ending.format(stem=Path(name).with_suffix("").as_posix(), name=name)


def read_caption(data: bytes, file_name: str, of: str, encoding: str, notes: list[Note]) -> Caption:
    """Reads what a caption file says of a media file: text, or an object with caption and source.

    NotTextError when it cannot be read.
    """
    if len(data) > MAX_SIDECAR_BYTES:
        raise NotTextError(f"{file_name} has more than {MAX_SIDECAR_BYTES} bytes; that is not a caption")
    decoded = decode_text(data, encoding)
    if decoded.converted_from:
        notes.append(Note(of, f"caption read as {decoded.converted_from}", file_name))
    text, group = decoded.text, ""
    if file_name.lower().endswith(".json"):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise NotTextError(f"{file_name} is not JSON ({str(error)[:100]})") from error
        row = row if isinstance(row, dict) else {}
        text = next((row[key] for key in CAPTION_KEYS if isinstance(row.get(key), str)), "")
        group = clean_caption(str(row.get("source") or ""))[0]
    text, done = clean_caption(text)
    notes += [Note(of, what, file_name) for what in done]
    return Caption(text, group)
