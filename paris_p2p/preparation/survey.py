"""Looks at files before anything is encoded: how long videos are, and which are parted into scenes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paris_p2p.data.cache import Cache, cache_key
from paris_p2p.data.captions import Note
from paris_p2p.data.decode import Video
from paris_p2p.data.film_parts import Span, clips_in, long_from, part_clips, plan_parts
from paris_p2p.data.scenes import find_cuts
from paris_p2p.data.source_clips import starts_of
from paris_p2p.data.sources import Skipped, Source
from paris_p2p.data.splits import SplitOptions, can_split, experts_for
from paris_p2p.data.track import Track
from paris_p2p.data.unusable import UnusableVideo
from paris_p2p.preparation.threads import side_by_side
from paris_p2p.progress import Progress
from paris_p2p.spec import ClipShape

VERSION = 2  # of what the cache keeps of each file


@dataclass(frozen=True)
class Survey:
    """Looks at every video once and keeps in the cache what it found; `skipped` and `notes` grow."""

    shape: ClipShape
    max_clips: int  # of a video that stays whole
    threads: int
    cache: Cache
    progress: Progress
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    experts: int = 0  # wished for; 0: as many as the clips carry
    splits: SplitOptions = field(default_factory=SplitOptions)

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        """Returns images and videos as they are, long videos as their parts, each with its track.

        Files that cannot be used are left out.
        """
        looked = self._looked_at(sources)
        own = [self._clips(source) for source in looked if not source.group]
        named: Counter[str] = Counter()
        for source in looked:
            if source.group:
                named[source.group] += self._clips(source)
        total = sum(own) + named.total()
        experts = self.experts or experts_for(total)
        limit = long_from(own, list(named.values()), self.max_clips, experts, self.splits)
        whole = can_split([*own, *named.values()], experts, self.splits)
        long = [source for source in looked if self._clips(source) > limit]
        cuts = dict(self._cuts(long))
        result: list[Source] = []
        for source in looked:
            if source.name not in cuts:
                result.append(source)
                self._note_thinned(source)
            else:
                result += self._parted(source, cuts[source.name], part_clips(total), whole)
        return result

    def _clips(self, source: Source) -> int:
        """Returns how many clips a source holds."""
        if source.track is None:
            return 1
        if not source.timed:
            return clips_in(source.track.duration_s, self.shape)
        ends_s = [(cue.start_s, min(cue.end_s, source.track.duration_s)) for cue in source.timed]
        return sum(clips_in(end_s - start_s, self.shape) for start_s, end_s in ends_s)

    def _note_thinned(self, source: Source) -> None:
        there = self._clips(source)
        if there > self.max_clips:
            detail = f"{self.max_clips} of {there}; raise --clips-per-video for more"
            self.notes.append(Note(source.name, "not all clips of the video used", detail))

    def _looked_at(self, sources: Sequence[Source]) -> list[Source]:
        found: list[Source] = []
        done = 0
        for source, track in side_by_side(self._track, sources, self.threads):
            done += 1
            self.progress("look at files", done, len(sources))
            if isinstance(track, UnusableVideo):
                self.skipped.append(Skipped(source.name, track.reason, track.detail))
                continue
            remarks = track.notes if track else {}
            self.notes.extend(Note(source.name, what, detail) for what, detail in remarks.items())
            found.append(replace(source, track=track))
        return found

    def _track(self, source: Source) -> Track | UnusableVideo | None:
        if source.is_image:
            return None
        key = cache_key("track", VERSION, source.name, source.size_bytes, source.mtime_ns)
        known = self.cache.note(key)
        if known is not None:
            return Track(**known)
        try:
            with source.open() as file:
                track = Video(file).track
        except UnusableVideo as unusable:
            return unusable
        except OSError as error:
            return UnusableVideo("unreadable", str(error))
        self.cache.put_note(key, asdict(track))
        return track

    def _cuts(self, sources: Sequence[Source]) -> Iterator[tuple[str, list[float]]]:
        """Yields where long videos are cut; the bar counts seconds of video."""
        total_s = sum(int(source.track.duration_s) for source in sources if source.track)
        reached: defaultdict[str, int] = defaultdict(int)

        def work(source: Source) -> list[float]:
            def progress(time_s: float) -> None:
                reached[source.name] = int(time_s)
                self.progress("find scenes (seconds)", sum(reached.values()), total_s)

            cuts_s = self._cuts_of(source, progress)
            progress(source.track.duration_s if source.track else 0.0)
            return cuts_s

        for source, cuts_s in side_by_side(work, sources, self.threads):
            yield source.name, cuts_s

    def _cuts_of(self, source: Source, progress: Any) -> list[float]:
        key = cache_key("cuts", VERSION, source.name, source.size_bytes, source.mtime_ns)
        known = self.cache.note(key)
        if isinstance(known, list):
            return [float(cut_s) for cut_s in known]
        try:
            with source.open() as file:
                cuts_s = find_cuts(Video(file, source.track), progress, self.threads)
        except (UnusableVideo, OSError):
            return []  # encoding it will say why
        self.cache.put_note(key, cuts_s)
        return cuts_s

    def _parted(self, source: Source, cuts_s: list[float], at_most: int, scenes_whole: bool) -> list[Source]:
        """Returns a video's parts; the video itself where no scene holds a clip."""
        duration_s = source.track.duration_s if source.track else 0.0
        spans = [
            replace(span, scene_whole=scenes_whole)
            for span in plan_parts(duration_s, cuts_s, self.shape, at_most)
            if self._captioned(source, span)
        ]
        if not spans:
            wanted_s = self.shape.frames / self.shape.fps
            within = ", inside one caption" if source.timed else ""
            why = f"none of its {len(cuts_s) + 1} scenes holds a clip of {wanted_s:.2f} s{within}"
            why += ": lower --frames, or raise --fps, for clips without cuts"
            self.notes.append(Note(source.name, "video kept whole, its clips cross cuts", why))
            self._note_thinned(source)
            return [source]
        parts = [replace(source, span=span) for span in spans]
        clip_s = self.shape.frames / self.shape.fps
        lost_s = duration_s - sum(self._clips_of_part(part) for part in parts) * clip_s
        apart = "scenes" if scenes_whole else "parts, there being too few videos to split them whole"
        detail = f"{len(cuts_s) + 1} scenes, {len(spans)} parts of at most {at_most} clips"
        detail += f"; splits keep apart {apart}"
        self.notes.append(Note(source.name, "long video parted into scenes", detail))
        if lost_s >= clip_s:
            why = "ends of scenes, scenes shorter than a clip, time without a caption"
            lost = f"{lost_s:.1f} of {duration_s:.1f} s: {why}"
            self.notes.append(Note(source.name, "time of the video not used", lost))
        return parts

    def _clips_of_part(self, part: Source) -> int:
        return len(starts_of(part, self.shape, self.max_clips, 0.0))

    def _captioned(self, source: Source, span: Span) -> bool:
        """Says whether a clip of the part lies inside a caption by time; true where there are none."""
        inside = ((max(span.start_s, cue.start_s), min(span.end_s, cue.end_s)) for cue in source.timed)
        return not source.timed or any(clips_in(end_s - start_s, self.shape) > 0 for start_s, end_s in inside)


