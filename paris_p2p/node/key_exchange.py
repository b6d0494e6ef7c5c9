"""How a private run's keys reach its members: by asking one another, and by boxes on the bulletin board that
the owner's node leaves for those who are away (docs/protocol.md, "Private runs").

The gate's key travels the same way, also in an open run, to those who may attest.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from paris_p2p.envelope import decode, encode
from paris_p2p.errors import MissingBlobError, RecordError, SwarmError
from paris_p2p.key_box import KeyGift, gift_for, is_key, open_gift, seal_gift, with_gift
from paris_p2p.keyring import MAX_KEYS
from paris_p2p.kinds import SIGNED_LIFETIME_S, key_box_key
from paris_p2p.node.node_seam import NodeSeam
from paris_p2p.owner_records import KeyBoxRecord
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks

log = logging.getLogger(__name__)
LOOK_EVERY_S = 2.0
_AGAIN_S = 10.0  # between two rounds of questions that brought nothing
_MAX_ASKED = 8
_ASKED_S = 10.0
_PAUSE_AFTER = 32  # boxes, so that a run of thousands leaves the bulletin board its turns
_PAUSE_S = 1.0
_BOXED = "boxes"  # in the ledger: the newest key that this node has left boxes for


class KeyExchange:
    """One node's side of it, giving and taking."""

    def __init__(self, node: NodeSeam):
        self.node = node
        self._ask_at_s = 0.0  # of the event loop's clock

    async def answer(self, peer: str, body: bytes) -> bytes | None:
        """Answers a peer that asks for keys; None where there is nothing for it."""
        try:
            first = decode(body).get("first", 1) if body else 1
        except RecordError:
            return None
        if type(first) is not int or not 1 <= first <= MAX_KEYS:
            return None
        return await self._box_for(peer, first) or None

    @property
    def lacks(self) -> bool:
        """Tells whether a key is missing here that this node has a right to."""
        node = self.node
        state, ring, me = node.state, node.keys.ring, node.peer_id
        lacks_gate = bool(state.spec.gate.key_hash) and ring.gate is None and state.may_attest(me)
        return state.is_member(me) and (len(ring.keys) < len(state.key_hashes) or lacks_gate)

    async def keep_up(self) -> None:
        """Looks after this node's keys, and the others', until cancelled."""
        while True:
            try:
                await self.look()
            except SwarmError as error:
                log.info("keys were not asked for this time: %s", error)
            except Exception:
                log.exception("the exchange of keys failed this time")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Asks for what is missing, where that is due, and leaves boxes for a new key."""
        node, now_s = self.node, asyncio.get_running_loop().time()
        wanted = node.keys.wanted.is_set()
        if (wanted or self.lacks) and now_s >= self._ask_at_s:
            node.keys.wanted.clear()
            self._ask_at_s = now_s + _AGAIN_S
            if not self.lacks:  # a record is sealed under a key of which no notice has told yet
                await node.refresh()
            if await self.ask():
                self._ask_at_s = 0.0
                await node.refresh()  # what did not open before
        if node.peer_id == node.signed_spec.owner_node:
            await self.leave_boxes()

    async def ask(self) -> bool:
        """Looks for this node's box and asks connected members; tells whether a key came."""
        if not self.lacks:
            return False
        before = self.node.keys.ring
        while self.lacks and await self._read_box():
            pass
        if self.lacks:
            await self._ask_members()
        return self.node.keys.ring != before

    def take(self, data: bytes) -> None:
        """Keeps the keys in a box, as far as the owner named them; RecordError."""
        self._keep(open_gift(self.node.host.identity, data))

    async def leave_boxes(self) -> None:
        """Leaves every member a box with each new key, once; the first one each gets when it joins.

        Of several that came at once none is passed over: who slept opens the box of one with the one before.
        """
        node = self.node
        number, kept = len(node.state.key_hashes), node.ledger.get(_BOXED) or b"1"
        done = int(kept) if kept.isdigit() and len(kept) <= 6 else 1
        if number <= max(done, 1) or len(node.keys.ring.keys) < number:
            return
        state = node.state
        members = [peer for peer in (*state.admissions, *state.spec.gate.attestors) if peer != node.peer_id]
        for new in range(max(done, 1) + 1, number + 1):
            for count, peer in enumerate(dict.fromkeys(members), 1):
                if (box := await self._box_for(peer, new, new)) and len(box) <= 256:
                    await self._leave_box(new, peer, box)
                if count % _PAUSE_AFTER == 0:
                    await asyncio.sleep(_PAUSE_S)
            node.ledger.put(_BOXED, str(new).encode())

    async def _leave_box(self, number: int, peer: str, box: bytes) -> None:
        """Puts one box on the board, sealed under the key before, which its reader has."""
        node = self.node
        header = node.header("keybox", "", SIGNED_LIFETIME_S["keybox"])
        record = KeyBoxRecord(**header, number=number, peer=peer, box=box)
        await node.tell(node.sign(record, number - 1))

    async def _box_for(self, peer: str, first: int, last: int | None = None) -> bytes:
        """Returns the keys that a peer's rights open, sealed to it; b"" where there is nothing for it, and
        for an id that is nobody's key, which an owner may mistype and a delegate make up.
        """
        ring = self.node.keys.ring.as_of(last) if last else self.node.keys.ring
        gift = gift_for(ring, self.node.state.rights(peer), first)
        if gift is None or not is_key(peer):
            return b""
        return await asyncio.to_thread(seal_gift, peer, gift)

    async def _read_box(self) -> bool:
        """Takes the key that follows this node's newest from the board; tells whether it was there."""
        node = self.node
        number = len(node.keys.ring.keys) + 1
        if number == 1 or number > len(node.state.key_hashes):
            return False
        for envelope in await node.swarm.read(key_box_key(node.run, number, node.peer_id)):
            record = envelope.record
            if envelope.signer == node.signed_spec.owner_node and isinstance(record, KeyBoxRecord):
                try:
                    self.take(record.box)
                except RecordError as error:
                    log.warning("the box with key %d does not hold it: %s", number, error)
        return len(node.keys.ring.keys) >= number

    async def _ask_members(self) -> None:
        """Asks connected members, the owner's node and those who may attest first."""
        node, state = self.node, self.node.state
        connected = [peer.peer_id for peer in await node.swarm.peers()]
        members = [peer for peer in connected if state.is_member(peer)]
        members.sort(key=lambda peer: (peer != node.signed_spec.owner_node, not state.may_attest(peer)))
        body = encode({"first": len(node.keys.ring.keys) + 1})
        asked = {
            peer: partial(node.host.swarm.ask, peer, "key", node.public_id, body)
            for peer in members[:_MAX_ASKED]
        }
        answers = await ask_side_by_side(asked, enough=1, limit_s=_ASKED_S, extra=1.0)
        await end_tasks(answers.late.values())
        for error in answers.failed.values():
            if not isinstance(error, SwarmError | MissingBlobError | RecordError):
                raise error
        for peer, data in answers.good.items():
            try:
                await asyncio.to_thread(self.take, data)
            except RecordError as error:
                log.warning("%s gave keys that do not hold: %s", peer[-8:], error)

    def _keep(self, gift: KeyGift) -> None:
        keys, state = self.node.keys, self.node.state
        ring = with_gift(keys.ring, gift, state.key_hashes, state.spec.gate.key_hash)
        if ring != keys.ring:
            keys.keep(ring)
            log.info("key %d of the run is here now", len(ring.keys))
