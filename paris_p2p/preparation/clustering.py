"""Deals clips to clusters and splits together: each cluster is an expert's, to train and to check with.

Legend: N clips, F features, R reduced features, K clusters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.cache import Cache
from paris_p2p.data.captions import Note
from paris_p2p.data.clusters import MAX_FIT_CLIPS, ClusterModel, fit_clusters, silhouettes
from paris_p2p.data.film_parts import left_out
from paris_p2p.data.prepared import PreparedCluster, Split
from paris_p2p.data.sources import Source
from paris_p2p.data.splits import counted, give_gate_clips
from paris_p2p.errors import DataError
from paris_p2p.progress import Progress

SPLIT_NAMES: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Entry:
    """Describes one usable clip."""

    key: str
    cache_key: str  # of its source
    source: Source
    index: int  # among its source's clips
    start_s: float
    group: str
    split: Split
    caption: str


def own_group(source: Source, content_hash: str) -> str:
    """Returns the group of a source that the owner named none for: its content, or its part of a video."""
    return content_hash if source.span is None else f"{content_hash}/{source.span.group}"


def entries_of(
    sources: Sequence[Source],
    hashes: Mapping[str, str],
    key_of: Callable[[Source], str],
    starts_s: Mapping[str, list[float]],
    groups: Mapping[str, str],
    splits: Mapping[str, Split],
) -> list[Entry]:
    """Returns all clips, sorted by content and then by time; `key_of` names a source's cache file."""
    numbers: Counter[str] = Counter()
    entries = []
    for source in sources:
        for i, start_s in enumerate(starts_s.get(source.id, ())):
            key = f"{hashes[source.name][:24]}-{numbers[source.name]:06d}"
            numbers[source.name] += 1
            group = groups[source.id]
            caption = source.caption_at(start_s)
            entries.append(Entry(key, key_of(source), source, i, start_s, group, splits[group], caption))
    return sorted(entries, key=lambda entry: entry.key)


@dataclass(frozen=True)
class Clustered:
    """Holds each entry's cluster, and how good the clusters are."""

    model: ClusterModel
    labels: NDArray[np.int64]  # [N]
    table: tuple[PreparedCluster, ...]


class UncheckedClusterError(DataError):
    """Says that a cluster has nothing to be checked with; carries the clusters, to be looked at."""

    def __init__(self, message: str, entries: Sequence[Entry], clustered: Clustered) -> None:
        super().__init__(message)
        self.entries = entries
        self.clustered = clustered


