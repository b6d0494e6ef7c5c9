"""Says what goes wrong while clips are recorded."""

from __future__ import annotations


class WorldError(Exception):
    """Says that a world cannot be played here, and what to install."""
