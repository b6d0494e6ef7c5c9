"""Makes what an owner says when a run gets one expert more or fewer: which clips go where, in new shards.

    split_expert   k-means parts the cluster's clips in two by their stored features; the part whose mean is
                   nearer to the whole cluster's stays the parent's, the other is the child's
    drop_expert    each clip of the cluster goes to the nearest of the others

The new shards lie in the folder and in the store of the owner's node there. Nothing changes for anybody
before the notices are told; `Regrouped.settle` then makes the folder's clusters those of the run, for clips
that are prepared later. The same call makes the same shards, so that one that was stopped may be repeated.
Legend: N clips of the cluster, F features.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.addition import FEATURES_FILE, FOLDER, additions_of, listed_clips
from paris_p2p.data.cluster_splits import ClusterClips, split_cluster, without_cluster
from paris_p2p.data.clusters import ClusterModel
from paris_p2p.data.prepared import Prepared
from paris_p2p.data.shards import StoredMembers, move_clips, stored_clips
from paris_p2p.data.splits import counted
from paris_p2p.disk import replacing
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DataError, UsageError
from paris_p2p.features.image import DEFAULT_FRAMES, load_features
from paris_p2p.owner_records import MAX_SHARDS, AddClips, AddedShard, AddExpert, DropExpert
from paris_p2p.preparation.owner_shards import OwnerShards
from paris_p2p.preparation.reach import CLUSTERS_FILE, run_features, stored_features
from paris_p2p.progress import Progress
from paris_p2p.rules.growth import why_not
from paris_p2p.spec import RunSpec

SHARD_BYTES = 128 << 20
SPLITS = ("train", "gate")


@dataclass(frozen=True)
class Regrouped:
    """Holds the changes to be told, in their order, each as a notice of its own, and what they come to."""

    changes: tuple[AddExpert | DropExpert | AddClips, ...]
    account: str  # for a person
    folder: Path
    clusters: Path  # the clusters after it

    def settle(self) -> None:
        """Makes the folder's clusters those after the change; called once its notices are signed."""
        with replacing(self.folder / CLUSTERS_FILE) as file:
            file.write(self.clusters.read_bytes())


@dataclass(frozen=True)
class _Clips:
    """Holds the clips of one cluster, in the order of its shards: the train ones first."""

    keys: tuple[str, ...]  # [N]
    trained: NDArray[np.bool_]  # [N]
    features: NDArray[np.float32]  # [N F]


def split_expert(
    folder: Path,
    run: Envelope[RunSpec],
    spec: RunSpec,
    expert: int,
    progress: Progress = lambda stage, done, total: None,
) -> Regrouped:
    """Splits an expert's cluster for a new expert; `spec` is the RunSpec with all that was told so far.

    UsageError where the run cannot grow so, DataError where the clips cannot be split or are not whole,
    MissingBlobError or SealError where the owner's node lacks the shards.
    """
    child = spec.experts
    _require(spec, AddExpert(parent=expert, child=child, parts=1))
    regroup = _Regroup(folder, run, spec, expert, f"split-{expert}-{child}", progress)
    with regroup.shards.opened(regroup.refs) as paths:
        clips = regroup.clips(paths)
        parted = split_cluster(
            regroup.model(), expert, child, ClusterClips(clips.features, clips.trained), spec.rng_seed
        )
        labels = np.where(parted.is_child, child, expert)
        added = regroup.write(paths, dict(zip(clips.keys, labels.tolist(), strict=True)))
    parts = _parts(added)
    account = (
        f"expert-{expert} is split: {_counts(added, expert)}; expert-{child} gets {_counts(added, child)}"
    )
    change = AddExpert(parent=expert, child=child, parts=len(parts))
    return regroup.done((change, *parts), account, parted.model)


def drop_expert(
    folder: Path,
    run: Envelope[RunSpec],
    spec: RunSpec,
    expert: int,
    progress: Progress = lambda stage, done, total: None,
) -> Regrouped:
    """Gives an expert's clips to the nearest others; `spec` is the RunSpec with all that was told so far.

    Errors as of split_expert.
    """
    _require(spec, DropExpert(expert=expert, parts=1))
    regroup = _Regroup(folder, run, spec, expert, f"drop-{expert}", progress)
    with regroup.shards.opened(regroup.refs) as paths:
        clips = regroup.clips(paths)
        model = without_cluster(regroup.model(), expert)
        labels = model.assign(model.reduce(clips.features))
        added = regroup.write(paths, dict(zip(clips.keys, labels.tolist(), strict=True)))
    parts = _parts(added)
    goes = ", ".join(f"{_counts(added, k)} to expert-{k}" for k in sorted({shard.cluster for shard in added}))
    account = f"expert-{expert} is dropped: {goes}"
    return regroup.done((DropExpert(expert=expert, parts=len(parts)), *parts), account, model)


