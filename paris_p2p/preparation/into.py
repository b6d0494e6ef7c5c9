"""Prepares more clips for a run that was created before, with the run's own codec, text encoder and clusters.

    networks = those of the run's folder, checked by hash; nothing is fitted
    sources = the captioned files of the new folder, without what the run has already
    clips -> features and latents, captions -> embeddings                          # cached, as in prepare
    splits = whole groups of sources, to the shares of a run's; a group that the run knows stays in its split
    clusters = the nearest of the run's; clips that are far from all are named
    additions/NNN.json, written last; shards/addition-NNN/; additions/NNN/

Nothing that the run or its published node uses is touched. `paris-run say FOLDER add-clips` then tells the
run's peers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from paris_p2p.data.addition import FEATURES_FILE, FOLDER, AddedCluster, Addition, additions_of, all_clips
from paris_p2p.data.cache import Cache, cache_key
from paris_p2p.data.captions import Note
from paris_p2p.data.clusters import ClusterModel
from paris_p2p.data.prepared import Prepared, PreparedShard, Split
from paris_p2p.data.sources import Skipped, Source, find_sources
from paris_p2p.data.splits import SplitOptions, assign_added, rank_groups
from paris_p2p.data.text_files import check_encoding
from paris_p2p.data.unusable import UnusableVideo
from paris_p2p.device import pick_device
from paris_p2p.disk import make_directory
from paris_p2p.errors import DataError, UsageError
from paris_p2p.preparation.assembly import Assembly, listed_files, write_json, write_sheet
from paris_p2p.preparation.clustering import SPLIT_NAMES, Clustered, Dealer, Entry, entries_of, own_group
from paris_p2p.preparation.encoding import Decoding, Encoder, embed_captions, fit_text
from paris_p2p.preparation.networks import Networks, PrepareOptions, input_fingerprint
from paris_p2p.preparation.preconditions import disk_errors, none_usable, require_frames
from paris_p2p.preparation.prepare import SHEET_NAME, VERSION
from paris_p2p.preparation.reach import CLUSTERS_FILE, Far, find_far, run_features, write_features
from paris_p2p.preparation.run_networks import networks_of_run
from paris_p2p.preparation.survey import Survey, distinct, hash_sources
from paris_p2p.progress import Progress
from paris_p2p.run_file import RUN_FILE

MAX_ADDITIONS = 999


class IntoOptions(BaseModel):
    """Holds what may be chosen for added clips; all else is the run's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips_per_video: int = Field(default=64, ge=1, le=100_000)
    caption_encoding: str = Field(default="", max_length=40)
    splits: SplitOptions = SplitOptions()
    skip_far: bool = False  # leave out clips that lie far from all clusters
    shard_bytes: int = Field(default=128 << 20, ge=1)
    threads: int = Field(default=2, ge=1, le=256)
    device: str = "cpu"


def prepare_into(
    clips: Path, run: Path, options: IntoOptions, progress: Progress = lambda stage, done, total: None
) -> Addition:
    """Prepares the clips of a folder as an addition to the run in `run`; the same call again returns at once.

    DataError, UsageError, BlobError, DiskFullError or ReadOnlyError say what to change. A stopped call goes
    on where it was.
    """
    prepared = _run_at(run)
    options = options.model_copy(update={"device": str(pick_device(options.device))})
    wished = _as_prepared(prepared, options)
    found = find_sources(clips, run, check_encoding(options.caption_encoding))
    require_frames(found.sources, wished.frames)
    with disk_errors(run), _alone(run):
        if not found.sources:
            raise none_usable(found.skipped, clips)
        made_from = cache_key(
            "into",
            prepared.fingerprint,
            options.skip_far,
            input_fingerprint(found.sources, found.skipped, wished, VERSION),
        )
        done = additions_of(run)
        for addition in done:
            if addition.fingerprint == made_from and addition.is_whole(run):
                return addition
        number = max((addition.number for addition in done), default=0) + 1
        if number > MAX_ADDITIONS:
            raise UsageError(f"{run} has {MAX_ADDITIONS} additions, the most there can be")
        cache = Cache(run / "cache" / f"added-{cache_key(str(clips.absolute()))[:16]}")
        job = _Into(
            clips, run, prepared, options, wished, number, cache, progress, found.skipped, found.notes
        )
        return job.run_all(found.sources, made_from)


