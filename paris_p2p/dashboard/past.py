"""What a page shows of the past: gate losses, this peer's receipts and preview clips, looked up now and then.

The records lie on disk and are verified when they are read, in a thread and at most once a minute, and only
while somebody watches; what came since is in memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.node.preview_sets import PreviewSet, preview_sets, previews_folder
from paris_p2p.node.run_history import board_lines, known_history
from paris_p2p.node.run_node import RunNode
from paris_p2p.rules.history import HistoryLine
from paris_p2p.rules.receipts import Receipt, run_receipts

AGAIN_S = 60.0
LOOK_SHARE = 0.02  # of the time, at most: a long run has many signatures
MOST_LINES = 240  # of a slot, in its curve
_KINDS = {".gif": "image/gif", ".png": "image/png"}


@dataclass
class Past:
    """Looks up a node's past for its pages."""

    node: RunNode
    _next_s: float = -math.inf  # monotonic, of the next look
    _lines: Mapping[str, Sequence[HistoryLine]] = field(default_factory=dict)
    _receipts: list[Receipt] = field(default_factory=list)
    _previews: list[PreviewSet] = field(default_factory=list)

    async def parts(self) -> dict[str, Any]:
        """Returns history, receipts and previews as a page takes them."""
        if time.monotonic() >= self._next_s:
            began_s = time.monotonic()
            await asyncio.to_thread(self._look)
            took_s = time.monotonic() - began_s
            self._next_s = time.monotonic() + max(AGAIN_S, took_s / LOOK_SHARE)
        return {
            "history": {slot: self._curve(slot) for slot in self.node.spec.slots},
            "receipts": [asdict(one) for one in self._receipts],
            "previews": shown_previews(self._previews),
        }

    async def preview(self, name: str) -> tuple[bytes, str]:
        """Returns a preview's file, named as `set/file`, and its media type; KeyError where there is none."""
        if name not in {f"{one.name}/{file}" for one in self._previews for file in one.files}:
            raise KeyError(name)
        path = self._folder / name
        try:
            return await asyncio.to_thread(path.read_bytes), _KINDS[path.suffix]
        except OSError as error:  # thinned out meanwhile
            raise KeyError(name) from error

    @property
    def _folder(self) -> Path:
        return previews_folder(self.node.host.settings.data_dir)

    def _look(self) -> None:
        known = known_history(self.node)
        self._lines = known.lines()
        counted = run_receipts(known.links, known.merged, has_crews=self.node.spec.crew is not None)
        self._receipts = counted.of(self.node.peer_id)
        self._previews = preview_sets(self._folder)

    def _curve(self, slot: str) -> list[dict[str, float]]:
        lines = {line.card: line for line in self._lines.get(slot, ())}
        lines |= {line.card: line for line in board_lines(self.node.board, slot)}
        return curve(lines.values())


def curve(lines: Iterable[HistoryLine]) -> list[dict[str, float]]:
    """Returns steps and gate losses, at most MOST_LINES: the newest, and every so many of those before it.

    They are in the order of their lineage: a date is what the clock of a tip's maker showed.
    """
    ordered = sorted(lines, key=lambda line: (line.seq, line.at_s))
    points = [
        {"steps": float(line.steps), "loss": line.gate_loss} for line in ordered if line.gate_loss is not None
    ]
    stride = -(-len(points) // MOST_LINES)
    return points[::-1][:: max(1, stride)][::-1]


def shown_previews(sets: Sequence[PreviewSet]) -> list[dict[str, Any]]:
    """Returns each prompt of the newest set with its clip, and the clip of the oldest set that has it."""
    if not sets:
        return []
    newest, shown = sets[-1], []
    for prompt, file in zip(newest.prompts, newest.files, strict=True):
        first = next((one for one in sets[:-1] if prompt in one.prompts), None)
        shown.append(
            {
                "prompt": prompt,
                "newest": f"{newest.name}/{file}",
                "steps": newest.steps,
                "before": f"{first.name}/{first.files[first.prompts.index(prompt)]}" if first else "",
                "before_steps": first.steps if first else {},
            }
        )
    return shown
