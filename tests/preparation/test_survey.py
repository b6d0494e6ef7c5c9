from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.data.cache import Cache
from paris_p2p.data.sources import Source
from paris_p2p.data.timed_captions import TimedCaption
from paris_p2p.data.track import Track
from paris_p2p.preparation.survey import Survey
from paris_p2p.spec import ClipShape

SHAPE = ClipShape(frames=8, height=16, width=16, fps=8.0)
TRACK = Track(stream=0, frame_s=0.125, duration_s=60.0, frames=480, in_order=True)


def film(name: str, **changed: Any) -> Source:
    whole = Source(name, Path(name), 0, 9, 1, "a film", "", member=False, track=TRACK)
    return replace(whole, **changed)


def surveyed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    films: list[Source],
    cuts_s: list[float],
    most_clips: int = 64,
) -> tuple[list[Source], Survey]:
    survey = Survey(SHAPE, most_clips, 1, Cache(tmp_path), lambda *_: None)
    monkeypatch.setattr(Survey, "_track", lambda _, source: source.track)
    monkeypatch.setattr(Survey, "_cuts_of", lambda *_: cuts_s)
    return survey.sources(films), survey


def test_a_film_that_is_cut_faster_than_a_clip_is_long_stays_whole_and_is_reported(
    tmp_path, monkeypatch
) -> None:
    films = [film("film.mp4"), film("spoken.mp4", timed=(TimedCaption(0.0, 60.0, "a fox"),))]
    found, survey = surveyed(tmp_path, monkeypatch, films, [i / 2 for i in range(1, 120)])
    assert found == films
    assert survey.skipped == []
    assert [(note.name, note.what, note.detail) for note in survey.notes] == [
        (
            name,
            "video kept whole, its clips cross cuts",
            f"none of its 120 scenes holds a clip of 1.00 s{within}: "
            "lower --frames, or raise --fps, for clips without cuts",
        )
        for name, within in (("film.mp4", ""), ("spoken.mp4", ", inside one caption"))
    ]


@pytest.mark.parametrize("count", [2, 12])
def test_splits_keep_apart_parts_of_two_films_and_scenes_of_many(tmp_path, monkeypatch, count) -> None:
    films = [film(f"{i}.mp4") for i in range(count)]
    found, survey = surveyed(tmp_path, monkeypatch, films, [30.0], most_clips=50)
    spans = [(source.name, source.span) for source in found if source.span]
    groups = {(name, span.group) for name, span in spans}
    assert len(spans) == len(found) >= 4 * count
    assert len(groups) == (len(spans) if count == 2 else 2 * count)
    said = "apart parts, there being too few videos to split them whole" if count == 2 else "apart scenes"
    assert all(note.detail.endswith(said) for note in survey.notes)
    assert len(survey.notes) == count
