"""Makes a run's data of a folder of captioned videos or images.

    sources = the captioned videos found there, looked at; the unusable ones are told with their reasons
    codec, text encoder, feature network = as named, or a codec fitted to train clips
    for each source, several at once: clips -> features and latents, captions -> embeddings       # cached
    splits = whole groups of sources, to train, validation, gate and test
    clusters = k-means of the train clips' features, merged to K; held-out clips go to the nearest
    shards = latents and embeddings by split and cluster; report.json, clusters.png, prepared.json

Everything slow is cached for each video, so a stopped prepare continues; the same clips, options and RNG seed
give the same bytes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris_p2p.codec.video import latent_shape
from paris_p2p.data.addition import FEATURES_FILE
from paris_p2p.data.cache import Cache
from paris_p2p.data.captions import Note
from paris_p2p.data.prepared import Prepared, PreparedModel, Split
from paris_p2p.data.sources import Skipped, Source, find_sources
from paris_p2p.data.splits import assign_splits, check_enough, experts_for, rank_groups
from paris_p2p.data.text_files import check_encoding
from paris_p2p.data.unusable import UnusableVideo
from paris_p2p.device import pick_device
from paris_p2p.errors import DataError, UsageError
from paris_p2p.features.image import DEFAULT_FRAMES
from paris_p2p.preparation.assembly import (
    Assembly,
    move_into_place,
    pin_model,
    write_failure,
    write_report,
    write_sheet,
)
from paris_p2p.preparation.clustering import (
    SPLIT_NAMES,
    Clustered,
    Dealer,
    Entry,
    UncheckedClusterError,
    dealing_notes,
    entries_of,
    own_group,
)
from paris_p2p.preparation.encoding import Decoding, Encoder, embed_captions, fit_text
from paris_p2p.preparation.networks import (
    Networks,
    PrepareOptions,
    input_fingerprint,
    is_local_name,
    load_named,
    prepare_networks,
)
from paris_p2p.preparation.preconditions import (
    already_prepared,
    disk_errors,
    none_usable,
    none_usable_at_all,
    require_frames,
    require_no_run,
    require_possible,
)
from paris_p2p.preparation.reach import CLUSTERS_FILE, write_features
from paris_p2p.preparation.sizes import expert_tokens, size_advice
from paris_p2p.preparation.survey import Survey, distinct, hash_sources
from paris_p2p.progress import Progress
from paris_p2p.spec import TextShape

VERSION = 3  # of what prepare makes of the same input: raised when that changes
SHEET_NAME = "clusters.png"


def _no_progress(stage: str, done: int, total: int) -> None:
    pass


def prepare(clips: Path, out: Path, options: PrepareOptions, progress: Progress = _no_progress) -> Prepared:
    """Prepares the clips in a folder; a second call with the same input returns at once.

    Writes shards/, captions/, codec/, splits.json, report.json, clusters.png, and prepared.json last; cache/
    may be deleted. DataError, UsageError, DiskFullError or ReadOnlyError say what to change.
    """
    require_possible(options)
    options = options.model_copy(update={"device": str(pick_device(options.device))})
    found = find_sources(clips, out, check_encoding(options.caption_encoding))
    sources, skipped = found.sources, found.skipped
    require_frames(sources, options.frames)
    with disk_errors(out):
        if not sources:
            raise none_usable_at_all(clips, out, found)
        out.mkdir(parents=True, exist_ok=True)
        made_from = input_fingerprint(sources, skipped, options, VERSION)
        known = already_prepared(out, made_from)
        if known is not None:
            return known
        require_no_run(out, made_from)
        decoding = Decoding(options.clip, options.clips_per_video, options.threads)
        advice = size_advice(options.codec, options.clip)
        notes = [*found.notes, *([Note("", advice)] if advice else [])]
        job = _Job(clips, out, options, progress, Cache(out / "cache"), decoding, skipped, notes)
        try:
            return job.run(sources, made_from)
        except (DataError, UsageError) as error:
            job.leave_what_was_found(error)
            raise


@dataclass(frozen=True)
class _Job:
    """Runs one prepare."""

    clips: Path
    out: Path
    options: PrepareOptions
    progress: Progress
    cache: Cache
    decoding: Decoding
    skipped: list[Skipped]  # grows
    notes: list[Note]  # grows

    @property
    def work(self) -> Path:
        """Returns the folder of what is not whole yet."""
        return self.out / "partial"

    def run(self, sources: list[Source], made_from: str) -> Prepared:
        shutil.rmtree(self.work, ignore_errors=True)
        named = load_named(self.options)
        hashes, copies = distinct(hash_sources(sources, self.cache, self.options.threads, self.progress))
        self.skipped.extend(copies)
        sources = self._survey().sources([source for source in sources if source.name in hashes])
        _require(sources, self.skipped, self.clips)
        groups = {source.id: source.group or own_group(source, hashes[source.name]) for source in sources}
        ranked = rank_groups(list(groups.values()), self.options.rng_seed)
        # Held-out splits are filled from the front, so the last quarter is train, whatever turns out to be
        # unusable.
        place = {group: i for i, group in enumerate(ranked[-max(1, len(ranked) // 4) :])}
        tail = [source for source in sources if groups[source.id] in place]
        tail.sort(key=lambda source: (-place[groups[source.id]], source.id))
        models = prepare_networks(named, tail, self.options, self.decoding, self.cache, self.progress)
        encoder = self._encoder(models)
        starts_s = self._usable(sources, encoder)
        splits = self._splits(ranked, groups, starts_s, place)
        entries = entries_of(sources, hashes, encoder.key, starts_s, groups, splits)
        dealt, clustered = self._deal(entries, ranked, place)
        return self._assemble(dealt, clustered, models, made_from)

    def _survey(self) -> Survey:
        options = self.options
        return Survey(
            options.clip,
            options.clips_per_video,
            options.threads,
            self.cache,
            self.progress,
            self.skipped,
            self.notes,
            options.experts,
            options.splits,
        )

    def _encoder(self, models: Networks) -> Encoder:
        made_from = models.made_from(VERSION, self.options)
        return Encoder(
            models.codec, models.features, self.decoding, self.cache, made_from, models.first_features
        )

    def _deal(
        self, entries: Sequence[Entry], ranked: Sequence[str], fitted_on: Collection[str]
    ) -> tuple[list[Entry], Clustered]:
        options, asked = self.options, self.options.experts
        clip_s = options.frames / options.fps
        dealer = Dealer(self.cache, options.rng_seed, ranked, fitted_on, clip_s, self.progress)
        dealt, clustered = dealer.deal(entries, asked or experts_for(len(entries)), fewer=not asked)
        self.notes.extend(dealing_notes(entries, dealt, clustered.model.clusters, chosen=not asked))
        return dealt, clustered

    def leave_what_was_found(self, error: DataError | UsageError) -> None:
        """Writes report.json, and clusters.png where there are clusters, of a prepare that cannot go on."""
        path = write_failure(self.out, error, self.skipped, self.notes)
        sheet = self.out / ("clusters-failed.png" if path.name != "report.json" else SHEET_NAME)
        drawn = self.work / SHEET_NAME
        seen = f" and {sheet.name}" if drawn.is_file() or isinstance(error, UncheckedClusterError) else ""
        if isinstance(error, UncheckedClusterError):
            write_sheet(sheet, error.entries, error.clustered, self.cache, self.options.rng_seed)
        elif seen:
            drawn.replace(sheet)
        if self.skipped or self.notes or seen:
            error.args = (f"{error} (see {path.name}{seen} in {self.out})",)

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
        _require(usable, self.skipped, self.clips)
        return usable

    def _splits(
        self,
        ranked: Sequence[str],
        groups: Mapping[str, str],
        starts_s: Mapping[str, list[float]],
        fitted_on: Collection[str],
    ) -> dict[str, Split]:
        """Returns group -> split, of the groups that have clips."""
        counts: Counter[str] = Counter()
        for name, starts in starts_s.items():
            counts[groups[name]] += len(starts)
        total = sum(counts.values())
        check_enough(total, len(counts), self.options.experts or experts_for(total))
        return assign_splits(
            [group for group in ranked if group in counts], counts, self.options.splits, fitted_on
        )

    def _firsts(self, entries: Sequence[Entry], models: Networks) -> dict[str, Any]:
        """Returns what the run says of first frames; nothing where it has none."""
        if not self.options.image_to_video:
            return {}
        width = len(self.cache.read(entries[0].cache_key, "firsts", entries[0].index))
        pinned = models.pin_features(self.options.features, self.work / "features")
        return {"first_features": pinned, "first_width": width}

    def _assemble(
        self, entries: Sequence[Entry], clustered: Clustered, models: Networks, made_from: str
    ) -> Prepared:
        options, work = self.options, self.work
        work.mkdir()
        write_sheet(work / SHEET_NAME, entries, clustered, self.cache, options.rng_seed)
        captions = [(entry.source.name, entry.caption) for entry in entries]
        text, longest, cut = fit_text(models.text, captions, options.text_tokens)
        self.notes.extend(cut)
        embedded = embed_captions((entry.caption for entry in entries), text, self.cache, self.progress)
        clustered.model.save(work / CLUSTERS_FILE)
        write_features(work / FEATURES_FILE, entries, self.cache)
        assembly = Assembly(
            work, self.cache, entries, clustered, embedded, options.fps, self.progress, options.image_to_video
        )
        prepared = Prepared(
            fingerprint=made_from,
            rng_seed=options.rng_seed,
            clip=options.clip,
            latent=latent_shape(models.codec, options.clip),
            text_shape=TextShape(tokens=text.tokens, dim=text.dim, pooled_dim=text.pooled_dim),
            longest_caption_tokens=longest,
            codec=models.pin_codec(work / "codec"),
            text=pin_model(options.text, models.text.files, is_local_name(options.text), work / "text"),
            features=PreparedModel(name=models.features.name, sha256=models.features.sha256),
            feature_frames=options.feature_frames if options.feature_frames != DEFAULT_FRAMES else 0,
            **self._firsts(entries, models),
            codec_psnr_db=models.psnr_db,
            pca_psnr_db=models.pca_psnr_db,
            experts=clustered.model.clusters,
            tokens=expert_tokens(latent_shape(models.codec, options.clip)),
            clusters=clustered.table,
            shards=assembly.write_shards(options.shard_bytes),
            captions=assembly.write_lists(),
            **_counts(entries),
            skipped=dict(sorted(Counter(skip.reason for skip in self.skipped).items())),
            notes=dict(sorted(Counter(note.what for note in self.notes).items())),
        )
        write_report(work, prepared, self.skipped, self.notes)
        move_into_place(work, self.out)
        prepared.write(self.out)
        return prepared


def _require(found: Collection[Any], skipped: Sequence[Skipped], clips: Path) -> None:
    if not found:
        raise none_usable(skipped, clips)


def _counts(entries: Sequence[Entry]) -> dict[str, Any]:
    clips = _count(entry.split for entry in entries)
    sources = _count({entry.source.id: entry.split for entry in entries}.values())
    return {"clips": clips, "sources": sources, "files": len({entry.source.name for entry in entries})}


def _count(splits: Iterable[Split]) -> dict[Split, int]:
    counts = Counter(splits)
    return {split: counts[split] for split in SPLIT_NAMES}
