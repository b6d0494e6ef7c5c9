"""Draws with matplotlib, without its global state, SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from paris_p2p.errors import UsageError
from paris_p2p.score.page import Figure
from paris_p2p.shown import shown_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

INK = "#010203"  # stands for the page's own ink: replaced by currentColor
# Colours of Okabe and Ito 2008, which eyes of any kind tell apart.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b59d00", "#8172b3")
WIDTH_IN = 9.6
# Numbers that repeat from drawing to drawing and that nothing points at.
_UNUSED_ID = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names are foreign: a dollar is a dollar
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
)


def drawn(
    title: str, draw: Callable[[Drawing], None], height_in: float, alt: str, width_in: float = WIDTH_IN
) -> Figure:
    """Returns what `draw` put on an empty drawing, as a Figure; the same drawing gives the same SVG."""
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure as Drawing

    text = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}), warnings.catch_warnings():
        # The browser has fonts of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawing = Drawing(figsize=(width_in, height_in), layout="constrained")
        draw(drawing)
        drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = _UNUSED_ID.sub("", svg[svg.index("<svg") :])
    return Figure(title, svg.replace(INK, "currentColor"), alt)


def colours(count: int) -> list[Any]:
    """Returns a colour for each of `count` experts or models."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    return list(_matplotlib().colormaps["turbo"](np.linspace(0.03, 0.97, count)))


def label(text: str, most: int = 40) -> str:
    """Returns one printable line of at most `most` characters."""
    clean = shown_lines(" ".join(text.split()))
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def legend(drawing: Drawing, axes: Axes) -> None:
    """Places the legend above the drawing; of more than 16 entries it names the first ones."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 16:
        handles, labels = handles[:15], [*labels[:14], f"… and {len(labels) - 14} more"]
    drawing.legend(handles, labels, loc="outside upper center", ncols=min(5, max(1, len(labels))))


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UsageError(
            "drawing needs the package matplotlib; "
            "in a clone of paris-p2p, run `pip install -e '.[evaluate]'`"
        ) from error
    return matplotlib
