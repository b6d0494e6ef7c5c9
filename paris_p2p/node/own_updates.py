"""An update of this node goes out: its file into the store, its record signed; the lead of the slot is told.

It stays on this disk, and is served, until no round can merge it any more, or with the card that merged it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from paris_p2p.crew_records import MAX_LATE, UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.node.run_node import RunNode
from paris_p2p.spec import CREW_READER

_SPARE_S = 3600.0


async def sign_update(node: RunNode, slot: str, path: Path, **what: Any) -> Envelope[UpdateRecord]:
    """Moves an update's file into the store, sealed in a private run, and signs the record of it; `what` are
    the record's other fields. `tell_update` lets the others know.

    Raises DiskFullError when the store's cap leaves no room, and nothing else there may go.
    """
    purpose, held = f"update/{slot}", set[str]()
    node.hold(purpose, held)  # until the next one: it is on no record yet
    ref = await asyncio.to_thread(node.blobs.add, path)
    held.add(ref.id)
    node.keeping.note(held)
    # the rounds in which it may count, the longest that there are
    lifetime_s = _SPARE_S + 2 * (MAX_LATE + 1) * node.spec.timing.checkpoint_s
    head = node.header("update", slot, min(lifetime_s, SIGNED_LIFETIME_S["update"]))
    envelope: Envelope[UpdateRecord] = node.sign(
        UpdateRecord(**head, oldest_reader=CREW_READER, blob=ref, **what)
    )
    return envelope


async def tell_update(node: RunNode, envelope: Envelope[UpdateRecord]) -> None:
    """Lets the others know of an update of this peer; it may be told again. Raises SwarmError when they
    cannot be told now.
    """
    node.keep(envelope)
    node.let_go(f"update/{envelope.record.slot}")
    await node.tell(envelope)
