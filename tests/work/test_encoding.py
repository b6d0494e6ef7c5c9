from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paris_p2p.data.cache import Cache
from paris_p2p.data.decode import Clip
from paris_p2p.data.parts import Span
from paris_p2p.data.sources import Source
from paris_p2p.data.timed_captions import TimedCaption
from paris_p2p.spec import ClipShape
from paris_p2p.work.encoding import Decoding, fit_codec


@dataclass(frozen=True)
class Noise(Decoding):
    """Clips of noise that depend on what of the video is read."""

    def clips_of(self, source: Source) -> list[Clip]:
        seed = int(sum(edge_s for stretch in source.stretches_s for edge_s in stretch))
        frames = np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        return [Clip(0.0, frames)]


def test_the_fitted_codec_is_kept_for_what_of_a_video_it_was_fitted_on(tmp_path: Path) -> None:
    cache, noise = Cache(tmp_path), Noise(ClipShape(frames=2, height=16, width=16, fps=8.0), 4, 1)

    def fitted(source: Source) -> bytes:
        return fit_codec([source], noise, (4, 8), cache, lambda *_: None).to_bytes()

    film = Source("film.mp4", tmp_path / "film.mp4", 0, 9, 1, "", "", member=False)
    part = replace(film, span=Span(3, 0, 30.0, 40.0))
    later = replace(film, span=Span(3, 0, 33.0, 44.0))  # the same number, where the folder holds more
    spoken = replace(film, timed=(TimedCaption(1.0, 5.0, "a fox"),))
    assert len({fitted(source) for source in (film, part, later, spoken)}) == 4
    assert fitted(part) == fitted(replace(part, caption="another caption"))
