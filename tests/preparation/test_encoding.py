from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from paris_p2p.codec.pca import fit_pca
from paris_p2p.data.cache import Cache
from paris_p2p.data.decode import Clip, UnusableVideo
from paris_p2p.data.film_parts import Span
from paris_p2p.data.sources import Source
from paris_p2p.data.timed_captions import TimedCaption
from paris_p2p.preparation.encoding import Decoding, Encoder
from paris_p2p.preparation.fit_codec import Fitting, fit_patch_codec
from paris_p2p.spec import ClipShape
from tests.data.videos import write_video


class Means:
    """Features of nothing but brightness."""

    name = title = sha256 = "means"
    frames = 0

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        return video.float().mean((1, 2, 3))


@dataclass(frozen=True)
class Noise(Decoding):
    """Gives clips of noise that depend on what of the video is read."""

    def clips_of(self, source: Source) -> list[Clip]:
        seed = int(sum(edge_s for stretch in source.stretches_s for edge_s in stretch))
        frames = np.random.default_rng(seed).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        return [Clip(0.0, frames)]


def test_the_fitted_codec_is_kept_for_what_of_a_video_it_was_fitted_on(tmp_path: Path) -> None:
    cache, noise = Cache(tmp_path), Noise(ClipShape(frames=2, height=16, width=16, fps=8.0), 4, 1)

    def fitted(source: Source) -> bytes:
        fitting = Fitting([source], noise, cache, "cpu", lambda *_: None)
        return fit_patch_codec((4, 8), fitting).to_bytes()

    film = Source("film.mp4", tmp_path / "film.mp4", 0, 9, 1, "", "", member=False)
    part = replace(film, span=Span(3, 0, 30.0, 40.0))
    later = replace(film, span=Span(3, 0, 33.0, 44.0))  # the same number, where the folder holds more
    spoken = replace(film, timed=(TimedCaption(1.0, 5.0, "a fox"),))
    assert len({fitted(source) for source in (film, part, later, spoken)}) == 4
    assert fitted(part) == fitted(replace(part, caption="another caption"))


def test_a_file_that_could_not_be_read_is_tried_again_and_one_that_is_no_video_is_not(tmp_path: Path) -> None:
    shape = ClipShape(frames=2, height=16, width=16, fps=8.0)
    codec = fit_pca([torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8)], 4, 8)
    encoder = Encoder(codec, Means(), Decoding(shape, 4, 1), Cache(tmp_path / "cache"), "made")
    film = Source("film.mkv", tmp_path / "film.mkv", 0, 9, 1, "", "", member=False)
    text = replace(film, name="text.mkv", path=tmp_path / "text.mkv")

    def run(source: Source) -> list[float] | UnusableVideo:
        return encoder.run([source], lambda *_: None)[source.id]

    for source in (film, text):
        assert isinstance(run(source), UnusableVideo)  # nothing is there, as where a network drive is away
    write_video(film.path, np.zeros((4, 16, 16, 3), np.uint8))
    text.path.write_text("no video")
    assert run(film) == [0.0, 0.25]
    assert isinstance(run(text), UnusableVideo)
    text.path.write_bytes(film.path.read_bytes())  # of the same size and time, as far as the list says
    assert isinstance(run(text), UnusableVideo)
