"""What a member tells a storage node of its run: which blobs there are, and who may have them, no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from paris_p2p.envelope import decode, encode
from paris_p2p.errors import RecordError
from paris_p2p.node.board import Board
from paris_p2p.owner_records import MAX_STOCKED, Stocked, StockList
from paris_p2p.spec import RunSpec

_MAX_SKIPPED = 1 << 20


class Stocking(Protocol):
    """Is a run's node, as a storage node's questions see it."""

    board: Board

    @property
    def spec(self) -> RunSpec: ...


async def stock_answer(node: Stocking, body: bytes) -> bytes | None:
    """Returns the blobs after as many as the question says that it knows; None for no question."""
    try:
        skip = decode(body).get("skip", 0) if body else 0
    except RecordError:
        return None
    if not isinstance(skip, int) or not 0 <= skip <= _MAX_SKIPPED:
        return None
    blobs = await asyncio.to_thread(lambda: tuple(_stocked(node))[skip : skip + MAX_STOCKED])
    return encode(StockList(blobs=blobs).model_dump())


def _stocked(node: Stocking) -> Iterator[Stocked]:
    """Yields what the tips need, then the data of the run."""
    for slot in tuple(node.board.slots):
        if (tip := node.board.tip(slot)) is not None:
            yield Stocked(thing="weights", blob=tip.card.record.weights)
            yield Stocked(thing="resume", blob=tip.card.record.resume)
    spec = node.spec
    gate = {shard.blob.id for shard in spec.gate_shards}
    for ref in spec.data_blobs:
        yield Stocked(thing="gate" if ref.id in gate else "data", blob=ref)
