"""Prints as rich does into a log of some width."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def printed(what: RenderableType, columns: int) -> str:
    """Returns the plain text, as into a file."""
    text = io.StringIO()
    Console(file=text, width=columns, color_system=None, highlight=False).print(what)
    return text.getvalue()
