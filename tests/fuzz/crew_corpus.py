"""The decoders of what crews send each other: updates, rounds, compact and merged checkpoints."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import torch

from paris_p2p.crew_records import CrewRound, MergedUpdate, RefusedUpdate, UpdateRecord, WorkerRecord
from paris_p2p.envelope import seal
from paris_p2p.identity import Identity
from paris_p2p.model.checkpoint import Counters, TrainState, empty_state
from paris_p2p.model.compact_state import check_compact, load_compact, load_compact_weights, write_compact
from paris_p2p.model.merged_file import read_merged, write_merged
from paris_p2p.records import BlobRef, CardRecord, Signed
from paris_p2p.round_file import decode_round, encode_round
from paris_p2p.rules.rounds import next_counts
from paris_p2p.training.counted_note import counted_note, read_counted
from paris_p2p.updates.full_round import round_state
from paris_p2p.updates.layout import Layout
from paris_p2p.updates.outer_step import OuterState, add_scaled
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader, assembled
from tests.fuzz import mutants
from tests.fuzz.decoder import Decoder
from tests.updates.made_updates import blocks_of, content_of, made_vector, update_bytes

RUN, SLOT, NOW = "ab" * 32, "expert-0", 1.75e9
WHO = Identity.from_private_bytes(bytes([7]) * 32)
SHAPES: dict[str, tuple[int, ...]] = {"a": (30, 20), "b": (), "c": (700,)}
COUNTERS = Counters(RUN, SLOT, 3, 12)
PARAMETERS = 2 * 4096 + 1001  # of the updates
HEADERS = (
    UpdateHeader(PARAMETERS),
    UpdateHeader(PARAMETERS, parts=2, part=1),
    UpdateHeader(PARAMETERS, parts=3, part=2),
)


def crew_decoders(folder: Path) -> list[Decoder]:
    """All of them; files are written into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_updates(), _rounds(), _compact(folder), _merged(folder), _counted(folder)]


def crew_kinds() -> list[Signed]:
    """A crew's records, and a light card."""
    blob = BlobRef(id=RUN, size_bytes=3)
    slot = {"run": RUN, "seq": 1, "issued_at": NOW, "expires_at": NOW + 500, "slot": SLOT}
    counts = {"steps": 1, "clips": 8, "train_loss": 1.0}
    light = {"rounds": (blob,), "merged": RUN, "full": RUN, "round_s": 60.0}
    return [
        UpdateRecord(**slot, **counts, base=RUN, blob=blob, first_clip=8),
        WorkerRecord(**slot, joined_at=NOW, step_s=1.0, upload_bytes_per_s=1e6),
        CardRecord(**slot, **counts, **light, epoch=1, weights=blob, resume=blob),
    ]


