"""Draws what the demo made: real rows beside generated ones, and gifs that browsers play."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAME_PIXELS = 96  # side of a frame as it is shown
SHOWN_FRAMES = 4  # of a clip, from its first to its last
GIF_PIXELS = 192
GIF_FRAME_S = 0.06  # hundredths that browsers play as they are; below 0.02 they play at a tenth of a second
MARGIN, GAP, FRAME_GAP, LINE, FONT_PIXELS = 12, 24, 2, 24, 15

Row = tuple[str, np.ndarray, np.ndarray]  # prompt, real clip and generated clip, uint8 [T, H, W, 3]


def picture(rows: Sequence[Row], path: Path) -> None:
    """Writes a picture: per row the prompt, a real test clip's frames, and the generated clip's."""
    halves = [(prompt, _strip(real), _strip(made)) for prompt, real, made in rows]
    side = max(max(real.width, made.width) for _, real, made in halves)
    width, height = (
        2 * MARGIN + 2 * side + GAP,
        2 * MARGIN + LINE + len(rows) * (LINE + FRAME_PIXELS + MARGIN),
    )
    sheet = Image.new("RGB", (width, height), "white")
    draw, font, right = ImageDraw.Draw(sheet), ImageFont.load_default(size=FONT_PIXELS), MARGIN + side + GAP
    draw.text((MARGIN, MARGIN), "real, of the same scenario", fill="black", font=font)
    draw.text((right, MARGIN), "generated for the prompt", fill="black", font=font)
    top = MARGIN + LINE
    for prompt, real, made in halves:
        draw.text(
            (MARGIN, top + 4), fitted(f"“{prompt}”", font, width - 2 * MARGIN), fill=(60, 60, 60), font=font
        )
        sheet.paste(real, (MARGIN, top + LINE))
        sheet.paste(made, (right, top + LINE))
        top += LINE + FRAME_PIXELS + MARGIN
    sheet.save(path, optimize=True, quality=85)


def gif(clip: np.ndarray, path: Path) -> None:
    """Writes a clip, uint8 [T, H, W, 3], enlarged, as an endless gif that runs there and back."""
    frames = [_enlarged(frame, GIF_PIXELS) for frame in (*clip, *clip[-2:0:-1])]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=round(GIF_FRAME_S * 1000), loop=0, disposal=1
    )


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_pixels: int) -> str:
    """Returns the text, or as much of it as fits, with an ellipsis."""
    if font.getlength(text) <= width_pixels:
        return text
    while text and font.getlength(text + "…") > width_pixels:
        text = text[:-1]
    return text + "…"


def _strip(clip: np.ndarray) -> Image.Image:
    """Returns some frames side by side: [T H W 3] -> one image."""
    chosen = np.linspace(0, len(clip) - 1, min(SHOWN_FRAMES, len(clip))).round().astype(int)
    pitch = FRAME_PIXELS + FRAME_GAP
    strip = Image.new("RGB", (len(chosen) * pitch - FRAME_GAP, FRAME_PIXELS), "white")
    for place, at in enumerate(chosen):
        strip.paste(_enlarged(clip[at], FRAME_PIXELS), (place * pitch, 0))
    return strip


def _enlarged(frame: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(frame)).resize((side, side), Image.Resampling.BICUBIC)
