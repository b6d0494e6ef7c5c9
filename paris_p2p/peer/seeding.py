"""What a volunteer, or the owner's node, holds for others: said again before it expires, and kept to what
is still needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from paris_p2p.errors import ParisError, SwarmError
from paris_p2p.node.copies import Copies
from paris_p2p.node.run_node import HOLDER_LIFETIME_S, PEER_LIFETIME_S, PeerRole, RunNode
from paris_p2p.rules.tips import Tip

log = logging.getLogger(__name__)
PERIOD_S = 3.0


async def announce(node: RunNode, role: PeerRole, say: Callable[[str], None]) -> None:
    """Presence, and the data and tips this peer serves, again before they expire. Until cancelled."""
    while True:
        try:
            await node.announce_peer(role)
            if all(node.host.store.has(shard.blob.id) for shard in node.spec.train_shards):
                await node.announce_holding(node.run)
            for slot in node.spec.slots:
                tip = node.board.tip(slot)
                if tip is not None and node.host.store.has(tip.card.record.resume.id):
                    await node.announce_holding(tip.card.id)
        except SwarmError as error:
            say(f"could not announce: {error}")
        await asyncio.sleep(min(PEER_LIFETIME_S, HOLDER_LIFETIME_S) / 3)


async def seed_tips(node: RunNode, role: PeerRole) -> None:
    """Delete what newer tips replaced; the owner's node copies every tip, so that newcomers find all of
    them somewhere that stays.
    """
    copies = Copies()
    try:
        while True:
            await asyncio.sleep(PERIOD_S)
            await node.forget_superseded()
            for slot in node.spec.slots if role == "owner" else ():
                tip = node.board.tip(slot)
                if tip is not None and not node.host.store.has(tip.card.record.resume.id):
                    copies.want(slot, tip.card.id, partial(_copy, node, slot, tip))
    finally:
        await copies.close()


async def _copy(node: RunNode, slot: str, tip: Tip) -> None:
    try:
        await node.fetch([tip.card.record.weights, tip.card.record.resume], tip.card.id)
        await node.announce_holding(tip.card.id)
    except ParisError as error:
        log.info("could not copy %s: %s", slot, error)
