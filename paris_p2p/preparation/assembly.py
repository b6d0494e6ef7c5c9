"""Assembles from the cache what a run is made of: clusters, shards, lists and a contact sheet.

All of it is written aside and moved into place. Legend: N clips, F features, R reduced features, K clusters.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paris_p2p.data.cache import Cache
from paris_p2p.data.captions import Note
from paris_p2p.data.prepared import FILE_NAME as PREPARED_FILE_NAME
from paris_p2p.data.prepared import (
    SPLITS_FILE_NAME,
    Prepared,
    PreparedModel,
    PreparedShard,
    Split,
    SplitClip,
    path_text,
)
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.data.sheet import COLUMNS, ROWS, SheetBlock, contact_sheet
from paris_p2p.data.sources import Skipped, Source
from paris_p2p.disk import write_atomic
from paris_p2p.errors import UsageError
from paris_p2p.preparation.clustering import SPLIT_NAMES, Clustered, Entry
from paris_p2p.preparation.encoding import EmbeddedCaptions
from paris_p2p.progress import Progress
from paris_p2p.weights import ModelFiles, check_names


@dataclass(frozen=True)
class Assembly:
    """Writes into `folder`, which is not yet the prepared one."""

    folder: Path
    cache: Cache
    entries: Sequence[Entry]  # sorted by key
    clustered: Clustered
    embedded: EmbeddedCaptions
    fps: float
    progress: Progress
    firsts: bool = False  # features of the first frames go into the shards

    def write_shards(self, shard_bytes: int) -> tuple[PreparedShard, ...]:
        """Writes the shards of every split and cluster, each closed at `shard_bytes`."""
        shards: list[PreparedShard] = []
        done = 0
        groups: defaultdict[tuple[Split, int], list[Entry]] = defaultdict(list)
        for entry, label in zip(self.entries, self.clustered.labels, strict=True):
            groups[entry.split, int(label)].append(entry)
        for split in SPLIT_NAMES:
            for k in range(self.clustered.model.clusters):
                for shard in write_shards(
                    self.folder / "shards", split, k, self._samples(k, groups[split, k]), shard_bytes
                ):
                    shards.append(shard)
                    done += shard.clips
                    self.progress("write shards", done, len(self.entries))
        return tuple(shards)

    def _samples(self, k: int, entries: Iterable[Entry]) -> Iterator[Sample]:
        for entry in entries:
            caption = entry.caption
            start_frame = round(entry.start_s * self.fps)
            yield Sample(
                key=entry.key,
                latent=self.cache.read(entry.cache_key, "latents", entry.index),
                tokens=self.embedded.read(caption, "tokens"),
                mask=self.embedded.read(caption, "mask"),
                pooled=self.embedded.read(caption, "pooled"),
                info={
                    "caption": caption,
                    "source": entry.source.name,
                    "cluster": k,
                    "start_frame": start_frame,
                },
                first=self.cache.read(entry.cache_key, "firsts", entry.index) if self.firsts else None,
            )

    def write_lists(self) -> dict[Split, str]:
        """Writes captions/<split>.jsonl and splits.json; returns the captions' paths."""
        trained_on = {entry.caption.casefold() for entry in self.entries if entry.split == "train"}
        rows: dict[Split, list[str]] = {split: [] for split in SPLIT_NAMES}
        clips = []
        for entry, label in zip(self.entries, self.clustered.labels, strict=True):
            source, caption = entry.source, entry.caption
            row = {
                "key": entry.key,
                "caption": caption,
                "cluster": int(label),
                "source": source.name,
                "start_s": entry.start_s,
            }
            seen = {"seen_in_train": caption.casefold() in trained_on}
            rows[entry.split].append(json.dumps({**row, **seen}, ensure_ascii=False))
            where = {
                "path": path_text(source.path),
                "offset_bytes": source.offset_bytes,
                "size_bytes": source.size_bytes,
            }
            dealt = {"split": entry.split, "group": entry.group}
            whole = {**row, **dealt, **where, "member": source.member, **_track(source)}
            clips.append(SplitClip.model_validate(whole).model_dump())
        (self.folder / "captions").mkdir()
        for split, lines in rows.items():
            path = self.folder / "captions" / f"{split}.jsonl"
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        write_json(self.folder / SPLITS_FILE_NAME, {"clips": clips})
        return {split: f"captions/{split}.jsonl" for split in SPLIT_NAMES}


