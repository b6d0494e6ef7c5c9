"""What goes wrong while clips are recorded."""

from __future__ import annotations


class WorldError(Exception):
    """A world cannot be played here; the message says what to install."""
