"""Which updates of a crew a node copies that others find there: a bootstrap node, or the owner's.

Their makers may be behind routers, and go while the lead still fetches. Keys are free: copies are made of
those alone that are in the crew or contributed, and none is larger than an update of the slot's network.
"""

from __future__ import annotations

import time

from paris_p2p.crew_records import CrewSpec, UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.node.board import Board
from paris_p2p.rules.keeping import updates_copied
from paris_p2p.store.sealing import sealed_bytes
from paris_p2p.updates.update_header import UpdateHeader

_SPARE = 8  # places beside the crew's: of those who contributed and are not in it now
_WEIGHT_BYTES = 2  # of a parameter in a weights file (bf16)


def updates_wanted(board: Board, slot: str) -> list[Envelope[UpdateRecord]]:
    """Returns the updates of a slot to copy, by what is known here; none where nothing is trained yet."""
    tip, crew = board.tip(slot), board.spec.crew
    if tip is None or crew is None:
        return []
    members = {one.peer for one in board.crew(slot, tip.card.signer, time.time())}
    welcome = members | board.contributors(slot)
    limit_bytes = largest_update_bytes(tip.card.record.weights.size_bytes, crew)
    return updates_copied(board.updates(slot), welcome, crew.peers + _SPARE, limit_bytes)


def largest_update_bytes(weights_bytes: int, crew: CrewSpec) -> int:
    """Returns how large an update's blob can be, of a network whose weights file has so many bytes."""
    parameters = max(1, weights_bytes // _WEIGHT_BYTES)
    return sealed_bytes(UpdateHeader(parameters, crew.parts).largest_bytes)
