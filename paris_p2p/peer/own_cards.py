"""What this peer left behind in slots that it leads no more, or not yet since its start, is told, as
rules/own_card.py decides: nothing that was learned is lost where a pause, a rest or a leave ran out of time,
or the peer was killed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.node.own_card_file import own_card, own_view
from paris_p2p.node.publish import sign_later, tell_card
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.notifier import Notifier
from paris_p2p.rules.own_card import OwnStep, own_step
from paris_p2p.rules.standing import standing
from paris_p2p.rules.tips import tip_id

_LOOK_S = 5.0  # leaderships end, and the patience with a card passes, without news
_AGAIN_S = 30.0  # after the others could not be told


class OwnCards:
    """The newest card of this peer in each slot. `leads` tells whether a leadership of a slot has begun with
    what there was: then that carries its cards out (outbox.py).
    """

    def __init__(self, node: RunNode, leads: Callable[[str], bool], say: Callable[[str], None]):
        self.node, self.leads, self.say = node, leads, say
        self._told: dict[str, str] = {}  # slot -> id of the tip after which its newest card was told
        self._held: set[str] = set()  # slots whose card's blobs are kept
        self._news = Notifier()

    async def carry(self) -> None:
        """Tells of them until cancelled."""

        def listen(envelope: Envelope[Any]) -> None:
            if envelope.record.kind == "card" and envelope.signer == self.node.peer_id:
                self._told.pop(envelope.record.slot, None)  # perhaps by a leadership that is over by now
            if envelope.record.kind in ("card", "attestation", "notice"):
                self._news.notify()

        is_said = False  # of a row of failures
        self.node.listeners.append(listen)
        try:
            for slot in self.node.spec.slots:
                self._hold(slot)
            while True:
                failed = await self.look()
                if failed and not is_said:
                    self.say(f"could not tell of a checkpoint yet: {failed}; trying again")
                is_said = bool(failed)
                await (asyncio.sleep(_AGAIN_S) if failed else self._news.wait(_LOOK_S))
        finally:
            self.node.listeners.remove(listen)

    async def look(self) -> str:
        """Looks at each slot once; returns why the others could not be told, empty where they were."""
        failed = ""
        for slot in self.node.spec.slots:
            try:
                await self._look_at(slot)
            except ParisError as error:  # the network, or a key, may come
                failed = f"{slot}: {error}"
        return failed

    async def _look_at(self, slot: str) -> None:
        after = tip_id(self.node.board.tip(slot))
        if self._told.get(slot) == after and not self.leads(slot):
            return
        step = self._hold(slot)
        if self.leads(slot):
            self._told.pop(slot, None)
            return
        own = own_card(self.node, slot)
        if own is None or step in ("wait", "nothing"):
            return
        card = own.card if step == "tell" else sign_later(self.node, own)
        await tell_card(self.node, card)
        record = card.record
        self.say(f"told of {slot} seq {record.seq} again: {record.steps:,} steps, which nobody attested")
        self._told[slot] = after

    def _hold(self, slot: str) -> OwnStep:
        """Returns what is to be done about a slot's card, and keeps its blobs while it may count.

        Also while this peer leads: once an earlier card is the tip, nothing else keeps those of this one.
        """
        node, own = self.node, own_card(self.node, slot)
        step: OwnStep = "nothing"
        if own is not None and standing(node.state, node.peer_id, node.chain.fork).publishes:
            step = own_step(own, own_view(node, own), time.time())
        if own is not None and step != "nothing":
            node.hold(_purpose(slot), {ref.id for ref in node.rounds.refs(own.card.record)})
            self._held.add(slot)
        elif slot in self._held:
            node.let_go(_purpose(slot))
            self._held.discard(slot)
        return step


def _purpose(slot: str) -> str:
    return f"own/{slot}"
