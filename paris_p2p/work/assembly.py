"""From the cache to what a run is made of: clusters, shards, lists and a contact sheet, written aside and moved into place.

Legend: N clips, F features, R reduced features, K clusters.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.cache import Cache
from paris_p2p.data.captions import Note
from paris_p2p.data.clusters import MAX_FIT_CLIPS, ClusterModel, fit_clusters, silhouettes
from paris_p2p.data.prepared import SPLITS_FILE_NAME, Prepared, PreparedCluster, PreparedModel, PreparedShard, Split, SplitClip
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.data.sheet import COLUMNS, ROWS, Block, contact_sheet
from paris_p2p.data.sources import Skipped, Source
from paris_p2p.errors import DataError, UsageError
from paris_p2p.weights import ModelFiles, check_names
from paris_p2p.work.encoding import EmbeddedCaptions, Progress

SPLIT_NAMES: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Entry:
    """One usable clip."""

    key: str
    cache_key: str  # of its video
    source: Source
    index: int  # among its video's clips
    start_s: float
    group: str
    split: Split


@dataclass(frozen=True)
class Clustered:
    """Each entry's cluster, and how good the clusters are."""

    model: ClusterModel
    labels: NDArray[np.int64]  # [N]
    table: tuple[PreparedCluster, ...]


def cluster(entries: Sequence[Entry], cache: Cache, experts: int, rng_seed: int, progress: Progress) -> Clustered:
    """Fit on train clips only, then assign every clip; DataError when a cluster would have nothing to be checked with."""
    train = [entry for entry in entries if entry.split == "train"]
    chosen = np.sort(np.random.default_rng(rng_seed).permutation(len(train))[:MAX_FIT_CLIPS])
    model = fit_clusters(_features([train[i] for i in chosen], cache), experts, rng_seed)
    reduced = _reduced(model, entries, cache, progress)
    labels = model.assign(reduced)
    in_train = np.array([entry.split == "train" for entry in entries])
    quality = silhouettes(reduced[in_train], labels[in_train], experts, rng_seed)
    counts = Counter((int(label), entry.split) for entry, label in zip(entries, labels, strict=True))
    for k in range(experts):
        if not counts[k, "train"] or not counts[k, "gate"]:
            raise DataError(
                f"cluster {k} of {experts} has {counts[k, 'train']} train and {counts[k, 'gate']} gate clips, and its expert needs both; "
                "ask for fewer experts, or give more clips"
            )
    table = tuple(
        PreparedCluster(cluster=k, clips={split: counts[k, split] for split in SPLIT_NAMES}, silhouette=max(-1.0, min(1.0, quality[k])))
        for k in range(experts)
    )
    return Clustered(model, labels, table)


def _reduced(model: ClusterModel, entries: Sequence[Entry], cache: Cache, progress: Progress) -> NDArray[np.float32]:
    """[N, R], video by video: all features together need not fit the memory."""
    parts: list[NDArray[np.float32]] = []
    done = 0
    for _, group in groupby(entries, key=lambda entry: entry.cache_key):
        parts.append(model.reduce(_features(list(group), cache)))
        done += len(parts[-1])
        progress("cluster", done, len(entries))
    return np.concatenate(parts)


