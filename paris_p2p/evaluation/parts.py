"""What an evaluation has computed so far, in small files that appear whole or not at all, so that a second
call goes on.

Legend: N clips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from paris_p2p.disk import replacing, write_atomic
from paris_p2p.errors import DataError, UsageError
from paris_p2p.progress import Progress

Arrays = dict[str, NDArray[Any]]
PART_CLIPS = 16  # made, kept and looked at together: bounds the memory
SETTINGS_NAME = "settings.json"


@dataclass(frozen=True)
class Parts:
    """A folder of arrays of `clips` clips, part by part; each kind of array has files of its own."""

    folder: Path
    clips: int

    @property
    def title(self) -> str:
        """Returns whose clips they are: the folder's name without the fingerprint at its end."""
        return self.folder.name.rpartition("-")[0] or self.folder.name

    def ranges(self) -> Iterator[range]:
        """Returns the clips of each part."""
        return (
            range(start, min(start + PART_CLIPS, self.clips)) for start in range(0, self.clips, PART_CLIPS)
        )

    def fill(self, kind: str, stage: str, make: Callable[[range], Arrays], progress: Progress) -> None:
        """Makes the parts that are not there yet, and says how far it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for clips in self.ranges():
            if not self._path(kind, clips).is_file():
                write_arrays(self._path(kind, clips), make(clips))
            progress(stage, clips.stop, self.clips)

    def read(self, kind: str, clips: range, name: str) -> NDArray[Any]:
        """Returns the array of one part; DataError when it is of other clips, or damaged."""
        array = read_array(self._path(kind, clips), name)
        if len(array) != len(clips):
            raise DataError(
                f"{self._path(kind, clips)} holds {len(array)} clips, not {len(clips)}; "
                "delete it and call this again"
            )
        return array

    def look(self, kind: str, name: str, clips: range) -> NDArray[Any]:
        """Returns the array of clips that neighbour each other within one part."""
        whole = next(known for known in self.ranges() if clips.start in known)
        return self.read(kind, whole, name)[clips.start - whole.start : clips.stop - whole.start]

    def gather(self, kind: str, name: str) -> NDArray[Any]:
        """Returns the array of all clips: [N ...]."""
        return np.concatenate([self.read(kind, clips, name) for clips in self.ranges()])

    def _path(self, kind: str, clips: range) -> Path:
        return self.folder / f"{kind}-{clips.start:06}.npz"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays to a file, whole or not at all."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Returns one array of a file; DataError when the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            array: NDArray[Any] = arrays[name]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and call this again") from error
    return array


def claim_folder(folder: Path, settings: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
    """Goes on in a folder that was begun with the same settings, or begins in an empty one; UsageError when
    something else is there.

    `before` are the values that settings had in effect before they could be chosen, and that folders of then
    do not name.
    """
    path, wanted = folder / SETTINGS_NAME, json.loads(json.dumps(settings))
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); choose another folder") from error
        named = json.loads(json.dumps(before or {})) | known if isinstance(known, dict) else {}
        different = [name for name in wanted if named.get(name) != wanted[name]]
        if different:
            raise UsageError(
                f"{folder} holds an evaluation with another {', '.join(different)}; "
                "choose another folder with --out"
            )
        return
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no evaluation; choose another folder with --out")
    write_atomic(path, json.dumps(wanted, indent=1) + "\n")