def distinct(hashes: Mapping[str, str | UnusableVideo]) -> tuple[dict[str, str], list[Skipped]]:
    """Returns source name -> hash of those that are not a copy of an earlier one, and the others, skipped."""
    kept: dict[str, str] = {}
    first: dict[str, str] = {}
    skipped: list[Skipped] = []
    for name, found in hashes.items():
        if isinstance(found, UnusableVideo):
            skipped.append(Skipped(name, found.reason, found.detail))
        elif found in first:
            why = f"byte for byte the same as {first[found]}, whose caption is used"
            skipped.append(Skipped(name, "duplicate", why))
        else:
            first[found] = name
            kept[name] = found
    return kept, skipped


def hash_sources(
    sources: Sequence[Source], cache: Cache, threads: int, progress: Progress
) -> dict[str, str | UnusableVideo]:
    """Returns source name -> hash of its content.

    What is known of a file that did not change is not read again.
    """

    def work(source: Source) -> str | UnusableVideo:
        key = cache_key("hash", source.name, str(source.path.absolute()), source.size_bytes, source.mtime_ns)
        known = cache.note(key)
        if isinstance(known, str):
            return known
        try:
            found = source.content_hash()
        except OSError as error:
            return UnusableVideo("unreadable", str(error))
        cache.put_note(key, found)
        return found

    hashes: dict[str, str | UnusableVideo] = {}
    for source, found in side_by_side(work, sources, threads):
        hashes[source.name] = found
        progress("read files", len(hashes), len(sources))
    return hashes
