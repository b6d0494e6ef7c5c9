"""What a run asks of a volunteer, in words, before anything is fetched."""

from __future__ import annotations

import math
import re
import shutil
import time
from functools import lru_cache

from rich.cells import cell_len, chop_cells

from paris_p2p.envelope import Envelope
from paris_p2p.shown import FIELD_LETTERS, shown
from paris_p2p.spec import ROUTER, PeerSettings, RunSpec

STATE_BYTES_PER_PARAMETER = 20  # fp32 weights, gradients, two AdamW moments, EMA
CHECKPOINT_BYTES_PER_PARAMETER = 18  # resume state and bf16 weights
PURPOSE_LETTERS = 2000
INDENT, MIN_COLUMNS = 11, 40
HEADER_BYTES = 1 << 20  # of a safetensors file, at most


def describe_run(run: Envelope[RunSpec], settings: PeerSettings) -> str:
    """Owner, purpose, licences, and the download, disk and memory of the largest slot this peer may get."""
    spec = run.record
    slots = [settings.slot] if settings.slot else list(spec.slots)
    shards = max(sum(shard.blob.size_bytes for shard in spec.shards_for(slot, "train")) for slot in slots)
    gate = sum(shard.blob.size_bytes for shard in spec.gate_shards)
    initial = max(ref.size_bytes if (ref := spec.initial_for(slot)) is not None else 0 for slot in slots)
    parameters = max(parameter_count(spec, slot) for slot in slots)
    download = shards + gate + initial + parameters * CHECKPOINT_BYTES_PER_PARAMETER
    disk = download + 3 * parameters * CHECKPOINT_BYTES_PER_PARAMETER
    memory = parameters * STATE_BYTES_PER_PARAMETER + (700 << 20)
    made = time.strftime("%Y-%m-%d", time.localtime(spec.created_at))
    lines = [
        f"Run        {shown(spec.name, FIELD_LETTERS)}  ({run.id[:16]}…, made {made})",
        f"Owner      {run.signer}  (the signature on the run is this key's)",
        f"Purpose    {shown(spec.purpose, PURPOSE_LETTERS)}",
        f"Data       licence: {shown(spec.data_licence, FIELD_LETTERS)}",
        f"Weights    licence: {shown(spec.weights_licence, FIELD_LETTERS)}",
        f"Model      {spec.experts} experts ({shown(spec.expert.preset, FIELD_LETTERS)}) and a router "
        f"({shown(spec.router.preset, FIELD_LETTERS)}); "
        f"clips {spec.clip.frames}x{spec.clip.height}x{spec.clip.width} at {spec.clip.fps:g} fps",
        *([f"Starts     from weights that the owner gives, {_mb(initial)}"] if initial else []),
        f"Asks for   about {_mb(download)} to download, {_mb(disk)} of disk, {_mb(memory)} of memory beside activations",
        f"Who checks {'every member' if spec.gate.members_attest else f'{len(spec.gate.attestors)} named attestors'}, "
        f"{spec.gate.quorum} must sign; a claim lasts {spec.timing.claim_s:g} s, a checkpoint comes every {spec.timing.checkpoint_s:g} s",
    ]
    return "\n".join(row for line in lines for row in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    """A line of this summary in the terminal's columns. What goes on stands under its own text: a long purpose never begins
    a row of its own, where it could pose as another field."""
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
    """The most bytes that a slot's weights (bf16) and resume state (four fp32 tensors a parameter) can have."""
    parameters = parameter_count(spec, slot)
    return 2 * parameters + HEADER_BYTES, 16 * parameters + 4 * HEADER_BYTES


def parameter_count(spec: RunSpec, slot: str) -> int:
    """Parameters of a slot's network, counted without allocating them."""
    config = (spec.router if slot == ROUTER else spec.expert).config
    return _count(tuple(sorted(config.items())), slot == ROUTER)


def clip_tokens(spec: RunSpec) -> int:
    """Tokens of one clip in the expert: latents over its patch."""
    patch = [int(spec.expert.config.get(f"patch_{side}", 1)) for side in ("frames", "height", "width")]
    latent = (spec.latent.frames, spec.latent.height, spec.latent.width)
    return math.prod(-(-size // side) for size, side in zip(latent, patch, strict=True))


@lru_cache(maxsize=64)
def _count(config: tuple[tuple[str, int | float | str | bool], ...], router: bool) -> int:
    from paris_p2p.model.presets import count_parameters

    return count_parameters(dict(config), router=router)


def _mb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
