"""A small merge whose result is known, with which a machine shows that it computes as the others do."""

from __future__ import annotations

import numpy as np

from paris_p2p.errors import InexactError
from paris_p2p.updates.chunk_codes import ChunkCodes, encode_chunks, pack_bits
from paris_p2p.updates.full_round import round_state
from paris_p2p.updates.layout import CHUNK_ENTRIES, Vector
from paris_p2p.updates.merged_state import state_hash
from paris_p2p.updates.outer_step import Contribution, OuterRates, OuterState, outer_step
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader

KNOWN_HASH = "9345a39de651fb2a918b1c417d5fbca99e7246471222551ed056231c5cd26974"
_PARAMETERS = 3 * CHUNK_ENTRIES + 1001
_HEADERS = (
    UpdateHeader(_PARAMETERS, CHUNK_ENTRIES, 2),
    UpdateHeader(_PARAMETERS, 64, 2),
    UpdateHeader(_PARAMETERS, 24, 1, parts=2, part=1),
)
_RUN, _SLOT = "5a" * 32, "expert-0"


def check_known_merge() -> None:
    """Raises InexactError unless three rounds of made-up updates give the known state; takes 10 ms."""
    found = known_merge()
    if found != KNOWN_HASH:
        raise InexactError(
            f"this machine merges three known rounds to {found[:16]}, others to {KNOWN_HASH[:16]}: it can "
            "neither lead nor attest a crew's slot; say which CPU and numpy it has where this is developed"
        )


def known_merge() -> str:
    """Returns the hash after a round of three updates, a plain one, and another that is rounded."""
    weights, momentum, average = (_numbers(seed, _PARAMETERS) for seed in (1, 2, 3))
    momentum *= np.float32(2.0**-120)  # its products are subnormal
    state = OuterState(weights, momentum, average, steps=1000, clips=8000)
    updates = [Update.from_bytes(_made(header, seed), _PARAMETERS) for seed, header in enumerate(_HEADERS, 4)]
    parts = [
        Contribution(f"peer-{i}", update, 240 / (i + 1) ** 0.5, 1 - i / 7, 30, 240)
        for i, update in enumerate(updates)
    ]
    for chosen in (parts, parts[1:2], parts[::-1]):
        outer_step(state, chosen, OuterRates(0.7, 0.9, 0.999))
    round_state(state)
    return state_hash(_RUN, _SLOT, state)


def _numbers(seed: int, count: int) -> Vector:
    """Returns made-up numbers in [-1, 1), by whole-number arithmetic."""
    whole = np.arange(1, count + 1, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed * 40503)
    whole ^= whole >> np.uint32(15)
    whole *= np.uint32(2246822519)
    return ((whole >> np.uint32(8)).astype(np.float32) - np.float32(2.0**23)) / np.float32(2.0**23)


def _made(header: UpdateHeader, seed: int) -> bytes:
    """Returns the file of a made-up update, with magnitudes from subnormal halves to large ones."""
    lengths = [CHUNK_ENTRIES] * header.full_chunks + [header.last_length] * bool(header.last_length)
    return header.to_bytes() + b"".join(
        encode_chunks(header, _codes_of(header, length, seed + 10 * at)).tobytes()
        for at, length in enumerate(lengths)
    )


def _codes_of(header: UpdateHeader, length: int, seed: int) -> ChunkCodes:
    kept = header.kept_of(length)
    numbers = _numbers(seed, kept)[None]
    indices = None if header.dense else np.arange(kept)[None] * (length // kept)
    pair = np.array([[2.0 ** -(seed % 25), 1.5 * 2.0 ** -(seed % 25)]], np.float16)
    signs = pack_bits(numbers < 0)
    if header.magnitudes == 1:
        return ChunkCodes(length, kept, pair[:, :1], indices, signs, None)
    large = np.abs(numbers) > 0.5
    large[:, 0], large[:, 1] = True, False
    return ChunkCodes(length, kept, pair, indices, signs, pack_bits(large))
