import io
from pathlib import Path

import av
import numpy as np
import pytest

from paris_p2p.data import decode, frame_reader
from paris_p2p.data.decode import UnusableVideo, Video, decode_clip_at
from paris_p2p.data.picture import picture, standard_range
from paris_p2p.spec import ClipShape
from tests.data import odd_videos as odd
from tests.data.videos import counting, decode_clips, write_sound, write_video


def shape(frames: int = 4, height: int = 32, width: int = 32, fps: float = 8.0) -> ClipShape:
    return ClipShape(frames=frames, height=height, width=width, fps=fps)


def read(data: bytes, clip: ClipShape) -> tuple[list[decode.Clip], Video]:
    """Reads clips without a gap, from the start."""
    video = Video(io.BytesIO(data))
    clip_s = clip.frames / clip.fps
    return list(
        video.clips([i * clip_s for i in range(max(1, int(video.track.duration_s / clip_s + 0.01)))], clip)
    ), video


def values(clips: list[decode.Clip], step: int = 3) -> list[int]:
    """Returns which frames of `levels` these are."""
    return [round(int(frame[0, 0, 0]) / step) for clip in clips for frame in clip.frames]


def test_one_bad_packet_costs_the_clip_it_is_in_and_no_other(tmp_path):
    path = odd.keyframes(tmp_path / "a.mp4", odd.levels(40))
    clips, video = read(odd.with_hole(path.read_bytes(), [odd.packets(path)[17]]), shape())
    assert values(clips) == [*range(16), *range(20, 40)]
    assert video.remarks == {"packets damaged": 1, "clips lost to damage or a short end": 1}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts", "avi"])
