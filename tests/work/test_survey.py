from dataclasses import replace
from pathlib import Path

from paris_p2p.data.cache import Cache
from paris_p2p.data.sources import Source
from paris_p2p.data.timed_captions import TimedCaption
from paris_p2p.data.track import Track
from paris_p2p.spec import ClipShape
from paris_p2p.work.survey import Survey

SHAPE = ClipShape(frames=8, height=16, width=16, fps=8.0)
TRACK = Track(stream=0, frame_s=0.125, duration_s=60.0, frames=480, in_order=True)


def test_a_film_that_is_cut_faster_than_a_clip_is_long_says_what_to_lower(tmp_path: Path) -> None:
    survey = Survey(SHAPE, 64, 1, Cache(tmp_path), lambda *_: None)
    film = Source("film.mp4", tmp_path / "film.mp4", 0, 9, 1, "a film", "", member=False, track=TRACK)
    spoken = replace(film, name="spoken.mp4", timed=(TimedCaption(0.0, 60.0, "a fox"),))
    cuts_s = [i / 2 for i in range(1, 120)]
    assert survey._parted(film, cuts_s, 4) == survey._parted(spoken, cuts_s, 4) == []
    assert [skip.detail for skip in survey.skipped] == [
        f"none of its 120 scenes holds a clip of 1.00 s{within}: lower --frames, or raise --fps, for such videos"
        for within in ("", ", inside one caption")
    ]
