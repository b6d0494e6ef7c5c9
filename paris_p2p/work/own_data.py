"""Whether a prepared folder is what a model's run was made of: only then are its held-out clips held out from the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from tarfile import TarError
from tarfile import open as open_tar
from typing import Any

from blake3 import blake3

from paris_p2p.data.prepared import Prepared, SplitClip, split_clips
from paris_p2p.errors import DataError, UsageError
from paris_p2p.spec import RunSpec
from paris_p2p.store.blobs import hash_file

_MAX_INFO_BYTES = 1 << 20  # of one clip's JSON in a shard


def data_id_of_run(spec: RunSpec) -> str:
    """64 hex digits over the run's codec and shards: the same for every run that was made of the same prepared clips."""
    codec = {name: ref.id for name, ref in spec.codec.files.items()}
    shards = [("train", shard.cluster, shard.blob.id) for shard in spec.train_shards]
    shards += [("gate", shard.cluster, shard.blob.id) for shard in spec.gate_shards]
    return _data_id((spec.codec.name, spec.codec.revision, spec.codec.sha256), codec, shards)


def data_id_of_folder(folder: Path, prepared: Prepared) -> str:
    """The same of a prepared folder, whose files are read and hashed; DataError when one is missing."""
    try:
        codec = {name: hash_file(folder / path).blob_id for name, path in prepared.codec.files.items()}
        shards = [
            (split, shard.cluster, hash_file(folder / shard.path).blob_id)
            for split in ("train", "gate")
            for shard in prepared.shards_for(split)
        ]
    except OSError as error:
        raise DataError(f"{folder} is not whole ({error}); prepare the clips again") from error
    return _data_id((prepared.codec.name, prepared.codec.revision, prepared.codec.sha256), codec, shards)


def check_own_data(model: Path, config: Mapping[str, Any], folder: Path, prepared: Prepared) -> None:
    """UsageError unless the exported `model`, by its pipeline's config, was trained on `folder`; DataError for a mixed folder.

    Codec, train and gate shards are compared by hash, and the lists of splits with the clips that lie in the train shards.
    """
    known, run = str(config.get("data_id") or ""), str(config.get("run") or "")
    if not known:
        raise UsageError(
            f"{model} does not say which clips it was trained on, since an older version exported it; "
            "export it again, so that clips it has seen are not taken for held-out ones"
        )
    found = data_id_of_folder(folder, prepared)
    if found != known:
        raise UsageError(
            f"{folder} is not what run {run[:16]}… was made of (codec and shards hash to {found[:16]}…, the run's to "
            f"{known[:16]}…): clips that are held out there may be train clips of the model. Name the folder that "
            "`paris-run create` made the run in; if it was prepared anew, restore it with the same clips, options and --rng-seed"
        )
    _check_splits(folder, prepared)


def check_not_seen(clips: Iterable[SplitClip], folder: Path) -> None:
    """UsageError when a clip to be evaluated is of a source video that the run prepared in `folder` was trained or gated on."""
    seen = {clip.video for split in ("train", "gate") for clip in split_clips(folder, split)}
    asked = {clip.video for clip in clips}
    if both := sorted(asked & seen):
        raise UsageError(
            f"{len(both)} of the {len(asked)} source videos to be evaluated, {both[0]!r} among them, are train or gate clips in "
            f"{folder}: prepare the baseline's clips with the same --rng-seed and shares, so that the same videos are held out"
        )


def _data_id(codec: tuple[str, ...], files: Mapping[str, str], shards: Iterable[tuple[str, int, str]]) -> str:
    listed = {"codec": codec, "files": sorted(files.items()), "shards": sorted(shards)}
    return blake3(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


def _check_splits(folder: Path, prepared: Prepared) -> None:
    """DataError when splits.json is another preparation's than the shards beside it."""
    listed = {(clip.key, clip.source) for clip in split_clips(folder, "train")}
    lying = {pair for shard in prepared.shards_for("train") for pair in _clips_in(folder / shard.path)}
    if listed != lying:
        both = len(listed & lying)
        raise DataError(
            f"splits.json of {folder} names {len(listed)} train clips and the shards hold {len(lying)}, {both} of them the same: "
            "the folder is mixed from two preparations; prepare the clips again"
        )


def _clips_in(shard: Path) -> list[tuple[str, str]]:
    """(key, source) of every clip in a shard of the owner's own."""
    try:
        with open_tar(shard) as tar:
            infos = [member for member in tar if member.name.endswith(".json") and member.size <= _MAX_INFO_BYTES]
            files = [(member.name.removesuffix(".json"), tar.extractfile(member)) for member in infos]
            return [(key, str(json.load(file)["source"])) for key, file in files if file is not None]
    except (OSError, TarError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the shard {shard} is damaged ({error}); prepare the clips again") from error
