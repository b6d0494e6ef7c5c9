"""An exported folder read back as the run that it was written from.

A folder may come from anybody, so nothing in it is believed before it is checked: the RunSpec by its owner's
signature, the codec and the encoders by the hashes in it, weights by what they say of themselves and, when
they are loaded, tensor by tensor.
"""

from __future__ import annotations

import re
from pathlib import Path

from paris_p2p.bounded_json import read_json
from paris_p2p.errors import BlobError, CheckpointError, StoreError, UsageError
from paris_p2p.family import ancestors, as_signed, is_grown
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.frozen import CODEC, FEATURES, TEXT
from paris_p2p.generation.pipeline_folder import CARDS
from paris_p2p.model.checkpoint import counters_of
from paris_p2p.model.experts import folder_of
from paris_p2p.model_folder import check_safetensors
from paris_p2p.run_file import RUN_FILE, read_effective, read_run
from paris_p2p.spec import ROUTER, Pinned, RunSpec, cluster_of
from paris_p2p.store.blob_files import hash_file
from paris_p2p.weights import READABLE_SUFFIXES

EFFECTIVE_FILE = "effective.json"  # the RunSpec with what notices changed in it, where they did
MAX_EFFECTIVE_BYTES = 16 << 20  # of 20,480 shards
MAX_CARDS_BYTES = 1 << 16  # 257 slots of some 90 bytes take half of it
EXPORT_AGAIN = "export the run again with `paris-run export INVITE --out FOLDER`"


def weights_path(folder: Path, slot: str) -> Path:
    """Returns where an exported folder has a slot's weights, byte for byte as they were attested."""
    inside = ROUTER if slot == ROUTER else f"experts/{folder_of(cluster_of(slot))}"
    return folder / inside / "diffusion_pytorch_model.safetensors"


def open_export(folder: Path) -> FetchedRun:
    """Returns the run in a folder that `paris-run export` wrote.

    UsageError when it is no such folder or an older version wrote it; RecordError, BlobError or
    CheckpointError when something in it is not what the run says.
    """
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"{folder} holds no exported run; write one with `paris-run export INVITE --out {folder}`"
        )
    if not (folder / RUN_FILE).is_file():
        raise UsageError(
            f"{folder} has no signed {RUN_FILE}: an older version exported it, or diffusers saved it anew; "
            f"{EXPORT_AGAIN}"
        )
    run = read_run(folder / RUN_FILE, mend=EXPORT_AGAIN)
    effective = _effective(folder / EFFECTIVE_FILE, run.record)
    spec = effective or run.record
    weights = {slot: path for slot in spec.slots if (path := weights_path(folder, slot)).is_file()}
    for slot, path in weights.items():
        _check_slot(path, run.id, slot, spec)
    return FetchedRun(
        signed=run,
        weights=weights,
        cards=_cards(folder / CARDS, weights),
        codec_folder=_checked(folder / CODEC, run.record.codec),
        text_folder=_checked(folder / TEXT, run.record.text),
        features_folder=_checked(folder / FEATURES, run.record.first_features),
        effective=effective,
    )


def _effective(path: Path, signed: RunSpec) -> RunSpec | None:
    """Returns the RunSpec with what notices changed in it, where they did; UsageError for one that no notice
    makes of the signed one.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_EFFECTIVE_BYTES:
        raise UsageError(f"{path} has more than {MAX_EFFECTIVE_BYTES:,} bytes; {EXPORT_AGAIN}")
    try:
        spec = read_effective(path, signed)
    except StoreError as error:
        raise UsageError(f"{str(error).partition('; ')[0]}; {EXPORT_AGAIN}") from error
    if as_signed(spec, signed) != signed or not is_grown(spec, signed):
        raise UsageError(f"{path} says what no notice can change of the signed {RUN_FILE}; {EXPORT_AGAIN}")
    return spec


def _check_slot(path: Path, run: str, slot: str, spec: RunSpec) -> None:
    """Raises CheckpointError or UsageError unless weights are, by their header, of this run and slot, or of
    an expert that the slot was split from.
    """
    check_safetensors(path)
    try:
        counters = counters_of(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} does not say whose weights it holds, as diffusers leaves it when it saves a model anew; "
            f"{EXPORT_AGAIN}"
        ) from error
    if counters.run != run or counters.slot not in (slot, *ancestors(spec, slot)):
        raise CheckpointError(
            f"{path} holds {counters.slot[:80]} of run {counters.run[:16]}…, where {slot} of run "
            f"{run[:16]}… should lie; {EXPORT_AGAIN}"
        )


def _cards(path: Path, slots: dict[str, Path]) -> dict[str, str]:
    """Returns the card of each slot, where the folder names one; UsageError for anything else in the file."""
    named = read_json(path, MAX_CARDS_BYTES, max_depth=1) if path.is_file() else {}
    if not isinstance(named, dict) or not all(
        isinstance(card, str) and re.fullmatch("[0-9a-f]{64}", card) for card in named.values()
    ):
        raise UsageError(f"{path} does not name cards by slot; {EXPORT_AGAIN}")
    return {slot: named[slot] for slot in slots if slot in named}


def _checked(folder: Path, pinned: Pinned | None) -> Path | None:
    """Returns the folder of a codec or encoder once its files are those that the run pins; None where a
    package or a hub has it. BlobError.
    """
    if pinned is None or not pinned.files:
        # what is pinned by one hash over all of its files is checked where it is loaded
        return folder if pinned is not None and pinned.sha256 and folder.is_dir() else None
    for name, ref in pinned.files.items():
        path = folder / name
        if not (path.is_file() and path.stat().st_size == ref.size_bytes):
            raise BlobError(
                f"{path} is not the file of {ref.size_bytes} bytes that the run has; {EXPORT_AGAIN}"
            )
        if hash_file(path).blob_id != ref.id:
            raise BlobError(f"{path} does not hash to {ref.id[:16]}…, as the run's does; {EXPORT_AGAIN}")
    for path in folder.iterdir():
        # a loader decides by what lies there what it does
        if path.name not in pinned.files and path.suffix in READABLE_SUFFIXES:
            raise BlobError(f"{path} is no file of the run; delete it if it is yours, or {EXPORT_AGAIN}")
    return folder
