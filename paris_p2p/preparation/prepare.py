"""From a folder of captioned videos or images to a run's data: splits, latents, embeddings, clusters, shards.

Everything slow is cached per video, so that a stopped prepare continues; the same clips, options and RNG seed
give the same bytes.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris_p2p.codec.text import TextEncoder, fitted
from paris_p2p.codec.video import latent_shape
from paris_p2p.data.cache import Cache, cache_key
from paris_p2p.data.captions import Note
from paris_p2p.data.prepared import Prepared, PreparedModel, Split
from paris_p2p.data.sources import Found, Skipped, Source, find_sources
from paris_p2p.data.splits import assign_splits, check_enough, counted, experts_for, rank_groups
from paris_p2p.data.text_files import check_encoding
from paris_p2p.data.unusable import UnusableVideo
from paris_p2p.device import pick_device
from paris_p2p.errors import DataError, DiskFullError, ReadOnlyError, UsageError
from paris_p2p.preparation.assembly import (
    Assembly,
    move_into_place,
    pin_model,
    write_failure,
    write_report,
    write_sheet,
)
from paris_p2p.preparation.clustering import SPLIT_NAMES, Clustered, Dealer, Entry, UncheckedClusterError
from paris_p2p.preparation.encoding import Decoding, Encoder, embed_captions
from paris_p2p.preparation.networks import (
    FIT_CLIPS_PER_SOURCE,
    Networks,
    PrepareOptions,
    fingerprint,
    is_local_name,
    load_named,
    load_networks,
)
from paris_p2p.preparation.sizes import clip_tokens, size_advice
from paris_p2p.preparation.survey import Survey, hash_sources
from paris_p2p.progress import Progress
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import TextShape

VERSION = 3  # of what prepare makes of the same input: raised when that changes
MAX_VIDEO_BYTES = 1 << 30  # pixels of one video's clips, in memory at once
SHEET_NAME = "clusters.png"


def _no_progress(stage: str, done: int, total: int) -> None:
    pass


def prepare(clips: Path, out: Path, options: PrepareOptions, progress: Progress = _no_progress) -> Prepared:
    """Prepare the clips in a folder; a second call with the same input returns at once.

    Writes shards/, captions/, codec/, splits.json, report.json, clusters.png, and prepared.json last; cache/
    may be deleted. DataError, UsageError, DiskFullError or ReadOnlyError say what to change.
    """
    at_once = min(FIT_CLIPS_PER_SOURCE, options.clips_per_video)
    if at_once * options.frames * options.height * options.width * 3 > MAX_VIDEO_BYTES:
        raise UsageError(
            f"{at_once} such clips of a video take over {MAX_VIDEO_BYTES >> 20} MiB; ask for fewer or smaller"
        )
    options = options.model_copy(update={"device": str(pick_device(options.device))})
    if options.image_to_video and options.frames == 1:
        raise UsageError(
            "--image-to-video is for clips: an image of one frame has nothing to go on to; "
            "leave it out, or raise --frames"
        )
    found = find_sources(clips, out, check_encoding(options.caption_encoding))
    sources, skipped = found.sources, found.skipped
    _require_frames(sources, options.frames)
    with _disk_errors(out):
        if not sources:
            raise _none_usable_at_all(clips, out, found)
        out.mkdir(parents=True, exist_ok=True)
        made_from = fingerprint(sources, skipped, options, VERSION)
        known = _already(out, made_from)
        if known is not None:
            return known
        _require_no_run(out, made_from)
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
    """One prepare."""

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
        """What is not whole yet."""
        return self.out / "partial"

    def run(self, sources: list[Source], made_from: str) -> Prepared:
        shutil.rmtree(self.work, ignore_errors=True)
        named = load_named(self.options)
        hashes = self._hashes(sources)
        survey = Survey(
            self.options.clip,
            self.options.clips_per_video,
            self.options.threads,
            self.cache,
            self.progress,
            self.skipped,
            self.notes,
            self.options.experts,
            self.options.splits,
        )
        sources = survey.sources([source for source in sources if source.name in hashes])
        _require(sources, self.skipped, self.clips)
        groups = {source.id: source.group or _own_group(source, hashes[source.name]) for source in sources}
        ranked = rank_groups(list(groups.values()), self.options.rng_seed)
        # Held-out splits are filled from the front, so the last quarter is train, whatever turns out to be
        # unusable.
        place = {group: i for i, group in enumerate(ranked[-max(1, len(ranked) // 4) :])}
        tail = sorted(
            (s for s in sources if groups[s.id] in place), key=lambda s: (-place[groups[s.id]], s.id)
        )
        models = load_networks(named, tail, self.options, self.decoding, self.cache, self.progress)
        encoder = Encoder(
            models.codec,
            models.features,
            self.decoding,
            self.cache,
            self._made_from(models),
            models.first_features,
        )
        starts_s = self._usable(sources, encoder)
        splits = self._splits(ranked, groups, starts_s, place)
        entries = _entries(sources, hashes, encoder, starts_s, groups, splits)
        dealer = Dealer(
            self.cache,
            self.options.rng_seed,
            ranked,
            place,
            self.options.frames / self.options.fps,
            self.progress,
        )
        asked = self.options.experts
        dealt, clustered = dealer.deal(entries, asked or experts_for(len(entries)), fewer=not asked)
        self._tell_dealt(entries, dealt, clustered)
        return self._assemble(dealt, clustered, models, made_from)

    def leave_what_was_found(self, error: DataError | UsageError) -> None:
        """report.json, and clusters.png where there are clusters, of a prepare that cannot go on."""
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

    def _hashes(self, sources: Sequence[Source]) -> dict[str, str]:
        """Source name -> content hash, of those that can be read and are no copy of an earlier one."""
        hashes: dict[str, str] = {}
        first: dict[str, str] = {}
        for name, found in hash_sources(sources, self.cache, self.options.threads, self.progress).items():
            if isinstance(found, UnusableVideo):
                self.skipped.append(Skipped(name, found.reason, found.detail))
            elif found in first:
                self.skipped.append(
                    Skipped(
                        name, "duplicate", f"byte for byte the same as {first[found]}, whose caption is used"
                    )
                )
            else:
                first[found] = name
                hashes[name] = found
        return hashes

    def _made_from(self, models: Networks) -> str:
        kind, _, reference = models.features.name.partition(":")
        # One CLIP's files are two networks, `clip:` and `transformers:`; those of packages are known by their
        # hash alone.
        features = (models.features.sha256, models.features.frames, *((kind,) if reference else ()))
        first = ("first frames",) if self.options.image_to_video else ()
        return cache_key(
            VERSION,
            self.options.clip.model_dump(),
            self.options.clips_per_video,
            models.codec_hash,
            features,
            *first,
        )

    def _usable(self, sources: Sequence[Source], encoder: Encoder) -> dict[str, list[float]]:
        """Source id -> where its clips start; the others go to the skipped ones."""
        usable: dict[str, list[float]] = {}
        for name, result in sorted(encoder.run(sources, self.progress).items()):
            if isinstance(result, UnusableVideo):
                self.skipped.append(Skipped(name, result.reason, result.detail))
            else:
                usable[name] = result
        for name, told in sorted(encoder.told(sources).items()):
            self.notes.extend(Note(name, what, f"{count} times") for what, count in told.items())
        _require(usable, self.skipped, self.clips)
        return usable

    def _splits(
        self,
        ranked: Sequence[str],
        groups: Mapping[str, str],
        starts_s: Mapping[str, list[float]],
        fitted_on: Collection[str],
    ) -> dict[str, Split]:
        """group -> split, of the groups that have clips."""
        counts: Counter[str] = Counter()
        for name, starts in starts_s.items():
            counts[groups[name]] += len(starts)
        total = sum(counts.values())
        check_enough(total, len(counts), self.options.experts or experts_for(total))
        return assign_splits(
            [group for group in ranked if group in counts], counts, self.options.splits, fitted_on
        )

    def _tell_dealt(self, entries: Sequence[Entry], dealt: Sequence[Entry], clustered: Clustered) -> None:
        """What was chosen and left out while dealing."""
        if not self.options.experts:
            chosen = f"{counted(clustered.model.clusters, 'expert')} chosen for so many clips"
            self.notes.append(Note("", chosen, f"{len(entries)} clips; --experts sets another number"))
        kept = {entry.key for entry in dealt}
        near = Counter(entry.source.name for entry in entries if entry.key not in kept)
        left = "clips next to another split's left out"
        self.notes.extend(Note(name, left, f"{count} clips") for name, count in sorted(near.items()))
        before = {entry.group: entry.split for entry in entries}
        moved = {e.group for e in dealt if e.split != before[e.group]}
        if moved:
            self.notes.append(
                Note("", "sources moved to the gate, for each cluster to have one", ", ".join(sorted(moved)))
            )
        self._tell_near(dealt)

    def _tell_near(self, dealt: Sequence[Entry]) -> None:
        """How much of what is held out is of files that are trained on too, and so less new."""
        trained = {entry.source.name for entry in dealt if entry.split == "train"}
        held = [entry.source.name for entry in dealt if entry.split != "train"]
        near = [name for name in held if name in trained]
        if near:
            what = f"{len(near)} of {len(held)} held-out clips are of videos that are trained on too"
            told = f"{what}: numbers look better than on new videos"
            self.notes.append(Note("", told, ", ".join(sorted(set(near)))))

    def _first_width(self, entry: Entry) -> int:
        return len(self.cache.read(entry.cache_key, "firsts", entry.index))

    def _fit_text(self, encoder: TextEncoder, entries: Sequence[Entry]) -> tuple[TextEncoder, int]:
        """The encoder with as many tokens as are read of a caption, and what the longest has; cut ones are
        noted.
        """
        unique = sorted({entry.caption for entry in entries})
        counts = dict(zip(unique, encoder.count(unique), strict=True))
        encoder = fitted(encoder, list(counts.values()), self.options.text_tokens)
        for name, caption in sorted({(entry.source.name, entry.caption) for entry in entries}):
            if counts[caption] > encoder.tokens:
                what = f"caption cut to {encoder.tokens} text tokens"
                self.notes.append(Note(name, what, f"it has {counts[caption]}: {caption[:200]}"))
        return encoder, max(counts.values())

    def _assemble(
        self, entries: Sequence[Entry], clustered: Clustered, models: Networks, made_from: str
    ) -> Prepared:
        options, work = self.options, self.work
        work.mkdir()
        write_sheet(work / SHEET_NAME, entries, clustered, self.cache, options.rng_seed)
        text, longest = self._fit_text(models.text, entries)
        embedded = embed_captions((entry.caption for entry in entries), text, self.cache, self.progress)
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
            first_features=models.pin_features(options.features, work / "features")
            if options.image_to_video
            else None,
            first_width=self._first_width(entries[0]) if options.image_to_video else 0,
            codec_psnr_db=models.psnr_db,
            pca_psnr_db=models.pca_psnr_db,
            experts=clustered.model.clusters,
            tokens=clip_tokens(latent_shape(models.codec, options.clip)),
            clusters=clustered.table,
            shards=assembly.write_shards(options.shard_bytes),
            captions=assembly.write_lists(),
            clips=_count(entry.split for entry in entries),
            sources=_count({entry.source.id: entry.split for entry in entries}.values()),
            files=len({entry.source.name for entry in entries}),
            skipped=dict(sorted(Counter(skip.reason for skip in self.skipped).items())),
            notes=dict(sorted(Counter(note.what for note in self.notes).items())),
        )
        write_report(work, prepared, self.skipped, self.notes)
        move_into_place(work, self.out)
        prepared.write(self.out)
        return prepared


def _own_group(source: Source, content_hash: str) -> str:
    return content_hash if source.span is None else f"{content_hash}/{source.span.group}"


def _entries(
    sources: Sequence[Source],
    hashes: Mapping[str, str],
    encoder: Encoder,
    starts_s: Mapping[str, list[float]],
    groups: Mapping[str, str],
    splits: Mapping[str, Split],
) -> list[Entry]:
    """All clips, sorted by content and then by time."""
    numbers: Counter[str] = Counter()
    entries = []
    for source in sources:
        for i, start_s in enumerate(starts_s.get(source.id, ())):
            key = f"{hashes[source.name][:24]}-{numbers[source.name]:06d}"
            numbers[source.name] += 1
            group = groups[source.id]
            caption = source.caption_at(start_s)
            entries.append(Entry(key, encoder.key(source), source, i, start_s, group, splits[group], caption))
    return sorted(entries, key=lambda entry: entry.key)


def _require_no_run(out: Path, fingerprint: str) -> None:
    """UsageError when other data would take the place of what a created run was made of."""
    if not (out / RUN_FILE).exists():
        return
    try:
        same = Prepared.load(out).fingerprint == fingerprint
    except DataError:
        same = False
    if not same:
        raise UsageError(
            f"{out} holds a created run ({RUN_FILE}), and these clips and options are not just what it "
            "was made of: preparing them there would replace its data. Give another --out"
        )


def _require(found: Collection[Any], skipped: Sequence[Skipped], clips: Path) -> None:
    if not found:
        raise _none_usable(skipped, clips)


def _none_usable(skipped: Sequence[Skipped], clips: Path) -> DataError:
    counts = ", ".join(
        f"{count} {reason}" for reason, count in Counter(skip.reason for skip in skipped).most_common()
    )
    first = next((f"; the first is {skip.name}: {skip.detail or skip.reason}" for skip in skipped), "")
    return DataError(
        f"no usable video or image in {clips} ({counts or 'it holds no such files'}{first}). "
        "Give files with captions: "
        "a .txt beside each, a captions.csv or captions.jsonl with file and caption, or webdataset tars"
    )


def _none_usable_at_all(clips: Path, out: Path, found: Found) -> DataError:
    """The same with a report.json, where there is anything to list."""
    error = _none_usable(found.skipped, clips)
    if found.skipped or found.notes:
        out.mkdir(parents=True, exist_ok=True)
        path = write_failure(out, error, found.skipped, found.notes)
        error.args = (f"{error} (see {path.name} in {out})",)
    return error


def _require_frames(sources: Sequence[Source], frames: int) -> None:
    images = [source.name for source in sources if source.is_image]
    if images and frames > 1:
        others = len(sources) - len(images)
        beside = (
            f" beside {others} videos: move the images away, or make a run of images and stills"
            if others
            else ""
        )
        raise UsageError(
            f"{len(images)} images ({images[0]} is the first){beside}; "
            f"an image has one frame, not {frames}: prepare them with --frames 1"
        )


def _already(out: Path, fingerprint: str) -> Prepared | None:
    """What is prepared there, if it was made from just this and is whole."""
    try:
        prepared = Prepared.load(out)
    except DataError:
        return None
    whole = all(
        (out / s.path).is_file() and (out / s.path).stat().st_size == s.size_bytes for s in prepared.shards
    )
    return prepared if whole and prepared.fingerprint == fingerprint else None


def _count(splits: Iterable[Split]) -> dict[Split, int]:
    counts = Counter(splits)
    return {split: counts[split] for split in SPLIT_NAMES}


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Say what to do about a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"the disk of {out} is full ({shutil.disk_usage(_existing(out)).free >> 20} MiB free); "
                "make room and run the same command again: it continues where it was"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(
                f"cannot write into {out} ({error.strerror}); give an --out you may write to"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UsageError(f"{out} is, or lies in, a file; give a folder as --out") from error
        raise


def _existing(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
