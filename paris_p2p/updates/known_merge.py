"""A small merge whose result is known, with which a machine shows that it computes as the others do."""

from __future__ import annotations

import numpy as np

from paris_p2p.errors import InexactError
from paris_p2p.updates.chunk_codes import ChunkCodes, PackedChunks
from paris_p2p.updates.full_round import round_state
from paris_p2p.updates.layout import CHUNK_ENTRIES, Vector, chunk_slices
from paris_p2p.updates.merged_state import state_hash
from paris_p2p.updates.outer_step import Contribution, OuterRates, OuterState, outer_step
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader, assembled

KNOWN_HASH = "ac1f8cbbb92a111351e122f8251b1251131deb6dc7ec4bd0d0a44fd200c91359"
_PARAMETERS = 3 * CHUNK_ENTRIES + 1001
_HEADERS = (
    UpdateHeader(_PARAMETERS),
    UpdateHeader(_PARAMETERS, parts=2, part=0),
    UpdateHeader(_PARAMETERS, parts=2, part=1),
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
    """Returns the file of a made-up update, with steps from subnormal halves to large ones."""
    blocks = []
    for first, _ in chunk_slices(header.parameters):
        chunks, length = header.block(first)
        made = _codes_of(len(chunks), length, seed + first)
        blocks.append(PackedChunks.of(made).deflated() if len(chunks) else b"")
    return assembled(header, blocks)


def _codes_of(rows: int, length: int, seed: int) -> ChunkCodes:
    """Returns chunks of levels from -127 to 127, of which most are small."""
    numbers = _numbers(seed, rows * length).reshape(rows, length)
    for _ in range(3):
        numbers *= numbers * numbers
    levels = (numbers * np.float32(127.5)).astype(np.int8)
    steps = [2.0 ** -((seed + 10 * row) % 25) * (1 + row / 8) for row in range(rows)]
    return ChunkCodes(np.array(steps, np.float16), levels)
