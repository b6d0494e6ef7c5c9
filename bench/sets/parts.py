"""Keeps what was drawn in parts on disk, each whole or not there, so that making a set goes on after a stop.

Legend: n clips of one part, T H W frames; a picture is a clip of one frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.disk import replacing, write_atomic

Pixels = NDArray[np.uint8]  # [n T H W 3]


@dataclass(frozen=True)
class Known:
    """Says what is known of one clip."""

    caption: str
    source: str  # the episode or the look of its ground
    split: str
    world: str  # the true kind
    seen: dict[str, str]  # attribute -> value
    said: tuple[str, ...]  # the attributes that the caption mentions


@dataclass(frozen=True)
class Kept:
    """Names one part's files: pixels, what is known of each clip, and what networks made of them."""

    folder: Path
    name: str

    @property
    def _list(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def is_done(self) -> bool:
        return self._list.exists()

    def write(self, pixels: Pixels, known: Sequence[Known]) -> None:
        """Writes the part, its list last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save("pixels", pixels)
        write_atomic(self._list, "".join(json.dumps(asdict(row)) + "\n" for row in known))

    def pixels(self) -> Pixels:
        found: Pixels = np.load(self.folder / f"{self.name}.pixels.npy", mmap_mode="r")
        return found

    def known(self) -> list[Known]:
        rows = (json.loads(line) for line in self._list.read_text("utf-8").splitlines())
        return [Known(**{**row, "said": tuple(row["said"])}) for row in rows]

    def made(self, what: str, make: Callable[[Pixels], NDArray[Any]]) -> NDArray[Any]:
        """Returns what `make` makes of the part's pixels [n …]; made once."""
        path = self.folder / f"{self.name}.{what}.npy"
        if not path.exists():
            self._save(what, make(self.pixels()))
        found: NDArray[Any] = np.load(path)
        return found

    def _save(self, what: str, values: NDArray[Any]) -> None:
        with replacing(self.folder / f"{self.name}.{what}.npy", durable=False) as file:
            np.save(file, values)
