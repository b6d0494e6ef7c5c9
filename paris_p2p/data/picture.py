"""Turns one decoded frame into 8 bit RGB of a clip's size, as players show it: turned, on white, not in HDR.

Matrices: ISO/IEC 14496-12, 8.3.2; PQ and HLG: ITU-R BT.2100; to BT.709: BT.2087. Legend: H x W are the clip's
pixels, h x w those of the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from paris_p2p.data.unusable import MAX_ASPECT, Frames, UnusableVideo
from paris_p2p.spec import ClipShape

SD_MAX_HEIGHT, SD_MAX_WIDTH = 576, 1024  # players take untagged colours of larger pictures as BT.709's
WHITE_NITS = 203.0  # HDR reference white, BT.2408
KNEE = 0.75  # of white: what is darker keeps its brightness
HLG_NITS, HLG_GAMMA = 1000.0, 1.2
_PQ, _HLG, _BT2020, _UNSPECIFIED = 16, 18, 9, 2  # of ITU-T H.273
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)

Remark = Callable[[str], None]


@dataclass(frozen=True)
class Turn:
    """Brings a picture upright: mirrors it at its diagonal, then left to right, then top to bottom."""

    diagonal: bool = False
    across: bool = False
    down: bool = False

    def __call__(self, picture: Frames) -> Frames:
        """Turns a picture: [h, w, 3] -> [H, W, 3]."""
        turned = picture.swapaxes(0, 1) if self.diagonal else picture
        turned = turned[:, ::-1] if self.across else turned
        return turned[::-1] if self.down else turned


def turn_of(frame: Any) -> Turn:
    """Returns the nearest of the eight ways to lay a picture, by the frame's display matrix.

    Without a matrix there is no turn.
    """
    data = next((side for side in frame.side_data if side.type == SideData.DISPLAYMATRIX), None)
    if data is None or len(bytes(data)) < 36:
        return Turn()
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def picture(frame: Any, shape: ClipShape, pixel_aspect: float, remark: Remark) -> Frames:
    """Scales a frame so that it just covers the shape, then crops it to the middle: [H, W, 3].

    `pixel_aspect` is a pixel's width by its height; `remark` is called with what was converted, once a frame.
    UnusableVideo for a strip.
    """
    turn = turn_of(frame)
    wanted_h, wanted_w = (shape.width, shape.height) if turn.diagonal else (shape.height, shape.width)
    shown_w, shown_h = frame.width * pixel_aspect, frame.height
    if not 1 / MAX_ASPECT <= shown_w / shown_h <= MAX_ASPECT:
        raise UnusableVideo(
            "too narrow",
            f"a picture of {shown_w:.0f}x{shown_h}: nothing of it is left after cropping; "
            f"crop it below {MAX_ASPECT}:1",
        )
    scale = max(wanted_w / shown_w, wanted_h / shown_h)
    width, height = max(wanted_w, round(shown_w * scale)), max(wanted_h, round(shown_h * scale))
    if turn != Turn():
        remark("turned as its display matrix says")
    scaled = _scaled(frame, width, height, "AREA" if scale < 1 else "BICUBIC", remark)
    top, left = (height - wanted_h) // 2, (width - wanted_w) // 2
    return turn(scaled[top : top + wanted_h, left : left + wanted_w])


def _scaled(frame: Any, width: int, height: int, interpolation: str, remark: Remark) -> Frames:
    size = {"width": width, "height": height, "interpolation": interpolation}
    colours = {} if frame.format.is_rgb else _colours(frame)
    if frame.color_trc in (_PQ, _HLG):
        remark("HDR brought to standard range")
        deep = frame.to_ndarray(format="rgb48le", **size, **colours)
        return standard_range(deep, frame.color_trc == _HLG, frame.color_primaries == _BT2020)
    if _may_be_transparent(frame):
        whole = frame.to_ndarray(format="rgba", **colours)
        if whole[..., 3].min() < 255:
            remark("transparent parts put on white")
            frame, colours = av.VideoFrame.from_ndarray(on_white(whole), format="rgb24"), {}
    elif frame.interlaced_frame and frame.height > 2:
        remark("interlaced: every second line is used")
        whole = frame.to_ndarray(format="rgb24", **colours)
        frame, colours = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole[::2]), format="rgb24"), {}
    scaled: Frames = frame.to_ndarray(format="rgb24", **size, **colours)
    return scaled


def _colours(frame: Any) -> dict[str, Any]:
    """Says what an untagged frame's colours mean: BT.709 in high definition, as players do, else BT.601."""
    large = frame.height > SD_MAX_HEIGHT or frame.width > SD_MAX_WIDTH
    return {"src_colorspace": Colorspace.ITU709} if large and frame.colorspace == _UNSPECIFIED else {}


def _may_be_transparent(frame: Any) -> bool:
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


def on_white(rgba: NDArray[np.uint8]) -> Frames:
    """Puts transparent pixels on white: uint8 [h, w, 4] -> [h, w, 3]."""
    share = rgba[..., 3:].astype(np.uint16)
    mixed: Frames = ((rgba[..., :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return mixed


def standard_range(deep: NDArray[np.uint16], hlg: bool, wide: bool) -> Frames:
    """Turns HDR [h, w, 3] with its curve into 8 bit for ordinary screens.

    Up to 3/4 of white, brightness is kept.
    """
    signal = deep.astype(np.float32) / np.float32(65535)
    light = (_hlg_nits(signal) if hlg else _pq_nits(signal)) / WHITE_NITS
    if wide:
        light = (light @ _TO_709.T).clip(0)
    brightest = light.max(-1, keepdims=True).clip(1e-6)
    bent = KNEE + (1 - KNEE) * (1 - np.exp(-(brightest - KNEE) / (1 - KNEE)))
    light = light * np.where(brightest > KNEE, bent / brightest, 1.0)
    shown: Frames = (light.clip(0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)
    return shown


def _pq_nits(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    power = signal ** (1 / 78.84375)
    nits: NDArray[np.float32] = 10000 * ((power - 0.8359375).clip(0) / (18.8515625 - 18.6875 * power)) ** (
        1 / 0.1593017578125
    )
    return nits


def _hlg_nits(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    scene = np.where(
        signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    )
    luma = (scene @ np.array([0.2627, 0.6780, 0.0593], np.float32))[..., None].clip(1e-6)
    nits: NDArray[np.float32] = (HLG_NITS * luma ** (HLG_GAMMA - 1) * scene).astype(np.float32)
    return nits
