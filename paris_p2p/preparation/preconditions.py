"""Checks before a prepare begins what would stop it: the clips, the folder, the disk; and says what to do."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paris_p2p.data.prepared import Prepared
from paris_p2p.data.sources import Found, Skipped, Source
from paris_p2p.errors import DataError, DiskFullError, ReadOnlyError, UsageError
from paris_p2p.preparation.assembly import write_failure
from paris_p2p.preparation.networks import FIT_CLIPS_PER_SOURCE, PrepareOptions
from paris_p2p.run_file import RUN_FILE

MAX_VIDEO_BYTES = 1 << 30  # pixels of one video's clips, in memory at once


def require_possible(options: PrepareOptions) -> None:
    """Raises UsageError when clips of a video do not fit the memory, or images are to start clips."""
    at_once = min(FIT_CLIPS_PER_SOURCE, options.clips_per_video)
    if at_once * options.frames * options.height * options.width * 3 > MAX_VIDEO_BYTES:
        raise UsageError(
            f"{at_once} such clips of a video take over {MAX_VIDEO_BYTES >> 20} MiB; ask for fewer or smaller"
        )
    if options.image_to_video and options.frames == 1:
        raise UsageError(
            "--image-to-video is for clips: an image of one frame has nothing to go on to; "
            "leave it out, or raise --frames"
        )


def require_no_run(out: Path, fingerprint: str) -> None:
    """Raises UsageError when other data would take the place of what a created run was made of."""
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


def none_usable(skipped: Sequence[Skipped], clips: Path) -> DataError:
    """Returns the error for clips of which none can be used, with how many and why."""
    reasons = Counter(skip.reason for skip in skipped).most_common()
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
    first = next((f"; the first is {skip.name}: {skip.detail or skip.reason}" for skip in skipped), "")
    return DataError(
        f"no usable video or image in {clips} ({counts or 'it holds no such files'}{first}). "
        "Give files with captions: "
        "a .txt beside each, a captions.csv or captions.jsonl with file and caption, or webdataset tars"
    )


def none_usable_at_all(clips: Path, out: Path, found: Found) -> DataError:
    """Returns the same error with a report.json, where there is anything to list."""
    error = none_usable(found.skipped, clips)
    if found.skipped or found.notes:
        out.mkdir(parents=True, exist_ok=True)
        path = write_failure(out, error, found.skipped, found.notes)
        error.args = (f"{error} (see {path.name} in {out})",)
    return error


def require_frames(sources: Sequence[Source], frames: int) -> None:
    """Raises UsageError when images are to give clips of several frames."""
    images = [source.name for source in sources if source.is_image]
    if images and frames > 1:
        others = len(sources) - len(images)
        advice = "move the images away, or make a run of images and stills"
        beside = f" beside {others} videos: {advice}" if others else ""
        raise UsageError(
            f"{len(images)} images ({images[0]} is the first){beside}; "
            f"an image has one frame, not {frames}: prepare them with --frames 1"
        )


def already_prepared(out: Path, fingerprint: str) -> Prepared | None:
    """Returns what is prepared there, if it was made from just this and is whole."""
    try:
        prepared = Prepared.load(out)
    except DataError:
        return None
    paths = [(out / shard.path, shard.size_bytes) for shard in prepared.shards]
    whole = all(path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in paths)
    return prepared if whole and prepared.fingerprint == fingerprint else None


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns errors of a disk that is full or cannot be written into what to do about it."""
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
