"""Crews' states that this peer computed itself, as files: the next card is checked from there, where else the
full card and all rounds since would be gone through again.

A file has 12 bytes a parameter, lies where this user alone may look, and counts into --max-disk. It may go at
any moment: the state is computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.node.open_copies import make_work_folder
from paris_p2p.store.blobs import BlobStore

STATES = "states"  # in a run's work folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    slot: str
    room: ExitStack  # its bytes of the disk, until it is closed


class MergedStates:
    """Keeps states by their hashes in `folder`, which is made with the first."""

    def __init__(self, store: BlobStore, folder: Path):
        self.store, self.folder = store, folder
        self._kept: dict[str, _Kept] = {}  # by hash

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, merged: str) -> Path | None:
        """Returns the file of the state with this hash, as its maker wrote it; None where there is none."""
        path = self.folder / merged
        return path if merged in self._kept and path.is_file() else None

    @contextmanager
    def making(self, slot: str, merged: str, size_bytes: int) -> Iterator[Path]:
        """Yields where a state is to be written; it is kept if it is there when the block ends. DiskFullError
        where there is no room for it.
        """
        path, room = self.folder / merged, ExitStack()
        if merged not in self._kept:
            room.enter_context(self.store.room_beside(size_bytes))
        try:
            make_work_folder(self.folder)
            yield path
        finally:
            if merged not in self._kept and path.is_file():
                self._kept[merged] = _Kept(slot, room)
            else:
                room.close()

    def keep_only(self, slot: str, wanted: Collection[str]) -> None:
        """Deletes a slot's states but those with these hashes."""
        for merged in [merged for merged, one in self._kept.items() if one.slot == slot]:
            if merged not in wanted:
                self.forget(merged)

    def forget(self, merged: str) -> None:
        """Deletes a state, where it is kept."""
        if (one := self._kept.pop(merged, None)) is not None:
            (self.folder / merged).unlink(missing_ok=True)
            one.room.close()
