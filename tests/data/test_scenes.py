import numpy as np
import pytest

from paris_p2p.data.decode import Video
from paris_p2p.data.scenes import find_cuts
from tests.data.odd_videos import encode
from tests.data.videos import counting


def film(scene_frames: list[int], side: int = 48) -> np.ndarray:
    """Scenes of other colours, each with a moving bright bar."""
    colours = np.random.default_rng(3).integers(0, 200, (len(scene_frames), 3))
    pictures = []
    for colour, frames in zip(colours, scene_frames, strict=True):
        for i in range(frames):
            picture = np.full((side, side, 3), colour, np.uint8)
            at = abs((i + side) % (2 * side - 12) - side + 6)  # to and fro
            picture[:, at : at + 6] = 255 - colour
            pictures.append(picture)
    return np.stack(pictures)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_cuts_are_where_the_scenes_change(tmp_path, codec):
    frames = [40, 25, 60, 33, 50]
    encode(str(tmp_path / "film.mkv"), film(frames), codec, "yuv420p", 25)
    with (tmp_path / "film.mkv").open("rb") as file:
        video = Video(file)
        cuts = find_cuts(video)
        assert find_cuts(video, threads=3) == cuts
    assert cuts == pytest.approx(np.cumsum(frames)[:-1] / 25, abs=0.021)


def test_one_shot_has_no_cut_and_nor_has_one_frame(tmp_path):
    for name, pictures in (("shot", film([80])), ("still", counting(1))):
        encode(str(tmp_path / f"{name}.mp4"), pictures, "libx264", "yuv420p", 25)
        with (tmp_path / f"{name}.mp4").open("rb") as file:
            assert find_cuts(Video(file)) == []
