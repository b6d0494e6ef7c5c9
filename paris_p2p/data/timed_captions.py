"""Reads captions of a video by time: subtitles (.srt, .vtt) beside it, or table rows with start and end."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from paris_p2p.data.text_files import NotTextError, clean_caption, decode_text

if TYPE_CHECKING:
    from paris_p2p.data.captions import Caption

TIMED_SUFFIXES = (".srt", ".vtt")
MAX_CUES = 100_000
_ARROW = re.compile(r"^\s*[\d:.,]+\s*-->", re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")
_CLOCK = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,3}):)?(\d+(?:[.,]\d+)?)")


@dataclass(frozen=True)
class TimedCaption:
    """Says what can be seen from `start_s` to `end_s`, in seconds from the video's start."""

    start_s: float
    end_s: float
    text: str


def parse_subtitles(data: bytes, name: str, encoding: str = "") -> tuple[tuple[TimedCaption, ...], list[str]]:
    """Returns (the captions of an .srt or .vtt file by time, what was done to get them).

    NotTextError when a part of it cannot be read.
    """
    import webvtt

    decoded = decode_text(data, encoding)
    done = [f"caption read as {decoded.converted_from}"] if decoded.converted_from else []
    text = decoded.text.lstrip("\ufeff")
    kind = "vtt" if text.lstrip().startswith("WEBVTT") else "srt"
    try:
        found = webvtt.from_buffer(io.StringIO(text), format=kind).captions
        cues = [(_seconds(cue.start), _seconds(cue.end), cue.text) for cue in found[: MAX_CUES + 1]]
    except (webvtt.errors.MalformedFileError, webvtt.errors.MalformedCaptionError, ValueError) as error:
        raise NotTextError(
            f"{name} cannot be read as .{kind} ({error}); save it anew with a subtitle editor"
        ) from error
    written = len(_ARROW.findall(text))
    if len(found) != written or not found or len(found) > MAX_CUES:
        raise NotTextError(
            f"{name} has {written} lines with times, and {len(found)} can be read as captions "
            f"(at most {MAX_CUES}); save it anew with a subtitle editor"
        )
    cleaned = [(start_s, end_s, *clean_caption(_TAG.sub("", words))) for start_s, end_s, words in cues]
    done += [what for *_, whats in cleaned for what in whats]
    if any(not words for _, _, words, _ in cleaned):
        done.append("captions by time without words left out")
    return _in_order([(start_s, end_s, words) for start_s, end_s, words, _ in cleaned], name), done


def timed_rows(rows: Sequence[Caption], name: str) -> tuple[TimedCaption, ...]:
    """Returns one file's captions by time, from its rows; one without an end lasts until the next begins."""
    starts_s = sorted(_seconds(row.start) for row in rows)
    cues = []
    for row in rows:
        start_s = _seconds(row.start)
        later = next((other_s for other_s in starts_s if other_s > start_s), float("inf"))
        cues.append((start_s, _seconds(row.end) if row.end else later, row.text))
    return _in_order(cues, name)


def _in_order(cues: Sequence[tuple[float, float, str]], name: str) -> tuple[TimedCaption, ...]:
    """Sorts captions and drops those without words; what overlaps ends where the next begins."""
    for start_s, end_s, words in cues:
        if end_s < start_s:
            raise NotTextError(
                f"{name} has a caption from {start_s:g} to {end_s:g} s ({words[:40]}); correct its times"
            )
    worded = sorted(cue for cue in cues if cue[2] and cue[1] > cue[0])
    ends_s = [min(cue[1], following[0]) for cue, following in pairwise(worded)]
    ends_s += [cue[1] for cue in worded[-1:]]
    ordered = [
        TimedCaption(cue[0], end_s, cue[2])
        for cue, end_s in zip(worded, ends_s, strict=True)
        if end_s > cue[0]
    ]
    if not ordered:
        raise NotTextError(f"{name} holds no caption with words and a length")
    return tuple(ordered)


def _seconds(clock: str) -> float:
    """Reads `12.5`, `1:02` or `00:01:02,500` in seconds; NotTextError for anything else."""
    match = _CLOCK.fullmatch(clock.strip())
    if match is None:
        raise NotTextError(f"{clock[:40]!r} is not a time; write seconds (12.5) or a clock (00:01:02.5)")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds.replace(",", "."))