def _damaged(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Damage of every kind, or of a kind that leaves a file's length as its header says."""
    if rng.random() < 0.4:
        return mutants.of_bytes(rng, seeds)
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data))
        data[at] = rng.choice((data[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255))
    return bytes(data)


def _remade(rng: random.Random, updates: Sequence[Update]) -> bytes:
    """Returns an update's file of which one block's content was damaged before it was deflated."""
    update = rng.choice(updates)
    blocks = []
    for block in blocks_of(update):
        if block is None:
            blocks.append(b"")
            continue
        said = [block.steps.tobytes(), block.codes.tobytes(), block.others.tobytes()]
        if rng.random() < 0.7:
            said[rng.choice((0, 2))] = mutants.of_bytes(rng, [rng.choice(said)])
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        blocks.append(packer.compress(_damaged(rng, [b"".join(said)])) + packer.flush())
    return assembled(update.header, blocks)


def _updates() -> Decoder:
    zeros = made_vector(4, PARAMETERS, 1e-3)
    zeros[4096:8192] = 0
    seeds = [update_bytes(header, made_vector(3, PARAMETERS, 1e-3), 1.0) for header in HEADERS]
    seeds += [update_bytes(HEADERS[0], zeros), update_bytes(HEADERS[0], zeros, 5.0)]
    opened = [Update.from_bytes(seed, PARAMETERS) for seed in seeds]

    def make(rng: random.Random) -> bytes:
        return _remade(rng, opened) if rng.random() < 0.5 else _damaged(rng, seeds)

    def read(data: bytes) -> None:
        """Whatever is taken has one content, and can be added up."""
        update = Update.from_bytes(data, PARAMETERS)
        again = [b"" if block is None else block.deflated() for block in blocks_of(update)]
        other = Update.from_bytes(assembled(update.header, again), PARAMETERS)
        assert content_of(other) == content_of(update), "an update has two contents"
        assert other.square_norm == update.square_norm
        vector = np.zeros(PARAMETERS, np.float32)
        add_scaled(vector, update, 0.2)
        assert np.isfinite(vector).all()
        assert np.isfinite(update.norm)

    return Decoder("update file", make, read)


def _rounds() -> Decoder:
    update = crew_kinds()[0]
    made = CrewRound(
        run=RUN,
        slot=SLOT,
        lineage=(RUN, "cd" * 32),
        steps_before=1,
        clips_before=8,
        steps=2,
        clips=16,
        merged=RUN,
        updates=(MergedUpdate(envelope=seal(WHO, update).data, late=1, scale=77),),
        refused=(RefusedUpdate(update=RUN, peer=WHO.peer_id, reason="norm"),),
        counted=next_counts({}, {WHO.peer_id: 16}),
    )
    seeds = [encode_round(one) for one in (made, made.model_copy(update={"full": True, "refused": ()}))]
    values = [msgpack.unpackb(seed) for seed in seeds]

    def draw(rng: random.Random) -> bytes:
        return mutants.of_msgpack(rng, values) if rng.random() < 0.7 else mutants.of_bytes(rng, seeds)

    return Decoder("round", draw, lambda data: decode_round(data, RUN, SLOT))


def _compact(folder: Path) -> Decoder:
    generator = torch.Generator().manual_seed(0)

    def normal(scale: float) -> dict[str, torch.Tensor]:
        return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    second = {name: value.square() + 1e-6 for name, value in normal(1e-3).items()}
    state = TrainState(COUNTERS, normal(0.02), normal(1e-3), second, normal(0.02))
    weights, resume = write_compact(folder, state)
    seed, path = resume.read_bytes(), folder / "fuzzed-compact"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_compact_weights(path, empty_state(COUNTERS, SHAPES).weights, COUNTERS)
        load_compact(path, empty_state(COUNTERS, SHAPES), 10.0)
        check_compact(path, SHAPES, COUNTERS, 10.0, weights)

    return Decoder("compact state", lambda rng: _damaged(rng, [seed]), read, share=2)


def _merged(folder: Path) -> Decoder:
    n = Layout.of(SHAPES).parameters
    state = OuterState(*(made_vector(seed, n, 1e-2) for seed in (1, 2, 3)), steps=3, clips=12)
    round_state(state)
    counters = replace(COUNTERS, run="cd" * 32)  # files of its own
    (folder / "merged").mkdir(exist_ok=True)
    weights, resume = write_merged(folder / "merged", counters, SHAPES, state)
    seeds = weights.read_bytes(), resume.read_bytes()

    def draw(rng: random.Random) -> tuple[bytes, ...]:
        which = rng.randrange(2)
        return tuple(_damaged(rng, [one]) if at == which else one for at, one in enumerate(seeds))

    def read(data: tuple[bytes, bytes]) -> None:
        paths = folder / "fuzzed-weights", folder / "fuzzed-merged"
        for path, part in zip(paths, data, strict=True):
            path.write_bytes(part)
        found = read_merged(paths[1], paths[0], counters, SHAPES)
        assert all(np.isfinite(each).all() for each in (found.weights, found.momentum, found.average))

    return Decoder("merged state", draw, read, share=2)


def _counted(folder: Path) -> Decoder:
    path = folder / "fuzzed-counted"
    note = counted_note({WHO.peer_id: 16, Identity.from_private_bytes(bytes(32)).peer_id: 2**50})
    header = json.dumps({"__metadata__": {"format": "pt", **note}, "a": {"dtype": "U8"}}).encode()

    def read(data: bytes) -> None:
        path.write_bytes(len(data).to_bytes(8, "little") + data)
        read_counted(path)

    return Decoder("counted clips", lambda rng: _damaged(rng, [header]), read, share=2)
