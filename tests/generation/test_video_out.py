"""Clips to files."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from paris_p2p.errors import ReadOnlyError, UsageError
from paris_p2p.generation import video_out
from paris_p2p.generation.video_out import MAX_SHEET_CLIPS, gif_frames, open_writer


def clips(count: int = 2, height: int = 16, width: int = 24) -> np.ndarray:
    """Smooth moving ramps, which a lossy codec keeps."""
    b, t, h, w, c = np.ogrid[:count, :4, :height, :width, :3]
    return ((b * 40 + t * 20 + h * 4 + w * 3 + c * 10) % 256).astype(np.uint8)


def write(out, videos) -> list:
    with open_writer(out, len(videos), 8.0) as writer:
        writer.add(videos[:1], [{"prompt": "ball 0"}])
        if len(videos) > 1:
            writer.add(videos[1:], [{"prompt": f"ball {index}"} for index in range(1, len(videos))])
    return writer.paths


def read_mp4(path) -> tuple[np.ndarray, dict]:
    with av.open(str(path)) as container:
        comment = json.loads(container.metadata["comment"])
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), comment


def test_one_mp4_has_the_frames_the_rate_and_what_made_it(tmp_path):
    videos = clips(1)
    (path,) = write(tmp_path / "clip.mp4", videos)
    video, comment = read_mp4(path)
    assert path == tmp_path / "clip.mp4"
    assert video.shape == videos[0].shape
    assert np.abs(video.astype(int) - videos[0]).mean() < 12
    assert comment == {"prompt": "ball 0"}
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 8


def test_several_mp4s_are_numbered_and_odd_sides_are_padded(tmp_path):
    paths = write(tmp_path / "clip.mp4", clips(3, 15, 23))
    assert [path.name for path in paths] == ["clip-000.mp4", "clip-001.mp4", "clip-002.mp4"]
    video, comment = read_mp4(paths[2])
    assert video.shape == (4, 16, 24, 3)
    assert comment == {"prompt": "ball 2"}


def test_without_h264_it_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(video_out, "_MP4_CODECS", (("no_such_codec", {}), *video_out._MP4_CODECS[1:]))
    (path,) = write(tmp_path / "clip.mp4", clips(1))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"


def test_an_image_is_a_video_of_one_frame(tmp_path):
    (path,) = write(tmp_path / "clip.mp4", clips(1)[:, :1])
    assert read_mp4(path)[0].shape == (1, 16, 24, 3)


def test_images_are_plain_pngs_numbered_when_there_are_several(tmp_path):
    images = clips(2)[:, :1]
    paths = write(tmp_path / "image.png", images)
    assert [path.name for path in paths] == ["image-000.png", "image-001.png"]
    with Image.open(paths[1]) as image:
        assert np.array_equal(np.asarray(image), images[1, 0])
        assert json.loads(image.text["comment"]) == [{"prompt": "ball 1"}]
    many = np.repeat(images[:1], MAX_SHEET_CLIPS + 1, axis=0)
    with open_writer(tmp_path / "many.png", len(many), 8.0, frames=1) as writer:
        writer.add(many, [{}] * len(many))
    assert len(writer.paths) == len(many)


def test_a_gif_moves_and_says_what_made_it(tmp_path):
    (path,) = write(tmp_path / "clip.gif", clips(1))
    with Image.open(path) as image:
        assert image.n_frames == 4
        assert json.loads(image.info["comment"]) == {"prompt": "ball 0"}


@pytest.mark.parametrize("ending", [".MP4", ".Gif", ".PNG", ".NPY", ".NpZ"])
def test_the_case_of_an_ending_does_not_matter(tmp_path, ending):
    (path,) = write(tmp_path / f"clip{ending}", clips(1))
    assert path == tmp_path / f"clip{ending}"
    (same,) = write(tmp_path / f"same{ending.lower()}", clips(1))
    assert path.read_bytes()[:4] == same.read_bytes()[:4]


@pytest.mark.parametrize("fps", [1, 8, 12.5, 23.976, 24, 30, 50, 59.94, 60, 120, 1000])
def test_no_delay_of_a_gif_is_one_that_browsers_slow_down_and_its_speed_is_the_clips(fps):
    kept, delays = gif_frames(48, fps)
    assert min(delays) >= 2
    assert kept[0] == 0
    assert abs(sum(delays) - 100 * 48 / fps) <= 2
    assert (len(kept) == 48) == (fps <= 50)
    shown_at = np.cumsum([0, *delays[:-1]])
    assert np.abs(shown_at - np.array(kept) * 100 / fps).max() <= 0.5


def test_a_gif_that_leaves_frames_out_says_so(tmp_path):
    with open_writer(tmp_path / "clip.gif", 1, 100.0) as writer:
        writer.add(np.repeat(clips(1), 4, axis=1), [{}])
    with Image.open(writer.paths[0]) as image:
        delays = []
        for i in range(image.n_frames):
            image.seek(i)
            delays.append(image.info["duration"])
    assert min(delays) >= 20
    assert sum(delays) == 160
    assert "of 100 those are kept" in writer.notes[0]
    with open_writer(tmp_path / "slow.gif", 1, 50.0) as writer:
        writer.add(clips(1), [{}])
    assert writer.notes == ()


def test_a_png_is_a_sheet_with_a_row_a_clip(tmp_path):
    videos = clips(2)
    (path,) = write(tmp_path / "clips.png", videos)
    with Image.open(path) as image:
        sheet = np.asarray(image)
        assert [info["prompt"] for info in json.loads(image.text["comment"])] == ["ball 0", "ball 1"]
    assert sheet.shape == (2 * 16, 4 * 24, 3)
    assert np.array_equal(sheet[16:, 24:48], videos[1, 1])


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_raw_frames_are_exact(tmp_path, ending):
    videos = clips(2)
    (path,) = write(tmp_path / f"clips{ending}", videos)
    loaded = np.load(path, allow_pickle=False)
    assert np.array_equal(loaded if ending == ".npy" else loaded["frames"], videos)
    assert list(tmp_path.iterdir()) == [path]


def test_stopped_on_the_way_it_leaves_nothing_behind(tmp_path):
    def stopped() -> None:
        with open_writer(tmp_path / "clips.npy", 2, 8.0) as writer:
            writer.add(clips(1), [{}])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_a_too_long_sheet_and_no_place_are_refused_before_anything_is_made(tmp_path):
    with (
        pytest.raises(UsageError, match=r"\.webm.*choose one of \.mp4"),
        open_writer(tmp_path / "clip.webm", 1, 8.0),
    ):
        pass
    with (
        pytest.raises(UsageError, match="at most"),
        open_writer(tmp_path / "clip.png", MAX_SHEET_CLIPS + 1, 8.0),
    ):
        pass
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReadOnlyError, match="--out"), open_writer(tmp_path / "file" / "clip.mp4", 1, 8.0):
        pass


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path, monkeypatch):
    def full(source, target) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_out.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "clip.mp4", clips(1))
    assert list(tmp_path.iterdir()) == []


def test_the_same_clip_gives_the_same_file(tmp_path):
    clip = np.random.default_rng(0).normal(128, 60, (1, 8, 64, 64, 3)).clip(0, 255).astype(np.uint8)
    for name in ("once", "again"):
        with video_out.open_writer(tmp_path / f"{name}.mp4", 1, 8.0) as writer:
            writer.add(clip, [{}])
    assert (tmp_path / "once.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
