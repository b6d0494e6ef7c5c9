import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from paris_p2p.data import decode, frame_reader
from paris_p2p.data.decode import UnusableVideo, decode_clip_at
from paris_p2p.spec import ClipShape
from tests.data.videos import counting, decode_clips, write_sound, write_video


def shape(frames: int = 4, height: int = 16, width: int = 16, fps: float = 8.0) -> ClipShape:
    return ClipShape(frames=frames, height=height, width=width, fps=fps)


def clips_of(path: Path, clip: ClipShape, max_clips: int = 100) -> list[decode.Clip]:
    with path.open("rb") as file:
        return decode_clips(file, clip, max_clips)


def values(clip: decode.Clip) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in clip.frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi"])
def test_at_the_videos_own_rate_and_size_every_frame_comes_back(tmp_path, suffix):
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
    path = write_video(tmp_path / f"a.{suffix}", frames)
    (clip,) = clips_of(path, shape(8, 16, 24))
    assert np.abs(clip.frames.astype(int) - frames.astype(int)).max() <= 1


def test_a_faster_video_gives_every_nth_frame_and_a_slower_one_repeats(tmp_path):
    fast = write_video(tmp_path / "fast.mkv", counting(24), fps=24)
    assert values(clips_of(fast, shape(4))[0]) == [0, 30, 60, 90]
    slow = write_video(tmp_path / "slow.mp4", counting(4), fps=4)
    assert values(clips_of(slow, shape(8))[0]) == [0, 0, 10, 10, 20, 20, 30, 30]


def test_odd_rates_are_resampled_by_time(tmp_path):
    ntsc = write_video(tmp_path / "ntsc.mp4", counting(25), fps=Fraction(24000, 1001))
    assert values(clips_of(ntsc, shape(8))[0]) == [0, 30, 60, 90, 120, 150, 180, 210]


def test_a_long_video_gives_clips_that_do_not_overlap_up_to_the_limit(tmp_path):
    path = write_video(tmp_path / "long.mp4", counting(24))
    assert [values(clip) for clip in clips_of(path, shape(8))] == [
        [10 * i + 80 * k for i in range(8)] for k in range(3)
    ]
    few = clips_of(path, shape(4), max_clips=2)
    assert [clip.start_s for clip in few] == [0.0, 1.5]
    assert values(few[1]) == [120, 130, 140, 150]


def test_seeking_gives_the_frames_that_decoding_through_gives(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", counting(200, step=1), fps=10)
    through = clips_of(path, shape(3, fps=4.0), max_clips=5)
    monkeypatch.setattr(frame_reader, "SEEK_AHEAD_S", 0.5)
    sought = clips_of(path, shape(3, fps=4.0), max_clips=5)
    assert [values(clip) for clip in sought] == [values(clip) for clip in through]
    with path.open("rb") as file:
        assert np.array_equal(decode_clip_at(file, shape(3, fps=4.0), through[3].start_s), through[3].frames)


def test_wide_and_tall_pictures_are_cropped_to_the_middle(tmp_path):
    wide = counting(8, 16, 64)
    wide[:, :, 24:40] = 200
    clip = clips_of(write_video(tmp_path / "wide.mp4", wide), shape(8))[0]
    assert (clip.frames == 200).all()
    tall = counting(8, 64, 16)
    tall[:, 24:40] = 200
    assert (clips_of(write_video(tmp_path / "tall.mp4", tall), shape(8))[0].frames == 200).all()


@pytest.mark.parametrize("side", [8, 32])
def test_pictures_are_scaled_down_and_up(tmp_path, side):
    path = write_video(tmp_path / "a.mp4", counting(8))
    clip = clips_of(path, shape(8, side, side))[0]
    assert clip.frames.shape == (8, side, side, 3)
    assert values(clip) == [10 * i for i in range(8)]


def reason_of(file: io.BytesIO, clip: ClipShape) -> str:
    with pytest.raises(UnusableVideo) as caught:
        decode_clips(file, clip, 1)
    return caught.value.reason


def test_videos_that_give_no_clip_say_why(tmp_path):
    short = write_video(tmp_path / "short.mp4", counting(5))
    assert reason_of(io.BytesIO(short.read_bytes()), shape(8)) == "too short"
    assert reason_of(io.BytesIO(write_sound(tmp_path / "sound.mp4").read_bytes()), shape()) == "no video"
    assert reason_of(io.BytesIO(b"not a video at all " * 100), shape()) == "unreadable"
    assert reason_of(io.BytesIO(b""), shape()) == "unreadable"
    assert reason_of(io.BytesIO(short.read_bytes()[:300]), shape()) == "unreadable"


def test_a_playlist_in_disguise_opens_no_other_file(tmp_path):
    secret = write_video(tmp_path / "secret.mp4", counting(8))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n"
    disguised = tmp_path / "clip.mp4"
    disguised.write_text(playlist)
    with pytest.raises(UnusableVideo, match="unreadable"):
        clips_of(disguised, shape())


def test_huge_pictures_endless_videos_and_extreme_shapes_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", counting(8))
    strip = write_video(tmp_path / "strip.mp4", counting(8, 16, 512))
    assert reason_of(io.BytesIO(strip.read_bytes()), shape()) == "too narrow"
    monkeypatch.setattr(frame_reader, "MAX_WORK_PIXELS", 3 * 16 * 16)
    assert reason_of(io.BytesIO(path.read_bytes()), shape()) == "too large"
    monkeypatch.setattr(frame_reader, "MAX_PICTURE_PIXELS", 15 * 16)
    assert reason_of(io.BytesIO(path.read_bytes()), shape()) == "too large"


def test_a_phone_video_is_turned_as_its_container_says(tmp_path):
    frames = counting(8, 16, 32, step=0)
    frames[:, :, :16] = 200  # bright on the left: on top after a quarter turn clockwise
    path = write_video(tmp_path / "phone.mp4", frames)
    upright, clockwise = (
        b"".join(n.to_bytes(4, "big", signed=True) for n in m)
        for m in ((1 << 16, 0, 0, 0, 1 << 16), (0, 1 << 16, 0, -1 << 16, 0))
    )
    data = path.read_bytes()
    header = data.index(b"tkhd")
    at = data.index(upright, header)
    path.write_bytes(data[:at] + clockwise + data[at + len(clockwise) :])
    picture = clips_of(path, shape(8, 32, 16))[0].frames[0]
    assert picture.shape == (32, 16, 3)
    assert picture[:14].min() >= 199
    assert picture[18:].max() <= 1
