"""Says what a run asks of a volunteer, before anything is fetched."""

from __future__ import annotations

import re
import shutil
import time

from rich.cells import cell_len, chop_cells

from paris_p2p.byte_size import in_units
from paris_p2p.crew_records import MAX_ROUND_BYTES
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, UsageError
from paris_p2p.peer.jobs import clip_blobs
from paris_p2p.peer.room import NODE_BYTES, Room
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.shown import FIELD_LETTERS, shown
from paris_p2p.spec import RunSpec
from paris_p2p.store.sealing import sealed_bytes
from paris_p2p.training.needs import (
    checkpoint_bytes,
    keeps_two,
    resume_bytes,
    trainer_bytes,
    weights_bytes,
)

PURPOSE_LETTERS = 2000
INDENT, MIN_COLUMNS = 11, 40
HEADER_BYTES = 1 << 20  # of a safetensors file, at most


def describe_run(run: Envelope[RunSpec], settings: PeerSettings) -> str:
    """Returns owner, purpose and licences in words, and the download, disk and memory of the largest slot
    this peer may get.
    """
    spec = run.record
    slots = [settings.slot] if settings.slot else list(spec.slots)
    initial = max(_initial_bytes(spec, slot) for slot in slots)
    download = max(download_bytes(spec, slot) for slot in slots)
    disk = max(disk_bytes(spec, slot) for slot in slots)
    memory = max(trainer_bytes(spec, slot, gpu=False, bf16=True)[0] for slot in slots) + NODE_BYTES
    made = time.strftime("%Y-%m-%d", time.localtime(spec.created_at))
    lines = [
        f"Run        {shown(spec.name, FIELD_LETTERS)}  ({run.id[:16]}…, made {made})",
        f"Owner      {run.signer}  (the signature on the run is this key's)",
        f"Purpose    {shown(spec.purpose, PURPOSE_LETTERS)}",
        f"Data       licence: {shown(spec.data_licence, FIELD_LETTERS)}",
        f"Weights    licence: {shown(spec.weights_licence, FIELD_LETTERS)}",
        f"Model      {spec.experts} expert{'s' if spec.experts > 1 else ''} "
        f"({shown(spec.expert.preset, FIELD_LETTERS)}) and a router "
        f"({shown(spec.router.preset, FIELD_LETTERS)}); "
        f"clips {spec.clip.frames}x{spec.clip.height}x{spec.clip.width} at {spec.clip.fps:g} fps",
        *([f"Starts     from weights that the owner gives, {in_units(initial)}"] if initial else []),
        f"Asks for   about {in_units(download)} to download, {in_units(disk)} of disk, "
        f"{in_units(memory)} of memory, more for speed",
        f"Allowed    {Room(settings, spec)}",
        *([f"Together   up to {spec.crew.peers} machines train a slot in rounds"] if spec.crew else []),
        "Who checks "
        f"{'every member' if spec.gate.members_attest else f'{len(spec.gate.attestors)} named attestors'}, "
        f"{spec.gate.quorum} must sign; a claim lasts {spec.timing.claim_s:g} s, "
        f"a checkpoint comes every {spec.timing.checkpoint_s:g} s",
    ]
    return "\n".join(row for line in lines for row in _wrapped(line))


def download_bytes(spec: RunSpec, slot: str) -> int:
    """Returns the bytes that training a slot begins with: its clips, those of all gates, first weights, and
    the newest checkpoint.
    """
    gate = sum(shard.blob.size_bytes for shard in spec.gate_shards)
    shards = sum(ref.size_bytes for ref in clip_blobs(spec, slot))
    return shards + gate + _initial_bytes(spec, slot) + checkpoint_bytes(spec, slot)


def disk_bytes(spec: RunSpec, slot: str) -> int:
    """Returns the bytes of disk: the download, and three checkpoints, one made here, one on its way and one
    that is checked; of what is sealed also the copy that is open while it is read.
    """
    checkpoint = checkpoint_bytes(spec, slot)
    opened = sum(shard.blob.size_bytes for shard in spec.gate_shards) if spec.gate.key_hash else 0
    if spec.private:  # clips, and a checkpoint that is checked beside the best one's weights
        opened += sum(ref.size_bytes for ref in clip_blobs(spec, slot)) + 2 * checkpoint
    return download_bytes(spec, slot) + 3 * checkpoint + opened


def check_disk(spec: RunSpec, settings: PeerSettings, *, train: bool, free_bytes: int) -> None:
    """Raises UsageError when --max-disk is too small for any slot, DiskFullError when the disk is;
    `free_bytes` counts what is here already.
    """
    slots = [settings.slot] if settings.slot else list(spec.slots)
    least = min(disk_bytes(spec, slot) for slot in slots)
    if not train:
        least -= min(sum(ref.size_bytes for ref in clip_blobs(spec, slot)) for slot in slots)
    if settings.max_disk_bytes and settings.max_disk_bytes < least:
        raise UsageError(
            f"--max-disk {in_units(settings.max_disk_bytes)} is less than the {in_units(least)} "
            "that this run needs here at least; "
            f"allow --max-disk {-(-least // 10**6)}MB or more, or do not join"
        )
    if free_bytes < least:
        raise DiskFullError(
            f"this run needs {in_units(least)} of disk here at least, {in_units(free_bytes)} are free; "
            "free some, or name another --data-dir"
        )


def _initial_bytes(spec: RunSpec, slot: str) -> int:
    ref = spec.initial_for(slot)
    return ref.size_bytes if ref is not None else 0


def _wrapped(line: str) -> list[str]:
    """Returns a line of this summary as rows of the terminal's width. What goes on stands under its own text:
    a long purpose never begins a row of its own, where it could pose as another field.
    """
    columns = max(MIN_COLUMNS, shutil.get_terminal_size((100, 24)).columns - 1)
    rows, row = [], ""
    for word in re.findall(r" +|[^ ]+", line):
        for piece in chop_cells(word, columns - INDENT):
            if cell_len(row) + cell_len(piece) > columns and row.strip():
                rows.append(row.rstrip())
                row = " " * INDENT
                piece = piece.lstrip()
            row += piece
    return [*rows, row.rstrip()]


def checkpoint_limits(spec: RunSpec, slot: str) -> tuple[int, int]:
    """Returns the most bytes that a slot's weights (bf16) and resume state can have."""
    weights = weights_bytes(spec, slot) + HEADER_BYTES * (1 + keeps_two(spec))
    resume = resume_bytes(spec, slot) + 4 * HEADER_BYTES  # headers name each parameter four or six times
    return (sealed_bytes(weights), sealed_bytes(resume)) if spec.private else (weights, resume)


def largest_round_bytes(spec: RunSpec) -> int:
    """Returns the most bytes that the blob of a crew's round can have."""
    return sealed_bytes(MAX_ROUND_BYTES) if spec.private else MAX_ROUND_BYTES