def _features(entries: Sequence[Entry], cache: Cache) -> NDArray[np.float32]:
    """[N, F] of entries that lie together by video."""
    parts = []
    for key, group in groupby(entries, key=lambda entry: entry.cache_key):
        parts.append(cache.read(key, "features")[[entry.index for entry in group]])
    return np.concatenate(parts)


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
        shards: list[PreparedShard] = []
        done = 0
        groups: defaultdict[tuple[Split, int], list[Entry]] = defaultdict(list)
        for entry, label in zip(self.entries, self.clustered.labels, strict=True):
            groups[entry.split, int(label)].append(entry)
        for split in SPLIT_NAMES:
            for k in range(self.clustered.model.clusters):
                for shard in write_shards(self.folder / "shards", split, k, self._samples(k, groups[split, k]), shard_bytes):
                    shards.append(shard)
                    done += shard.clips
                    self.progress("write shards", done, len(self.entries))
        return tuple(shards)

    def _samples(self, k: int, entries: Iterable[Entry]) -> Iterator[Sample]:
        for entry in entries:
            caption = entry.source.caption
            start_frame = round(entry.start_s * self.fps)
            yield Sample(
                key=entry.key,
                latent=self.cache.read(entry.cache_key, "latents", entry.index),
                tokens=self.embedded.read(caption, "tokens"),
                mask=self.embedded.read(caption, "mask"),
                pooled=self.embedded.read(caption, "pooled"),
                info={"caption": caption, "source": entry.source.name, "cluster": k, "start_frame": start_frame},
                first=self.cache.read(entry.cache_key, "firsts", entry.index) if self.firsts else None,
            )

    def write_lists(self) -> dict[Split, str]:
        """captions/<split>.jsonl, splits.json and clusters.safetensors; the captions' paths."""
        trained_on = {entry.source.caption.casefold() for entry in self.entries if entry.split == "train"}
        rows: dict[Split, list[str]] = {split: [] for split in SPLIT_NAMES}
        clips = []
        for entry, label in zip(self.entries, self.clustered.labels, strict=True):
            source, caption = entry.source, entry.source.caption
            row = {"key": entry.key, "caption": caption, "cluster": int(label), "source": source.name, "start_s": entry.start_s}
            rows[entry.split].append(json.dumps({**row, "seen_in_train": caption.casefold() in trained_on}, ensure_ascii=False))
            where = {"path": str(source.path.absolute()), "offset_bytes": source.offset_bytes, "size_bytes": source.size_bytes}
            dealt = {"split": entry.split, "group": entry.group}
            clips.append(SplitClip.model_validate({**row, **dealt, **where, "member": source.member}).model_dump())
        (self.folder / "captions").mkdir()
        for split, lines in rows.items():
            (self.folder / "captions" / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        write_json(self.folder / SPLITS_FILE_NAME, {"clips": clips})
        self.clustered.model.save(self.folder / "clusters.safetensors")
        return {split: f"captions/{split}.jsonl" for split in SPLIT_NAMES}

    def write_sheet(self, rng_seed: int) -> None:
        """clusters.png: some train clips of each cluster."""
        blocks = []
        order = np.random.default_rng(rng_seed).permutation(len(self.entries))
        for row in self.clustered.table:
            mine = [i for i in order if self.clustered.labels[i] == row.cluster and self.entries[i].split == "train"][: COLUMNS * ROWS]
            pictures = [self.cache.read(self.entries[i].cache_key, "thumbs", self.entries[i].index) for i in mine]
            blocks.append(Block(f"cluster {row.cluster}: {row.clips['train']} train clips, silhouette {row.silhouette:.2f}", pictures))
        contact_sheet(blocks, self.folder / "clusters.png")


def write_report(folder: Path, prepared: Prepared, skipped: Iterable[Skipped], notes: Iterable[Note]) -> None:
    """report.json: what was used, what was not and why, and what was done to what is used."""
    clusters = [row.model_dump() for row in prepared.clusters]
    counts = {"clips": prepared.clips, "sources": prepared.sources, "skipped": prepared.skipped, "notes": prepared.notes}
    told = {"skipped_files": [asdict(skip) for skip in skipped], "noted_files": [asdict(note) for note in notes]}
    codec = {"codec": {"name": prepared.codec.name, "psnr_db": prepared.codec_psnr_db, "pca_psnr_db": prepared.pca_psnr_db or None}}
    write_json(folder / "report.json", {**counts, **codec, "clusters": clusters, **told})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def pin_model(name: str, files: ModelFiles, local: bool, folder: Path) -> PreparedModel:
    """A local folder's files are copied into `folder` to travel with the run; another model is named by revision and hash."""
    if not local:
        return PreparedModel(name=name, revision=files.revision, sha256=files.sha256)
    try:
        check_names(path.name for path in files.files)
    except ValueError as error:
        raise UsageError(f"the model in {files.folder} cannot travel with a run: {error}; rename or remove it") from error
    folder.mkdir(parents=True)
    for path in files.files:
        shutil.copyfile(path, folder / path.name)
    kind = name.partition(":")[0]
    copied = {path.name: f"{folder.name}/{path.name}" for path in files.files}
    return PreparedModel(name=f"{kind}:{files.folder.resolve().name}", files=copied, sha256=files.sha256)  # the owner's own path stays here


def move_into_place(work: Path, out: Path) -> None:
    """Replace what an earlier prepare left; without prepared.json in between, so that a crash leaves nothing half believed."""
    (out / "prepared.json").unlink(missing_ok=True)
    for name in ("codec", "text", "features"):
        shutil.rmtree(out / name, ignore_errors=True)
    for path in sorted(work.iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    work.rmdir()
