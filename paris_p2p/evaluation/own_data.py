"""Whether a prepared folder is what a model's run was made of: only then are its held-out clips held out
from the model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tarfile import TarError
from tarfile import open as open_tar

from paris_p2p.data.addition import all_clips
from paris_p2p.data.prepared import Prepared, SplitClip, split_clips
from paris_p2p.data_id import data_id_of_run
from paris_p2p.errors import DataError, UsageError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.preparation.folder_id import data_id_of_folder

_MAX_INFO_BYTES = 1 << 20  # of one clip's JSON in a shard


def check_own_data(model: FetchedRun, folder: Path, prepared: Prepared) -> None:
    """Raises UsageError unless the model's run was made of what is prepared in `folder`, and DataError for a
    mixed folder.

    Codec, train and gate shards are compared by hash, and the lists of splits with the clips that lie in the
    train shards.
    """
    known = data_id_of_run(model.signed.record)
    found = data_id_of_folder(folder, prepared)
    if found != known:
        raise UsageError(
            f"{folder} is not what run {model.id[:16]}… was made of (codec and shards hash to {found[:16]}…, "
            "the run's to "
            f"{known[:16]}…): clips that are held out there may be train clips of the model. "
            "Name the folder that "
            "`paris-run create` made the run in; if it was prepared anew, restore it with the same clips, "
            "options and --rng-seed"
        )
    _check_splits(folder, prepared)


def check_not_seen(clips: Sequence[SplitClip], clip_s: float, folder: Path, there: Prepared) -> None:
    """Raises UsageError when a clip to be evaluated shows what a run of `folder` was trained or gated on.

    That is a source of the same name, or the same file: any of it or, where both folders part it, the same
    seconds. `clip_s` is a clip's length here, `there` what is prepared in `folder`.
    """
    # Clips that joined the run later count too, whether the model has seen them or not.
    seen = [clip for clip in all_clips(folder) if clip.split in ("train", "gate")]
    there_s = there.clip.frames / there.clip.fps
    sources = {clip.video for clip in seen if not _is_part(clip)}
    files: defaultdict[str, list[SplitClip]] = defaultdict(list)
    for clip in seen:
        for file in _files_of(clip):
            files[file].append(clip)

    def is_seen(clip: SplitClip) -> bool:
        others = (other for file in _files_of(clip) for other in files.get(file, ()))
        return clip.video in sources or any(_overlap(clip, clip_s, other, there_s) for other in others)

    if both := [clip for clip in clips if is_seen(clip)]:
        raise UsageError(
            f"{len(both)} of the {len(clips)} clips to be evaluated, one of {both[0].source!r} among them, "
            "show what "
            f"are train or gate clips in {folder}: prepare the baseline's clips with the same --rng-seed, "
            "and long "
            "videos with the same --frames and --fps, so that the same is held out"
        )


def _overlap(clip: SplitClip, clip_s: float, other: SplitClip, other_s: float) -> bool:
    """Returns whether two clips of one file are of one source, or of parts of it that share some seconds."""
    if not (_is_part(clip) and _is_part(other)):
        return True
    return clip.start_s < other.start_s + other_s - 1e-6 and other.start_s < clip.start_s + clip_s - 1e-6


def _is_part(clip: SplitClip) -> bool:
    """Returns whether its source is a part of a long video, which may be parted otherwise elsewhere."""
    content = clip.key.rpartition("-")[0]
    return bool(content) and clip.group.startswith(content) and "/" in clip.group


def _files_of(clip: SplitClip) -> tuple[str, str]:
    """Returns a file by its content and by its place: older versions hashed some of the content only."""
    return clip.key.rpartition("-")[0], f"{clip.path} {clip.offset_bytes} {clip.size_bytes}"


def _check_splits(folder: Path, prepared: Prepared) -> None:
    """Raises DataError when splits.json is another preparation's than the shards beside it."""
    listed = {(clip.key, clip.source) for clip in split_clips(folder, "train")}
    lying = {pair for shard in prepared.shards_for("train") for pair in _clips_in(folder / shard.path)}
    if listed != lying:
        both = len(listed & lying)
        raise DataError(
            f"splits.json of {folder} names {len(listed)} train clips and the shards hold {len(lying)}, "
            f"{both} of them the same: "
            "the folder is mixed from two preparations; prepare the clips again"
        )


def _clips_in(shard: Path) -> list[tuple[str, str]]:
    """Returns (key, source) of every clip in a shard of the owner's own."""
    try:
        with open_tar(shard) as tar:
            infos = [
                member for member in tar if member.name.endswith(".json") and member.size <= _MAX_INFO_BYTES
            ]
            files = [(member.name.removesuffix(".json"), tar.extractfile(member)) for member in infos]
            return [(key, str(json.load(file)["source"])) for key, file in files if file is not None]
    except (OSError, TarError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the shard {shard} is damaged ({error}); prepare the clips again") from error
