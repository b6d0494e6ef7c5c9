"""Defines additions/NNN.json: what `paris-run prepare MORE --into RUN` leaves in a run's own folder.

An addition is whole once its JSON file is there. Its shards lie in shards/addition-NNN/, its lists, report,
features and contact sheet in additions/NNN/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from paris_p2p.data.prepared import SPLITS_FILE_NAME, PreparedShard, SplitClip
from paris_p2p.data.splits import Split, counted
from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError
from paris_p2p.records import Count, Record

FOLDER = "additions"
FEATURES_FILE = "features.npy"  # float16 [N, F], of the clips in splits.json, in that order


class AddedCluster(Record):
    """Says how many of an addition's clips a cluster has."""

    cluster: Count
    clips: dict[Split, Count]


class Addition(Record):
    """Describes clips that were prepared for a run that was created before.

    Paths are inside the run's folder.
    """

    version: Literal[1] = 1
    number: Annotated[int, Field(ge=1, le=999)]
    fingerprint: str  # of everything it was made from, the run's own included
    run: str  # the fingerprint of the run's prepared.json
    clusters: tuple[AddedCluster, ...]
    shards: tuple[PreparedShard, ...]
    clips: dict[Split, Count]
    sources: dict[Split, Count]
    files: Count
    far: Count = 0  # clips that lie farther from every cluster than the run's own
    far_left_out: bool = False  # they were counted and left out
    reach: Annotated[float, Field(ge=0)] = 0.0  # how far the run's own clips lie; 0: not known
    skipped: dict[str, Count] = {}
    notes: dict[str, Count] = {}

    @property
    def folder(self) -> str:
        """Returns the folder of its lists, inside the run's."""
        return f"{FOLDER}/{self.number:03d}"

    def shards_for(self, split: Split) -> tuple[PreparedShard, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    def describe(self) -> str:
        """Returns a few lines for a person."""
        counts = ", ".join(f"{self.clips[split]} {split}" for split in self.clips)
        files = counted(self.files, "file")
        lines = [f"addition {self.number}: {sum(self.clips.values())} clips from {files}: {counts}"]
        lines += [
            f"cluster {row.cluster}: {row.clips['train']} more train and {row.clips['gate']} more gate clips"
            for row in self.clusters
            if sum(row.clips.values())
        ]
        if self.far:
            what = "were left out" if self.far_left_out else "go to the nearest all the same"
            lines.append(
                f"{self.far} clips lie far from all clusters and {what} (--skip-far decides); "
                f"{self.folder}/report.json names them"
            )
        if self.skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            lines.append(f"skipped files: {reasons}; {self.folder}/report.json lists them")
        lines += [f"note: {what}" + f" ({count} times)" * (count > 1) for what, count in self.notes.items()]
        return "\n".join(lines)

    def write(self, run: Path) -> None:
        """Writes additions/NNN.json, with which the addition is whole."""
        write_atomic(run / f"{self.folder}.json", self.model_dump_json(indent=1) + "\n")

    def is_whole(self, run: Path) -> bool:
        """Says whether its shards are there."""
        paths = [(run / shard.path, shard.size_bytes) for shard in self.shards]
        return all(path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in paths)


def additions_of(run: Path) -> tuple[Addition, ...]:
    """Returns a run's additions by number; DataError where one is damaged."""
    found = []
    for path in sorted((run / FOLDER).glob("[0-9][0-9][0-9].json")):
        try:
            found.append(Addition.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise DataError(
                f"{path} is damaged or of another version; restore it, or delete it with "
                f"{path.with_suffix('')} and prepare those clips again"
            ) from error
    return tuple(found)


def all_clips(run: Path) -> Iterator[SplitClip]:
    """Yields the clips of a run's folder, those of its additions last."""
    for folder in (run, *(run / addition.folder for addition in additions_of(run))):
        yield from listed_clips(folder)


def listed_clips(folder: Path) -> Iterator[SplitClip]:
    """Yields all clips that a folder's splits.json lists, a run's or an addition's, in its order."""
    path = folder / SPLITS_FILE_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["clips"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the clips again") from error
    for entry in entries:
        yield SplitClip.model_validate(entry)