def write_sheet(
    path: Path, entries: Sequence[Entry], clustered: Clustered, cache: Cache, rng_seed: int
) -> None:
    """Draws some train clips of each cluster in one picture."""
    blocks = []
    order = np.random.default_rng(rng_seed).permutation(len(entries))
    for row in clustered.table:
        mine = [i for i in order if clustered.labels[i] == row.cluster and entries[i].split == "train"]
        pictures = [
            cache.read(entries[i].cache_key, "thumbs", entries[i].index) for i in mine[: COLUMNS * ROWS]
        ]
        counts = f"{row.clips['train']} train and {row.clips['gate']} gate clips"
        blocks.append(
            SheetBlock(f"cluster {row.cluster}: {counts}, silhouette {row.silhouette:.2f}", pictures)
        )
    contact_sheet(blocks, path)


def _track(source: Source) -> dict[str, float | int | bool]:
    """Returns what decoding a clip again needs to know of its video."""
    if source.track is None:
        return {}
    track = source.track
    return {
        "stream": track.stream,
        "frame_s": track.frame_s,
        "in_order": track.in_order,
        "counted": track.counted,
    }


def write_report(folder: Path, prepared: Prepared, skipped: Iterable[Skipped], notes: Iterable[Note]) -> None:
    """Writes report.json: what was used, what was not and why, and what was done to what is used."""
    clusters = [row.model_dump() for row in prepared.clusters]
    counts = {
        "clips": prepared.clips,
        "sources": prepared.sources,
        "skipped": prepared.skipped,
        "notes": prepared.notes,
    }
    codec = {
        "name": prepared.codec.name,
        "psnr_db": prepared.codec_psnr_db,
        "pca_psnr_db": prepared.pca_psnr_db or None,
    }
    about = {**counts, "codec": codec, "clusters": clusters, **listed_files(skipped, notes)}
    write_json(folder / "report.json", about)


def write_failure(out: Path, error: Exception, skipped: Iterable[Skipped], notes: Iterable[Note]) -> Path:
    """Writes what was found before the error, beside a whole report of an earlier prepare."""
    path = out / ("report-failed.json" if (out / PREPARED_FILE_NAME).is_file() else "report.json")
    write_json(path, {"error": str(error), **listed_files(skipped, notes)})
    return path


def listed_files(skipped: Iterable[Skipped], notes: Iterable[Note]) -> dict[str, Any]:
    """Returns what a report says of single files."""
    return {
        "skipped_files": [asdict(skip) for skip in skipped],
        "noted_files": [asdict(note) for note in notes],
    }


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    # Half a character becomes JSON's own escape.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def pin_model(name: str, files: ModelFiles, local: bool, folder: Path) -> PreparedModel:
    """Pins a model: a local folder's files are copied into `folder` to travel with the run.

    Another model is named by revision and hash.
    """
    if not local:
        return PreparedModel(name=name, revision=files.revision, sha256=files.sha256)
    try:
        check_names(path.name for path in files.files)
    except ValueError as error:
        raise UsageError(
            f"the model in {files.folder} cannot travel with a run: {error}; rename or remove it"
        ) from error
    folder.mkdir(parents=True)
    for path in files.files:
        shutil.copyfile(path, folder / path.name)
    kind = name.partition(":")[0]
    copied = {path.name: f"{folder.name}/{path.name}" for path in files.files}
    # The owner's own path stays here.
    return PreparedModel(name=f"{kind}:{files.folder.resolve().name}", files=copied, sha256=files.sha256)


def move_into_place(work: Path, out: Path) -> None:
    """Replaces what an earlier prepare left, but for clips that were added to its run later.

    prepared.json is missing in between, so that a crash leaves nothing half believed.
    """
    for added in sorted((out / "shards").glob("addition-*")):
        added.replace(work / "shards" / added.name)
    (out / "prepared.json").unlink(missing_ok=True)
    for name in ("codec", "text", "features"):
        shutil.rmtree(out / name, ignore_errors=True)
    for path in sorted(work.iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    work.rmdir()
