"""What a member tells a storage node of its run: which blobs there are, and who may have them, no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from paris_p2p.envelope import decode, encode
from paris_p2p.errors import RecordError
from paris_p2p.node.board import Board
from paris_p2p.node.opened_rounds import OpenedRounds
from paris_p2p.node.update_copies import updates_wanted
from paris_p2p.owner_records import MAX_STOCKED, Stocked, StockList
from paris_p2p.spec import RunSpec

_MAX_SKIPPED = 1 << 20


class Stocking(Protocol):
    """Is a run's node, as a storage node's questions see it."""

    board: Board
    rounds: OpenedRounds

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
    blobs = await asyncio.to_thread(lambda: tuple(stocked(node))[skip : skip + MAX_STOCKED])
    return encode(StockList(blobs=blobs).model_dump())


def stocked(node: Stocking) -> Iterator[Stocked]:
    """Yields what the tips need, with the updates for the next ones, then the data of the run."""
    for slot in tuple(node.board.slots):
        if (tip := node.board.tip(slot)) is not None:
            card = tip.card.record
            for ref in node.rounds.refs(card):
                yield Stocked(thing="weights" if ref == card.weights else "resume", blob=ref)
        for update in updates_wanted(node.board, slot):
            yield Stocked(thing="resume", blob=update.record.blob)
    spec = node.spec
    gate = {shard.blob.id for shard in spec.gate_shards}
    for ref in spec.data_blobs:
        yield Stocked(thing="gate" if ref.id in gate else "data", blob=ref)