def _run_at(run: Path) -> Prepared:
    if not (run / RUN_FILE).is_file():
        raise UsageError(
            f"{run} holds no run to add clips to; make one with `paris-run create {run}`, "
            "or prepare all clips together"
        )
    return Prepared.load(run)


def _as_prepared(prepared: Prepared, options: IntoOptions) -> PrepareOptions:
    """Returns the options that prepare would need for clips like the run's."""
    clip = prepared.clip
    frames = {"feature_frames": prepared.feature_frames} if prepared.feature_frames else {}
    return PrepareOptions(
        experts=prepared.experts,
        frames=clip.frames,
        height=clip.height,
        width=clip.width,
        fps=clip.fps,
        codec=prepared.codec.name,
        text=prepared.text.name,
        text_tokens=prepared.text_shape.tokens,
        features=prepared.features.name,
        image_to_video=prepared.first_features is not None,
        rng_seed=prepared.rng_seed,
        **frames,
        **options.model_dump(exclude={"skip_far", "splits"}),
        splits=options.splits,
    )


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Holds the run's additions for one call: two would take the same number."""
    make_directory(run / FOLDER)
    descriptor = os.open(run / FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(f"another `paris-run prepare --into {run}` is running; wait for its end") from error
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Into:
    """Runs one addition."""

    clips: Path
    run: Path
    prepared: Prepared
    options: IntoOptions
    wished: PrepareOptions
    number: int
    cache: Cache
    progress: Progress
    skipped: list[Skipped]  # grows
    notes: list[Note]  # grows

    @property
    def work(self) -> Path:
        """Returns the folder of what is not whole yet."""
        return self.run / FOLDER / "partial"

    def run_all(self, sources: list[Source], made_from: str) -> Addition:
        shutil.rmtree(self.work, ignore_errors=True)
        models = networks_of_run(self.run, self.prepared, self.wished)
        hashes, copies = distinct(hash_sources(sources, self.cache, self.options.threads, self.progress))
        self.skipped.extend(copies)
        there = self._contents()
        for name in [name for name, content in hashes.items() if content[:24] in there]:
            why = f"the run has it as {there[hashes.pop(name)[:24]]}"
            self.skipped.append(Skipped(name, "in the run already", why))
        sources = self._survey().sources([source for source in sources if source.name in hashes])
        self._require(sources)
        groups = {source.id: source.group or own_group(source, hashes[source.name]) for source in sources}
        encoder = self._encoder(models)
        starts_s = self._usable(sources, encoder)
        entries = entries_of(sources, hashes, encoder.key, starts_s, groups, self._splits(groups, starts_s))
        model = ClusterModel.load(self.run / CLUSTERS_FILE)
        far = self._far(entries, model, models)
        if self.options.skip_far:
            entries = [entry for entry in entries if entry.key not in far.distance]
            self._require(entries)
        ranked = rank_groups(list(groups.values()), self.prepared.rng_seed)
        clip_s = self.prepared.clip.frames / self.prepared.clip.fps
        dealer = Dealer(self.cache, self.prepared.rng_seed, ranked, (), clip_s, self.progress)
        dealt, clustered = dealer.join(entries, model)
        return self._assemble(dealt, clustered, models, far, made_from)

    def _require(self, found: Sequence[object]) -> None:
        if not found:
            raise none_usable(self.skipped, self.clips)

    def _contents(self) -> dict[str, str]:
        """Returns the content, as keys hold it, of every file that the run has -> its name."""
        return {clip.key.rpartition("-")[0]: clip.source for clip in all_clips(self.run)}

    def _survey(self) -> Survey:
        options, clip = self.options, self.prepared.clip
        grows = self.skipped, self.notes
        limits = options.clips_per_video, options.threads
        return Survey(clip, *limits, self.cache, self.progress, *grows, self.prepared.experts, options.splits)

    def _encoder(self, models: Networks) -> Encoder:
        decoding = Decoding(self.prepared.clip, self.options.clips_per_video, self.options.threads)
        made_from = models.made_from(VERSION, self.wished)
        return Encoder(models.codec, models.features, decoding, self.cache, made_from, models.first_features)

    def _usable(self, sources: Sequence[Source], encoder: Encoder) -> dict[str, list[float]]:
        """Returns source id -> where its clips start; the other sources are added to what is skipped."""
        usable: dict[str, list[float]] = {}
        for name, result in sorted(encoder.run(sources, self.progress).items()):
            if isinstance(result, UnusableVideo):
                self.skipped.append(Skipped(name, result.reason, result.detail))
            else:
                usable[name] = result
        for name, remarks in sorted(encoder.remarks(sources).items()):
            self.notes.extend(Note(name, what, f"{count} times") for what, count in remarks.items())
        self._require(list(usable))
        return usable

    def _splits(self, groups: Mapping[str, str], starts_s: Mapping[str, list[float]]) -> dict[str, Split]:
        """Returns group -> split; the groups that the run's owner named for clips of before stay together."""
        counts: Counter[str] = Counter()
        for name, starts in starts_s.items():
            counts[groups[name]] += len(starts)
        known = {clip.group: clip.split for clip in all_clips(self.run) if clip.group}
        ranked = rank_groups(list(counts), self.prepared.rng_seed)
        return assign_added(ranked, counts, self.options.splits, known)

    def _far(self, entries: Sequence[Entry], model: ClusterModel, models: Networks) -> Far:
        try:
            own = run_features(self.run, self.prepared, models.features, self.progress)
        except DataError as error:
            self.notes.append(Note("", "how far clips lie from the clusters is not known", str(error)))
            return Far(0.0, {})
        far = find_far(entries, self.cache, model, own)
        self.notes.extend(far.notes(entries, left_out=self.options.skip_far))
        return far

    def _assemble(
        self, entries: Sequence[Entry], clustered: Clustered, models: Networks, far: Far, made_from: str
    ) -> Addition:
        options, work, prepared = self.options, self.work, self.prepared
        work.mkdir()
        write_sheet(work / SHEET_NAME, entries, clustered, self.cache, prepared.rng_seed)
        write_features(work / FEATURES_FILE, entries, self.cache)
        captions = [(entry.source.name, entry.caption) for entry in entries]
        text, _, cut = fit_text(models.text, captions, prepared.text_shape.tokens)
        self.notes.extend(cut)
        embedded = embed_captions((entry.caption for entry in entries), text, self.cache, self.progress)
        firsts = prepared.first_features is not None
        assembly = Assembly(
            work, self.cache, entries, clustered, embedded, prepared.clip.fps, self.progress, firsts
        )
        shards = assembly.write_shards(options.shard_bytes)
        assembly.write_lists()
        sources = {entry.source.id: entry.split for entry in entries}
        addition = Addition(
            number=self.number,
            fingerprint=made_from,
            run=prepared.fingerprint,
            clusters=tuple(AddedCluster(cluster=row.cluster, clips=row.clips) for row in clustered.table),
            shards=tuple(self._placed(shard) for shard in shards),
            clips=_counted([entry.split for entry in entries]),
            sources=_counted(list(sources.values())),
            files=len({entry.source.name for entry in entries}),
            far=len(far.distance),
            far_left_out=options.skip_far,
            reach=far.reach,
            skipped=dict(sorted(Counter(skip.reason for skip in self.skipped).items())),
            notes=dict(sorted(Counter(note.what for note in self.notes).items())),
        )
        about = addition.model_dump(exclude={"shards"}) | listed_files(self.skipped, self.notes)
        write_json(work / "report.json", about | {"far_clips": far.distance})
        self._into_place(addition)
        return addition

    def _placed(self, shard: PreparedShard) -> PreparedShard:
        inside = shard.path.removeprefix("shards/")
        return shard.model_copy(update={"path": f"shards/addition-{self.number:03d}/{inside}"})

    def _into_place(self, addition: Addition) -> None:
        """Moves everything to where it stays; what a stopped call left there belongs to no addition."""
        shards, lists = self.run / "shards" / f"addition-{self.number:03d}", self.run / addition.folder
        for target, made in ((shards, self.work / "shards"), (lists, self.work)):
            shutil.rmtree(target, ignore_errors=True)
            made.replace(target)
        addition.write(self.run)


def _counted(splits: Sequence[Split]) -> dict[Split, int]:
    counts = Counter(splits)
    return {split: counts[split] for split in SPLIT_NAMES}
