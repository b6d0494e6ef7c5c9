"""A run's preview clips over time on one sheet: a row a prompt, a column a set of tips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paris_p2p.disk import explained, replacing
from paris_p2p.errors import UsageError
from paris_p2p.shown import FIELD_LETTERS, shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from paris_p2p.node.preview_sets import PreviewSet

_MOST_SETS = 8
_SIDE_PIXELS = 160  # of a cell
_GAP_PIXELS, _TITLE_PIXELS = 4, 16
_MAX_PIXELS = 1 << 24  # of a clip's frame
_DARK, _LIGHT = (24, 24, 24), (230, 230, 230)


def draw_sheet(folder: Path, out: Path) -> str:
    """Draws up to eight sets of the newest prompts, the first, the last and some between, and returns what is
    said of it; UsageError where there are none.
    """
    from paris_p2p.node.preview_sets import preview_sets

    known = preview_sets(folder)
    if not known:
        raise UsageError(
            f"there are no previews in {folder}: the owner's node makes them once the run has prompts "
            "(`paris-run say FOLDER previews`) and every slot has a checkpoint"
        )
    sets = [one for one in known if one.prompts == known[-1].prompts]
    last = len(sets) - 1
    places = sorted({round(last * k / (_MOST_SETS - 1)) for k in range(_MOST_SETS)})
    chosen = [sets[place] for place in places]
    sheet = _sheet(folder, chosen)
    with explained(out), replacing(out) as file:
        sheet.save(file, "PNG")
    count = "1 set" if len(sets) == 1 else f"{len(sets)} sets"
    return f"wrote {out}: {len(chosen)} of {count} of previews, the oldest on the left"


def _sheet(folder: Path, chosen: Sequence[PreviewSet]) -> Image:
    from PIL import Image, ImageDraw

    prompts = chosen[-1].prompts
    rows = [
        [_middle_frame(folder / one.name / one.files[row]) for one in chosen if row < len(one.files)]
        for row in range(len(prompts))
    ]
    width, height = rows[0][0].size
    cell_w, cell_h = width + _GAP_PIXELS, height + _GAP_PIXELS + _TITLE_PIXELS
    size = max(cell_w * len(chosen), 320), _TITLE_PIXELS + cell_h * len(prompts)
    sheet = Image.new("RGB", size, _DARK)
    draw = ImageDraw.Draw(sheet)
    for column, one in enumerate(chosen):
        steps = sum(one.steps.values()) // max(1, len(one.steps))
        draw.text((column * cell_w + 2, 2), f"{steps:,} steps", fill=_LIGHT)
    for row, (prompt, pictures) in enumerate(zip(prompts, rows, strict=True)):
        top = _TITLE_PIXELS + row * cell_h
        words = (
            shown(prompt, FIELD_LETTERS).encode("latin-1", "replace").decode("latin-1")
        )  # the font has no others
        draw.text((2, top + 2), words, fill=_LIGHT)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * cell_w, top + _TITLE_PIXELS))
    return sheet


def _middle_frame(path: Path) -> Image:
    """Returns the middle frame of a clip, at most so large as a cell."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as clip:
            if clip.width * clip.height > _MAX_PIXELS:
                raise UsageError(f"{path} has {clip.width} x {clip.height} pixels; that is no preview")
            clip.seek(getattr(clip, "n_frames", 1) // 2)
            frame = clip.convert("RGB")
    except (OSError, EOFError, UnidentifiedImageError) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete its folder") from error
    frame.thumbnail((_SIDE_PIXELS, _SIDE_PIXELS))
    return frame
