import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from paris_p2p.data import images
from paris_p2p.data.decode import UnusableVideo
from paris_p2p.data.images import decode_image
from paris_p2p.data.prepared import SplitClip
from paris_p2p.data.sources import find_sources
from paris_p2p.spec import ClipShape
from tests.data.videos import counting, write_tar, write_video

SHAPE = ClipShape(frames=1, height=16, width=16, fps=8.0)


def picture(height: int = 16, width: int = 16) -> np.ndarray:
    """Returns a ramp that is different in every corner."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((y * 9 + x * 3 + c * 20) % 256).astype(np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> io.BytesIO:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def reason(file: io.BytesIO) -> str:
    with pytest.raises(UnusableVideo) as caught:
        decode_image(file, SHAPE)
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 98})],
)
def test_an_image_of_the_runs_size_comes_back_as_it_is(kind, options):
    got = decode_image(saved(picture(), kind, **options), SHAPE)
    assert got.shape == (1, 16, 16, 3)
    assert got.dtype == np.uint8
    assert np.abs(got[0].astype(int) - picture()).max() <= (8 if kind == "JPEG" else 0)


def test_wide_and_tall_images_are_cropped_to_the_middle_and_scaled():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 20:108] = 200  # scaling looks a little beyond the cut
    assert (decode_image(saved(wide), SHAPE) == 200).all()
    assert (decode_image(saved(wide.transpose(1, 0, 2)), SHAPE) == 200).all()
    assert decode_image(saved(picture(5, 4)), SHAPE).shape == (1, 16, 16, 3)


def test_a_camera_held_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = Image.fromarray(np.rot90(picture(), 1).copy())
    assert np.array_equal(decode_image(saved(turned, exif=exif.tobytes()), SHAPE)[0], picture())


def test_what_is_transparent_shows_white():
    rgba = np.dstack([picture(), np.zeros((16, 16), np.uint8)])
    rgba[:8, :, 3] = 255
    got = decode_image(saved(rgba), SHAPE)[0]
    assert np.array_equal(got[:8], picture()[:8])
    assert (got[8:] == 255).all()
    palette = Image.fromarray(np.zeros((16, 16), np.uint8), "L").convert("P")
    assert (decode_image(saved(palette, transparency=0), SHAPE) == 255).all()


def test_grey_black_and_white_and_deep_images_keep_their_brightness():
    grey = picture()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(decode_image(saved(grey), SHAPE)[0], expected)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode_image(saved(grey.astype(np.uint16) * 257, kind), SHAPE)[0], expected)
    assert set(np.unique(decode_image(saved(Image.fromarray(grey > 128)), SHAPE))) == {0, 255}


def test_what_is_no_single_whole_picture_is_refused_with_its_reason():
    frames = [Image.fromarray(frame) for frame in counting(3)]
    for kind in ("PNG", "WEBP", "TIFF"):
        assert reason(saved(frames[0], kind, save_all=True, append_images=frames[1:])) == "several pictures"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        whole = saved(noise, kind).getvalue()
        assert reason(io.BytesIO(whole[: len(whole) // 2])) == "unreadable"
    assert reason(io.BytesIO(b"not an image at all")) == "unreadable"
    assert reason(saved(noise, "GIF")) == "unreadable"  # a .gif is read as a video
    with pytest.raises(UnusableVideo, match="it begins as none of AVIF, BMP, JPEG"):
        # the same words each time: they stand in report.json
        decode_image(io.BytesIO(b"not an image at all"), SHAPE)
    assert reason(saved(Image.new("F", (16, 16)), "TIFF")) == "unreadable"
    assert reason(saved(picture(8, 400))) == "too narrow"


@pytest.mark.parametrize("side", [9500, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch, side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    monkeypatch.setattr(images.ImageOps, "fit", lambda *_: pytest.fail("it was decoded"))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        + chunk(b"IEND", b"")
    )
    assert reason(io.BytesIO(bomb)) == "too large"


def test_folders_lists_and_tars_of_images_are_found_and_a_videos_picture_is_left_out(tmp_path):
    for name in ("a.PNG", "b.jpeg", "c.webp", "film.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "film.txt").write_text("a film")
    write_video(tmp_path / "film.mp4", counting(2))
    (tmp_path / "captions.jsonl").write_text(
        json.dumps({"image": "b.jpeg", "caption": "two", "source": "album"})
    )
    data = saved(picture()).getvalue()
    write_tar(
        tmp_path / "t.tar",
        {"0.png": data, "0.txt": b"three", "1.jpg": data, "1.json": b'{"caption": "four"}', "2.jpg": data},
    )
    found = find_sources(tmp_path)
    sources, skipped = found.sources, found.skipped
    assert [(s.name, s.caption, s.is_image) for s in sources] == [
        ("a.PNG", "one", True),
        ("b.jpeg", "two", True),
        ("film.mp4", "a film", False),
        ("t.tar/0.png", "three", True),
        ("t.tar/1.jpg", "four", True),
    ]
    assert {s.name: s.reason for s in skipped} == {
        "c.webp": "no caption",
        "film.jpg": "thumbnail",
        "t.tar/2.jpg": "no caption",
    }
    inside = sources[3]
    where = {
        "path": str(inside.path),
        "offset_bytes": inside.offset_bytes,
        "size_bytes": inside.size_bytes,
        "member": True,
    }
    clip = SplitClip(
        key="k", split="test", cluster=0, caption="three", source=inside.name, start_s=0.0, **where
    )
    assert np.array_equal(clip.pixels(SHAPE)[0], picture())