@dataclass(frozen=True)
class Dealer:
    """Deals clips to clusters and splits; `fitted` are the groups that the codec was fitted on."""

    cache: Cache
    rng_seed: int
    ranked: Sequence[str]
    fitted: Collection[str]
    clip_s: float
    progress: Progress

    def deal(self, entries: Sequence[Entry], experts: int, *, fewer: bool) -> tuple[list[Entry], Clustered]:
        """Returns entries with their final splits, without those too near another split's, and the clusters.

        With `fewer` there are as many clusters as there can be up to `experts`. DataError when a cluster
        cannot have both train and gate clips.
        """
        while True:
            try:
                return self._deal(entries, experts)
            except DataError:
                if not fewer or experts == 1:
                    raise
                experts -= 1

    def _deal(self, entries: Sequence[Entry], experts: int) -> tuple[list[Entry], Clustered]:
        train = [entry for entry in entries if entry.split == "train"]
        chosen = np.sort(np.random.default_rng(self.rng_seed).permutation(len(train))[:MAX_FIT_CLIPS])
        fitted = [train[i] for i in chosen]
        model = fit_clusters(
            _features(fitted, self.cache), experts, self.rng_seed, [entry.group for entry in fitted]
        )
        reduced = _reduced(model, entries, self.cache, self.progress)
        labels = model.assign(reduced)
        splits, lacking = self._gate(entries, labels, experts)
        dealt = [replace(entry, split=splits[entry.group]) for entry in entries]
        if lacking:
            clustered = _clustered(model, dealt, labels, reduced, self.rng_seed)
            row = clustered.table[lacking[0]]
            raise UncheckedClusterError(
                f"cluster {row.cluster} of {experts} has {row.clips['train']} train "
                f"and {row.clips['gate']} gate clips, and its expert needs both, of two sources; "
                "ask for fewer experts, or give more clips of its kind",
                dealt,
                clustered,
            )
        kept = self._apart(dealt, labels)
        dealt, labels, reduced = [dealt[i] for i in kept], labels[kept], reduced[kept]
        return dealt, _clustered(model, dealt, labels, reduced, self.rng_seed)

    def join(self, entries: Sequence[Entry], model: ClusterModel) -> tuple[list[Entry], Clustered]:
        """Returns entries as they are split, without those too near another split's, and their clusters.

        Nothing is fitted: each clip goes to the nearest of the model's.
        """
        reduced = _reduced(model, entries, self.cache, self.progress)
        labels = model.assign(reduced)
        kept = self._apart(entries, labels)
        entries, labels, reduced = [entries[i] for i in kept], labels[kept], reduced[kept]
        return entries, _clustered(model, entries, labels, reduced, self.rng_seed)

    def _gate(
        self, entries: Sequence[Entry], labels: NDArray[np.int64], experts: int
    ) -> tuple[dict[str, Split], list[int]]:
        splits = {entry.group: entry.split for entry in entries}
        inside: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for entry, label in zip(entries, labels.tolist(), strict=True):
            inside[entry.group][label] += 1
        return give_gate_clips(splits, self.ranked, inside, experts, self.fitted)

    def _apart(self, entries: Sequence[Entry], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns which entries stay: not those next to another split's in the same scene.

        The last clip of a cluster always stays.
        """
        files: defaultdict[str, dict[int, list[int]]] = defaultdict(dict)
        for i, entry in enumerate(entries):
            if entry.source.span is not None:
                files[entry.source.name].setdefault(entry.source.span.number, []).append(i)
        left = Counter((int(label), entry.split) for entry, label in zip(entries, labels, strict=True))
        dropped: set[int] = set()
        for parts in files.values():
            for number, index in sorted(self._near(entries, parts)):
                i = parts[number][index]
                place = int(labels[i]), entries[i].split
                if left[place] > 1:
                    left[place] -= 1
                    dropped.add(i)
        return np.array([i for i in range(len(entries)) if i not in dropped], np.int64)

    def _near(self, entries: Sequence[Entry], parts: Mapping[int, Sequence[int]]) -> set[tuple[int, int]]:
        spans = {n: span for n, mine in parts.items() if (span := entries[mine[0]].source.span) is not None}
        splits = {n: entries[mine[0]].split for n, mine in parts.items()}
        starts_s = {n: [entries[i].start_s for i in mine] for n, mine in parts.items()}
        return left_out(spans, splits, starts_s, self.clip_s)


def dealing_notes(
    entries: Sequence[Entry], dealt: Sequence[Entry], clusters: int, *, chosen: bool
) -> list[Note]:
    """Returns what was left out and moved while dealing; with `chosen`, that the number was chosen here."""
    notes: list[Note] = []
    if chosen:
        what = f"{counted(clusters, 'expert')} chosen for so many clips"
        notes.append(Note("", what, f"{len(entries)} clips; --experts sets another number"))
    kept = {entry.key for entry in dealt}
    near = Counter(entry.source.name for entry in entries if entry.key not in kept)
    left = "clips next to another split's left out"
    notes.extend(Note(name, left, f"{count} clips") for name, count in sorted(near.items()))
    before = {entry.group: entry.split for entry in entries}
    moved = {entry.group for entry in dealt if entry.split != before[entry.group]}
    if moved:
        what = "sources moved to the gate, for each cluster to have one"
        notes.append(Note("", what, ", ".join(sorted(moved))))
    return notes + _familiar(dealt)


def _familiar(dealt: Sequence[Entry]) -> list[Note]:
    """Notes how much of what is held out is of files that are trained on too, and so less new."""
    trained = {entry.source.name for entry in dealt if entry.split == "train"}
    held = [entry.source.name for entry in dealt if entry.split != "train"]
    near = [name for name in held if name in trained]
    if not near:
        return []
    what = f"{len(near)} of {len(held)} held-out clips are of videos that are trained on too"
    return [Note("", f"{what}: numbers look better than on new videos", ", ".join(sorted(set(near))))]


def _clustered(
    model: ClusterModel,
    entries: Sequence[Entry],
    labels: NDArray[np.int64],
    reduced: NDArray[np.float32],
    rng_seed: int,
) -> Clustered:
    experts = model.clusters
    in_train = np.array([entry.split == "train" for entry in entries])
    quality = silhouettes(reduced[in_train], labels[in_train], experts, rng_seed)
    counts = Counter((int(label), entry.split) for entry, label in zip(entries, labels, strict=True))
    table = tuple(
        PreparedCluster(
            cluster=k,
            clips={split: counts[k, split] for split in SPLIT_NAMES},
            silhouette=max(-1.0, min(1.0, quality[k])),
        )
        for k in range(experts)
    )
    return Clustered(model, labels, table)


def _reduced(
    model: ClusterModel, entries: Sequence[Entry], cache: Cache, progress: Progress
) -> NDArray[np.float32]:
    """Returns [N, R], computed source by source: all features together need not fit the memory."""
    parts: list[NDArray[np.float32]] = []
    done = 0
    for _, group in groupby(entries, key=lambda entry: entry.cache_key):
        parts.append(model.reduce(_features(list(group), cache)))
        done += len(parts[-1])
        progress("cluster", done, len(entries))
    return np.concatenate(parts)


def _features(entries: Sequence[Entry], cache: Cache) -> NDArray[np.float32]:
    """Returns [N, F] of entries that lie together by source."""
    return np.concatenate(list(features_by_source(entries, cache)))


def features_by_source(entries: Sequence[Entry], cache: Cache) -> Iterator[NDArray[np.float32]]:
    """Yields the features of entries that lie together by source: [n, F] each."""
    for key, group in groupby(entries, key=lambda entry: entry.cache_key):
        yield cache.read(key, "features")[[entry.index for entry in group]]
