"""Defines prepared.json: what `paris-run prepare` leaves behind and `paris-run create` needs to know."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

from pydantic import Field, StringConstraints, ValidationError

from paris_p2p.data.decode import Frames
from paris_p2p.data.source_clips import read_clip_at
from paris_p2p.data.sources import Source
from paris_p2p.data.splits import Split as Split
from paris_p2p.data.track import Track
from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError
from paris_p2p.records import Count, Record
from paris_p2p.spec import ClipShape, LatentShape, Name, TextShape

# A path inside the prepared folder, with forward slashes.
Path_ = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
FILE_NAME = "prepared.json"
SPLITS_FILE_NAME = "splits.json"


class PreparedModel(Record):
    """Pins a codec or text encoder in a RunSpec, by files that travel with the run or by a hub revision."""

    name: Name
    files: dict[Name, Path_] = {}  # path inside the model's folder -> path inside the prepared folder
    revision: Annotated[str, StringConstraints(max_length=200)] = ""
    sha256: Annotated[str, StringConstraints(max_length=64)] = ""


class PreparedCluster(Record):
    """Describes one cluster: what one expert learns."""

    cluster: Count
    clips: dict[Split, Count]
    silhouette: Annotated[float, Field(ge=-1, le=1)]


class PreparedShard(Record):
    """Describes one webdataset tar of one split and cluster."""

    split: Split
    cluster: Count
    path: Path_
    clips: Count
    size_bytes: Count


class Prepared(Record):
    """Describes the data of a run.

    Paths are inside the folder that holds prepared.json. Test stays with the owner; of validation one shard a
    cluster goes with the run, for the router's calibration.
    """

    version: Literal[1] = 1
    fingerprint: str  # of everything it was made from: the same means that nothing need be done again
    rng_seed: Count
    clip: ClipShape
    latent: LatentShape
    text_shape: TextShape
    longest_caption_tokens: Count = 0  # of which text_shape.tokens are read; 0: not counted
    codec: PreparedModel
    text: PreparedModel
    features: PreparedModel
    # That the features look at in each clip; 0: as many as by default.
    feature_frames: Annotated[int, Field(ge=0, le=1024)] = 0
    first_features: PreparedModel | None = None  # of the first frames, when the shards hold them
    first_width: Annotated[int, Field(ge=0, le=65536)] = 0
    codec_psnr_db: float  # of some train clips, coded and decoded
    # Beside a codec trained here: PCA at equal compression, on clips that neither was fitted on.
    pca_psnr_db: float = 0.0
    experts: Annotated[int, Field(ge=1, le=256)]
    clusters: tuple[PreparedCluster, ...]
    shards: tuple[PreparedShard, ...]
    captions: dict[Split, Path_]  # JSON lines: key, caption, cluster, source, start_s, seen_in_train
    clips: dict[Split, Count]
    sources: dict[Split, Count]
    skipped: dict[str, Count]  # reason -> files; which ones stands in report.json
    tokens: Count = 0  # of a clip in an expert; 0 in folders of older versions
    files: Count = 0  # that the sources are, or are parts of; 0 in folders of older versions
    notes: dict[str, Count] = {}  # what was cut, guessed or converted of what is used -> how often

    def shards_for(self, split: Split, cluster: int | None = None) -> tuple[PreparedShard, ...]:
        """Returns the shards of a split, of one cluster or of all."""
        return tuple(s for s in self.shards if s.split == split and cluster in (None, s.cluster))

    def describe(self) -> str:
        """Returns a few lines for a person."""
        counts = ", ".join(f"{self.clips[split]} {split}" for split in self.clips)
        what, files = ("images", "files") if self.clip.frames == 1 else ("clips", "videos")
        if self.files and self.files != sum(self.sources.values()):
            files = f"scenes and parts of {self.files} {files if self.files > 1 else files[:-1]}"
        lines = [
            f"{sum(self.clips.values())} {what} from {sum(self.sources.values())} {files}: {counts}; "
            f"codec {self.codec_psnr_db:.1f} dB"
        ]
        if self.pca_psnr_db:
            worse = "; the trained codec is WORSE: give more --codec-steps, or use --codec pca" * (
                self.codec_psnr_db < self.pca_psnr_db
            )
            both = f"trained {self.codec_psnr_db:.1f} dB, PCA {self.pca_psnr_db:.1f} dB"
            lines.append(f"codec at equal compression, on clips that neither was fitted on: {both}{worse}")
        lines += [
            f"cluster {row.cluster}: "
            f"{row.clips['train']} train and {row.clips['gate']} gate {what}, silhouette {row.silhouette:.2f}"
            for row in self.clusters
        ]
        lines += self._text_line()
        if self.first_features is not None:
            lines.append(
                "first frames: "
                f"{self.first_width} features of {self.first_features.name} each, for the router"
            )
        if self.tokens:
            lines.append(
                f"{'an image' if self.clip.frames == 1 else 'a clip'} is {self.tokens:,} tokens to an expert"
            )
        if self.skipped:
            skipped = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            total = sum(self.skipped.values())
            lines.append(
                f"skipped {total} {'file' if total == 1 else 'files'} ({skipped}); report.json lists them"
            )
        lines += [f"note: {what}" + f" ({count} times)" * (count > 1) for what, count in self.notes.items()]
        return "\n".join(lines)

    def _text_line(self) -> list[str]:
        """Says how much of captions is read, and that more of them costs."""
        tokens, longest = self.text_shape.tokens, self.longest_caption_tokens
        if not longest:
            return []
        kilobytes = tokens * self.text_shape.dim * 2 / 1000
        cost = f"each clip carries {kilobytes:.0f} kB of them; fewer: --text-tokens"
        return [f"text: {tokens} tokens of a caption are read, the longest has {longest}; {cost}"]

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """Reads folder/prepared.json; DataError when it is missing or damaged."""
        path = folder / FILE_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            if (folder / "model_index.json").is_file():
                said = (
                    f"{folder} is an exported model, where a folder that `paris-run prepare` wrote is wanted"
                )
                raise DataError(f"{said}; are two arguments swapped?") from error
            why = f"{error.strerror}: {path}"
            raise DataError(
                f"{folder} holds no prepared clips ({why}); "
                f"run `paris-run prepare CLIPS --out {folder}` first"
            ) from error
        except ValidationError as error:
            raise DataError(
                f"{path} is damaged or of another version; "
                f"prepare the clips again ({error.error_count()} fields)"
            ) from error

    def write(self, folder: Path) -> None:
        """Writes `prepared.json`."""
        # Left out where it says nothing, so that the same clips give the same file in all versions.
        unsaid = set() if self.feature_frames else {"feature_frames"}
        write_atomic(folder / FILE_NAME, self.model_dump_json(indent=1, exclude=unsaid) + "\n")


class SplitClip(Record):
    """Says where one clip comes from: enough to decode its pixels again."""

    key: Name
    split: Split
    cluster: Count
    caption: str
    source: str  # the file
    # What belongs together: what the owner says the file was cut from, or its content; folders of older
    # versions lack it.
    group: str = ""
    start_s: float
    path: str  # of the file, absolute: this list stays on the owner's machine
    offset_bytes: Count = 0
    size_bytes: Count = 0
    member: bool = False  # inside a tar
    # Of a video: which stream, how its frames follow, and whether seeking finds them.
    stream: Count | None = None
    frame_s: Annotated[float, Field(ge=0)] = 0.0
    in_order: bool = True
    counted: bool = False

    @property
    def video(self) -> str:
        """Names the source video.

        Clips of one video are near-copies, in whatever files they lie, and count as one where chance is
        estimated.
        """
        return self.group or self.source

    def pixels(self, shape: ClipShape) -> Frames:
        """Decodes the clip from the owner's file: uint8 [T, H, W, 3]."""
        known = self.stream is not None
        track = Track(self.stream or 0, self.frame_s, 0.0, 0, self.in_order, self.counted) if known else None
        place = _path(self.path), self.offset_bytes, self.size_bytes, 0
        source = Source(self.source, *place, self.caption, "", self.member, track=track)
        try:
            return read_clip_at(source, shape, self.start_s)
        except OSError as error:
            raise DataError(
                f"the clip {self.source} is no longer at {self.path} ({error}); put it back or prepare again"
            ) from error


def path_text(path: Path) -> str:
    """Returns an absolute path as text that any name fits into.

    The text is plain, or a file: address where the path is not UTF-8.
    """
    absolute = path.absolute()
    return absolute.as_uri() if any("\ud800" <= c <= "\udfff" for c in str(absolute)) else str(absolute)


def _path(text: str) -> Path:
    if not text.startswith("file:/"):
        return Path(text)
    return Path(os.fsdecode(unquote_to_bytes(text.removeprefix("file://"))))


def split_clips(folder: Path, split: Split) -> Iterator[SplitClip]:
    """Yields the clips of a split with their sources, in shard order (splits.json)."""
    path = folder / SPLITS_FILE_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["clips"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the clips again") from error
    for entry in entries:
        if entry.get("split") == split:
            yield SplitClip.model_validate(entry)