def test_a_file_that_ends_early_gives_what_is_there_and_says_how_much(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
    data = odd.keyframes(tmp_path / f"a.{suffix}", odd.levels(40), options=options).read_bytes()
    whole, video = read(data, shape())
    assert values(whole) == list(range(40))
    assert not video.track.notes
    clips, video = read(data[: len(data) * 7 // 10], shape())
    found = values(clips)
    assert found[:-1] == list(range(len(found) - 1))  # of the last one a half may have been there
    assert 20 <= len(found) <= 28
    if suffix not in ("ts", "avi"):  # whose headers name no length
        assert "of 5.00 s are there" in video.track.notes["ends early"]


def test_a_file_without_its_index_says_so(tmp_path):
    data = odd.keyframes(tmp_path / "a.mp4", odd.levels(8)).read_bytes()
    with pytest.raises(UnusableVideo, match="broken off before its index was written"):
        Video(io.BytesIO(data[: len(data) * 6 // 10]))


def test_a_browsers_recording_without_duration_gives_as_many_clips_as_its_frames():
    clips, video = read(odd.recording(odd.levels(48)), shape())
    assert [clip.start_s for clip in clips] == [0.5 * i for i in range(12)]
    assert np.abs(np.array(values(clips)) - np.arange(48)).max() <= 1
    assert video.track.frames == 48


def test_joined_streams_whose_clock_starts_anew_are_read_to_the_end(tmp_path):
    parts = []
    for name, pixels in (("a", odd.levels(60)[:24]), ("b", odd.levels(60)[24:])):
        parts.append(odd.keyframes(tmp_path / f"{name}.ts", pixels).read_bytes())
    clips, video = read(b"".join(parts), shape())
    assert values(clips) == list(range(60))
    assert not video.track.in_order
    assert "times jump" in video.track.notes
    again = decode_clip_at(io.BytesIO(b"".join(parts)), shape(), clips[12].start_s)
    assert np.array_equal(again, clips[12].frames)


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4", "ts", "mpg", "flv"])
def test_frames_come_in_their_order_and_seeking_finds_them(tmp_path, suffix):
    """Uses frames that are coded from later ones: an AVI gives them no times of their own."""
    path, fps = tmp_path / f"a.{suffix}", 25
    codec = {"mpg": "mpeg2video"}.get(suffix, "libx264")
    odd.encode(
        str(path),
        odd.levels(300)[:, :, :, ::-1] // 4,
        codec,
        "yuv420p",
        fps,
        {"qp": "1"} if codec == "libx264" else {},
        gop=40,
    )
    clips, video = read(path.read_bytes(), shape(8, fps=25))
    assert len(clips) == 37
    for number, clip in enumerate(clips):
        again = decode_clip_at(io.BytesIO(path.read_bytes()), shape(8, fps=25), clip.start_s, video.track)
        assert number % 6 or np.array_equal(again, clip.frames)
    if codec == "libx264":
        first = odd.levels(300)[:, 5, 5, 0].astype(int) // 4
        got = np.array([frame[5, 5, 0] for clip in clips for frame in clip.frames]).astype(int)
        assert np.abs(got - first[: len(got)]).max() <= 2


def test_times_that_are_uneven_negative_or_leap_are_what_players_make_of_them(tmp_path):
    def written(name: str, times: list[int]) -> bytes:
        path = tmp_path / name
        odd.encode(
            str(path), odd.levels(len(times)), "libx264rgb", "rgb24", 8, odd.LOSSLESS, times=times, gop=1
        )
        return path.read_bytes()

    uneven, _ = read(written("uneven.mkv", [0, 1, 2, 6, 7, 8, 9, 10]), shape(11))
    assert values(uneven) == [0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 7]
    negative, _ = read(written("negative.mp4", [*range(-3, 9)]), shape())
    assert values(negative)[:8] in (
        [*range(8)],
        [*range(3, 11)],
    )  # an edit list may leave out what is before zero
    leap, video = read(written("leap.mkv", [*range(8), *range(8000, 8008)]), shape())
    assert values(leap) == list(range(16))
    assert "times jump" in video.track.notes


@pytest.mark.parametrize("attached", [True, False])
def test_a_cover_picture_is_not_the_video(tmp_path, attached):
    cover = np.full((1, 64, 64, 3), 255, np.uint8)
    path = odd.with_cover(tmp_path / "a.mp4", cover, odd.levels(8), attached)
    clips, video = read(path.read_bytes(), shape())
    assert values(clips) == list(range(8))
    assert video.track.notes["other pictures left"]


def test_a_preview_track_is_not_the_video(tmp_path):
    path = odd.with_cover(
        tmp_path / "a.mov", counting(8, 16, 16, step=0) + 200, odd.levels(8), attached=False
    )
    assert values(read(path.read_bytes(), shape())[0]) == list(range(8))


def test_sound_with_a_cover_is_no_video(tmp_path):
    for data in (
        write_sound(tmp_path / "a.mp4").read_bytes(),
        odd.sound_with_cover(tmp_path / "b.mp4").read_bytes(),
    ):
        with pytest.raises(UnusableVideo, match="no video: the file has sound") as caught:
            Video(io.BytesIO(data))
        assert caught.value.reason == "no video"


@pytest.mark.parametrize(
    ("matrix", "players"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
    ],
)
def test_every_way_a_matrix_can_lay_a_picture_comes_out_as_players_show_it(tmp_path, matrix, players):
    stored = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    shown = players(stored)
    path = odd.with_matrix(tmp_path / "a.mp4", np.stack([stored] * 4), matrix)
    (clip,) = decode_clips(io.BytesIO(path.read_bytes()), shape(4, *shown.shape[:2]), 1)
    assert np.abs(clip.frames.astype(int) - shown.astype(int)).max() <= 1


LAYERED = [("mov", "qtrle", "argb"), ("mov", "png", "rgba"), ("webm", "libvpx-vp9", "yuva420p")]


@pytest.mark.parametrize(("suffix", "codec", "pixels"), LAYERED)
def test_what_is_transparent_is_white(tmp_path, suffix, codec, pixels):
    frames = np.zeros((4, 32, 32, 4), np.uint8)
    frames[:, :, :16] = (200, 0, 0, 255)
    frames[:, :, 16:] = (0, 0, 90, 0)
    path = tmp_path / f"a.{suffix}"
    odd.encode(str(path), frames, codec, pixels, options={"lossless": "1"} if codec == "libvpx-vp9" else {})
    clips, video = read(path.read_bytes(), shape())
    assert np.abs(clips[0].frames[0, 16, 4].astype(int) - (200, 0, 0)).max() <= 4
    assert clips[0].frames[:, :, 18:].min() >= 252
    assert video.remarks["transparent parts put on white"]


def test_oblong_pixels_are_made_square(tmp_path):
    def anamorphic(codec) -> None:
        codec.sample_aspect_ratio = 2

    frames = counting(4, 32, 32, step=0)
    frames[:, :, 8:24] = 200  # shown 64 wide: the middle half is a square
    odd.encode(str(tmp_path / "a.mkv"), frames, "libx264rgb", "rgb24", options=odd.LOSSLESS, tag=anamorphic)
    assert (read((tmp_path / "a.mkv").read_bytes(), shape())[0][0].frames[:, :, 4:-4] == 200).all()


def test_of_interlaced_frames_one_moment_is_shown(tmp_path):
    def interlaced(codec) -> None:
        codec.flags |= 1 << 29 | 1 << 18

    frames = counting(4, 32, 32, step=0)
    frames[:, 1::2] = 240  # the other moment
    path = tmp_path / "a.mkv"
    odd.encode(str(path), frames, "mpeg2video", "yuv420p", 25, {"qmin": "1", "qmax": "1"}, tag=interlaced)
    clips, video = read(path.read_bytes(), shape(fps=25))
    assert np.ptp(clips[0].frames[:, 4:-4].astype(int)) < 40
    assert video.remarks["interlaced: every second line is used"]


def test_ten_bits_and_hdr_come_out_as_eight_of_standard_range(tmp_path):
    def hdr(codec) -> None:
        codec.color_trc, codec.color_primaries, codec.colorspace = 16, 9, 9

    grey = counting(4, 32, 32, step=0) + 128
    for name, tag in (("plain", lambda _: None), ("hdr", hdr)):
        quiet = {"x265-params": "lossless=1:log-level=0"}
        odd.encode(str(tmp_path / f"{name}.mkv"), grey, "libx265", "yuv420p10le", options=quiet, tag=tag)
    plain, _ = read((tmp_path / "plain.mkv").read_bytes(), shape())
    assert np.abs(plain[0].frames.astype(int) - 128).max() <= 2
    bright, video = read((tmp_path / "hdr.mkv").read_bytes(), shape())
    assert video.remarks["HDR brought to standard range"]
    assert (
        np.abs(bright[0].frames.astype(int) - round((92.2457 / 203) ** (1 / 2.2) * 255)).max() <= 3
    )  # PQ's half signal is 92 nits


def test_standard_range_keeps_black_is_white_at_its_brightest_and_rises_between():
    signal = np.linspace(0, 65535, 64).astype(np.uint16)
    for hlg in (False, True):
        shown = standard_range(np.repeat(signal[None, :, None], 3, 2), hlg, wide=False)[0, :, 0].astype(int)
        assert shown[0] == 0
        assert shown[-1] >= 253
        assert (np.diff(shown) >= 0).all()


def test_untagged_high_definition_has_the_colours_players_give_it():
    red = np.zeros((720, 1280, 3), np.uint8)
    red[..., 0] = 200
    frame = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(
        format="yuv420p", dst_colorspace="ITU709"
    )
    frame.colorspace = 2  # nothing is said
    assert np.abs(picture(frame, shape(1), 1.0, print)[16, 16].astype(int) - (200, 0, 0)).max() <= 2


def test_one_frame_is_a_still_and_too_short_for_a_clip(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting(1, 32, 32) + 70)
    (still,) = decode_clips(io.BytesIO(path.read_bytes()), shape(1), 16)
    assert (still.frames == 70).all()
    with pytest.raises(
        UnusableVideo, match=r"too short: 1 frames, 0\.\d+ s; a clip is 4 frames at 8 a second, 0\.50 s"
    ):
        decode_clips(io.BytesIO(path.read_bytes()), shape(4), 16)


def test_damage_all_over_is_said_to_be_damage(tmp_path):
    path = odd.keyframes(tmp_path / "a.mp4", odd.levels(16))
    data = odd.with_hole(path.read_bytes(), odd.packets(path)[1::2])
    with pytest.raises(UnusableVideo, match=r"[78] damaged packets in 16 frames") as caught:
        read(data, shape())
    assert caught.value.reason == "damaged"


def test_a_seek_that_lands_too_late_is_made_up_for(tmp_path, monkeypatch):
    path = odd.keyframes(tmp_path / "a.mkv", odd.levels(80), gop=40)
    monkeypatch.setattr(frame_reader, "SEEK_AHEAD_S", 0.5)
    opened = Video.open
    monkeypatch.setattr(Video, "open", lambda self: Late(opened(self)))
    clip = next(iter(Video(io.BytesIO(Path(path).read_bytes())).clips([3.0], shape())))
    assert values([clip]) == [24, 25, 26, 27]


class Late:
    """Seeks three seconds too far."""

    def __init__(self, real) -> None:
        self.real = real

    def seek(self, offset: int, stream) -> None:
        self.real.seek(offset + int(3 / stream.time_base), stream=stream)

    def close(self) -> None:
        self.real.close()

    def __getattr__(self, name: str):
        return getattr(self.real, name)
