"""Clips to files."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from paris_p2p.errors import ReadOnlyError, UsageError
from paris_p2p.work import video_out
from paris_p2p.work.video_out import MAX_SHEET_CLIPS, open_writer


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
    with pytest.raises(UsageError, match=r"\.webm.*choose one of \.mp4"), open_writer(tmp_path / "clip.webm", 1, 8.0):
        pass
    with pytest.raises(UsageError, match="at most"), open_writer(tmp_path / "clip.png", MAX_SHEET_CLIPS + 1, 8.0):
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
