"""Decodes image files to clips of one frame: turned as the camera says, on white, cropped and scaled.

Pillow decodes. Files are hostile: formats, picture sizes and shapes are bounded before anything is decoded.
Legend: H x W pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from paris_p2p.data.unusable import MAX_ASPECT, Frames, UnusableVideo
from paris_p2p.spec import ClipShape

IMAGE_SUFFIXES = frozenset((".avif", ".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "TIFF", "WEBP")  # by content, whatever the name says
MAX_IMAGE_PIXELS = 89_000_000  # what Pillow decodes without calling it a decompression bomb
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
# What Pillow raises for broken files.
_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip


def decode_image(file: BinaryIO, shape: ClipShape) -> Frames:
    """Returns uint8 [1, H, W, 3]; UnusableVideo says why a file is not used."""
    with _pillow_errors(), Image.open(file, formats=FORMATS) as image:
        return crop_image(image, shape)


def crop_image(image: Image.Image, shape: ClipShape) -> Frames:
    """Returns uint8 [1, H, W, 3] of a picture that is open already."""
    with _pillow_errors():
        _check(image)
        # A JPEG is decoded no larger than the shape needs.
        image.draft("RGB", (2 * max(shape.height, shape.width),) * 2)
        upright = ImageOps.exif_transpose(image)
        picture = ImageOps.fit(_on_white(upright), (shape.width, shape.height), Image.Resampling.BICUBIC)
    return np.array(picture)[None]


@contextmanager
def _pillow_errors() -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableVideo("too large", str(error)) from error
    except UnidentifiedImageError as error:  # whose own words name an object in memory, anew each time
        raise UnusableVideo("unreadable", f"it begins as none of {', '.join(FORMATS)} does") from error
    except _BROKEN as error:
        raise UnusableVideo("unreadable", f"{type(error).__name__}: {error}"[:300]) from error


def _check(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise UnusableVideo("too large", f"{width}x{height} pixels; at most {MAX_IMAGE_PIXELS} in an image")
    if not 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
        raise UnusableVideo(
            "too narrow",
            f"an image of {width}x{height}: nothing is left of it after cropping; "
            f"crop it below {MAX_ASPECT}:1",
        )
    # MPO is a JPEG photograph with previews behind it.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnusableVideo(
            "several pictures",
            "animated, or of several pages; save one picture, or make a video or .gif of it",
        )


def _on_white(image: Image.Image) -> Image.Image:
    """Returns 8 bit RGB; what is transparent shows white."""
    if image.mode in _DEEP:
        image = Image.fromarray((np.asarray(image).astype(np.uint16) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnusableVideo(
            "unreadable", "32 bit numbers without a known brightness; save it with 8 or 16 bit"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