class _Regroup:
    """Gives the clips of one cluster new shards."""

    def __init__(
        self, folder: Path, run: Envelope[RunSpec], spec: RunSpec, expert: int, name: str, progress: Progress
    ):
        self.folder, self.spec, self.expert, self.progress = folder, spec, expert, progress
        self.shards = OwnerShards(folder, run)
        self.work, self.made = folder / FOLDER / name, folder / "shards" / f"addition-{name}"
        slot = f"expert-{expert}"
        self.trained = spec.shards_for(slot, "train")
        self.refs = (*self.trained, *spec.shards_for(slot, "gate"))

    def model(self) -> ClusterModel:
        """Returns the clusters that go with the run's experts; where a call before was stopped after its
        notices were told, those that it left.
        """
        live = {k for k in range(self.spec.experts) if k not in self.spec.dropped_experts}
        paths = [self.folder / CLUSTERS_FILE, *sorted((self.folder / FOLDER).glob(f"*/{CLUSTERS_FILE}"))]
        for path in paths:
            model = ClusterModel.load(path)
            if set(model.merged.tolist()) == live:
                return model
        raise DataError(
            f"{paths[0]} has other clusters than the run has experts ({', '.join(self.spec.slots[:-1])}); "
            "restore it from a backup"
        )

    def clips(self, paths: Sequence[Path]) -> _Clips:
        """Returns keys and features of the cluster's clips."""
        keys = [[clip.key for clip in stored_clips(path)] for path in paths]
        trained = [np.full(len(of), i < len(self.trained)) for i, of in enumerate(keys)]
        flat = tuple(key for of in keys for key in of)
        return _Clips(flat, np.concatenate(trained), self._features(flat))

    def write(self, paths: Sequence[Path], labels: Mapping[str, int]) -> tuple[AddedShard, ...]:
        """Writes the clips as shards of their new clusters, takes these into the store, and returns them."""
        shutil.rmtree(self.made, ignore_errors=True)
        added: list[AddedShard] = []
        for split, mine in (("train", paths[: len(self.trained)]), ("gate", paths[len(self.trained) :])):
            for k in sorted(set(labels.values())):
                chosen = (clip for path in mine for clip in stored_clips(path) if labels[clip.key] == k)
                added += self._written("gate" if split == "gate" else "train", k, chosen)
                self.progress("regroup clips", sum(shard.clips for shard in added), len(labels))
        return tuple(added)

    def done(
        self, changes: tuple[AddExpert | DropExpert | AddClips, ...], account: str, model: ClusterModel
    ) -> Regrouped:
        self.work.mkdir(parents=True, exist_ok=True)
        model.save(self.work / CLUSTERS_FILE)
        return Regrouped(changes, account, self.folder, self.work / CLUSTERS_FILE)

    def _written(self, split: str, cluster: int, clips: Iterator[StoredMembers]) -> list[AddedShard]:
        made = move_clips(self.made, "gate" if split == "gate" else "train", cluster, clips, SHARD_BYTES)
        return [
            self.shards.add(self.folder / "shards" / shard.path, split, cluster, shard.clips)
            for shard in made
        ]

    def _features(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Returns the stored features of clips: [N F]. DataError for clips that no list has."""
        wanted, found = set(keys), dict[str, NDArray[np.float32]]()
        for lists, features in self._stored():
            for row, clip in enumerate(listed_clips(lists)):
                if clip.key in wanted:
                    found[clip.key] = features[row].astype(np.float32)
        missing = [key for key in keys if key not in found]
        if missing:
            raise DataError(
                f"{counted(len(missing), 'clip')} of expert-{self.expert}, {missing[0]} among them, stand in "
                f"none of the lists in {self.folder}; restore the folder from a backup"
            )
        return np.stack([found[key] for key in keys])

    def _stored(self) -> Iterator[tuple[Path, NDArray[np.float16]]]:
        """Yields the folders of lists, the run's and its additions', with the features of what they list."""
        for lists in (
            self.folder,
            *(self.folder / addition.folder for addition in additions_of(self.folder)),
        ):
            features = stored_features(lists / FEATURES_FILE, sum(1 for _ in listed_clips(lists)))
            if features is None:  # of an older version: the clips are looked at again
                prepared = Prepared.load(self.folder)
                name, sha256 = prepared.features.name, prepared.features.sha256
                network = load_features(name, frames=prepared.feature_frames or DEFAULT_FRAMES, sha256=sha256)
                features = run_features(lists, prepared, network, self.progress)
            yield lists, features


def _require(spec: RunSpec, change: AddExpert | DropExpert) -> None:
    if why := why_not(spec, change):
        raise UsageError(f"{why}; `paris-run state FOLDER` shows what the run is now")


def _parts(shards: Sequence[AddedShard]) -> tuple[AddClips, ...]:
    """Returns the changes that name the shards, as many in each as a notice holds."""
    return tuple(
        AddClips(shards=tuple(shards[start : start + MAX_SHARDS]))
        for start in range(0, len(shards), MAX_SHARDS)
    )


def _counts(shards: Sequence[AddedShard], cluster: int) -> str:
    counts = Counter[str]()
    for shard in shards:
        if shard.cluster == cluster:
            counts[shard.split] += shard.clips
    return f"{counts['train']} train and {counts['gate']} gate clips"
