"""A volunteer, or the owner's node, announces what it holds for others, and keeps only what is needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, SwarmError
from paris_p2p.node.copies import Copies
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.run_records import HOLDER_LIFETIME_S, PEER_LIFETIME_S, PeerRole
from paris_p2p.node.update_copies import updates_wanted
from paris_p2p.rules.tips import Tip

log = logging.getLogger(__name__)
_FIRST_LOOK_S = 3.0  # what this peer signed before a restart is on its board by then
_PAUSE_S = 1.0  # from news to a look at the disk: more may come, and others fetch what was overtaken
_AGAIN_S = 3.0  # after a copy that could not be had, or announced
_TELL_EVERY_S = min(PEER_LIFETIME_S, HOLDER_LIFETIME_S) / 3
_TELL_AGAIN_S = 30.0  # after an announcement that failed
_LOOK_S = 60.0  # without news: blobs may be gone for reasons of this disk


async def announce(node: RunNode, role: PeerRole, say: Callable[[str], None]) -> None:
    """Announces this peer, and the data and tips it serves, again before that expires, until cancelled; soon
    again where it failed, of which a row of failures is said once.
    """
    is_said = False
    while True:
        wait_s = _TELL_EVERY_S
        try:
            await node.announce_peer(role)
            if all(node.host.store.has(shard.blob.id) for shard in node.spec.train_shards):
                await node.announce_holding(node.run)
            for slot in node.state.slots_ever:
                tip = node.board.tip(slot)
                if tip is not None and node.rounds.is_whole(tip.card.record):
                    await node.announce_holding(tip.card.id)
            is_said = False
        except SwarmError as error:
            wait_s = _TELL_AGAIN_S
            if not is_said:
                say(f"could not announce: {error}; trying again every {wait_s:.0f} s")
            is_said = True
        await asyncio.sleep(wait_s)


async def seed_tips(node: RunNode, role: PeerRole) -> None:
    """Deletes what newer tips replaced, with each news of it; the owner's node also copies every tip, and the
    updates for the next ones, so that others find all of them somewhere that stays. A member of a crew copies
    its slot's updates too once their round is over, so as not to slow the lead's own download: who holds one
    sees that it is left out of the next card as well. Runs until cancelled.
    """
    copies = Copies(node.disk_news.set)
    try:
        await asyncio.sleep(_FIRST_LOOK_S)
        while True:
            node.disk_news.clear()
            await node.forget_superseded()
            for slot in node.state.slots_ever:
                if role != "owner" and not _works_in(node, slot):
                    continue
                tip = node.board.tip(slot)
                if role == "owner" and tip is not None and not node.rounds.is_whole(tip.card.record):
                    copies.want(slot, tip.card.id, partial(_copy, node, slot, tip))
                for update in updates_wanted(node.board, slot):
                    is_due = role == "owner" or tip is None or update.record.base != tip.card.id
                    if is_due and not node.host.store.has(update.record.blob.id):
                        name = f"{slot}/{update.signer}"
                        copies.want(name, update.id, partial(_copy_update, node, slot, update))
            try:
                async with asyncio.timeout(_LOOK_S):
                    await node.disk_news.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(_PAUSE_S)
    finally:
        await copies.close()


def _works_in(node: RunNode, slot: str) -> bool:
    tip = node.board.tip(slot)
    if tip is None or node.spec.crew is None:
        return False
    return any(one.peer == node.peer_id for one in node.board.crew(slot, tip.card.signer, time.time()))


async def _copy(node: RunNode, slot: str, tip: Tip) -> None:
    try:
        await node.fetch_card(tip.card)
    except ParisError as error:
        log.info("could not copy %s: %s", slot, error)
        await asyncio.sleep(_AGAIN_S)
        return
    while True:  # until it is announced, or a newer tip is wanted in its place
        try:
            return await node.announce_holding(tip.card.id)
        except SwarmError as error:
            log.info("could not announce the copy of %s: %s", slot, error)
            await asyncio.sleep(_AGAIN_S)


async def _copy_update(node: RunNode, slot: str, update: Envelope[UpdateRecord]) -> None:
    try:
        await node.fetch_update(update)
    except ParisError as error:
        log.info("could not copy an update of %s: %s", slot, error)
        await asyncio.sleep(_AGAIN_S)
