"""A private run on a storage node: what its members name is fetched, kept and served to them, all of it
sealed.

The node holds door keys alone: it reads who takes part, and no record, name or content of the run.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from paris_p2p.bootstrap.door_word import DoorWord, spec_of_ticket
from paris_p2p.bootstrap.forgotten import end_heard_s
from paris_p2p.bootstrap.keeper_joining import ring_of, save_ticket, with_ring
from paris_p2p.envelope import Envelope, decode, encode, parse
from paris_p2p.errors import DiskFullError, MissingBlobError, ParisError, RecordError, SwarmError
from paris_p2p.key_box import doors_with, open_gift
from paris_p2p.kinds import key_box_key, members_key, notices_key
from paris_p2p.node.fetch import Fetcher
from paris_p2p.node.host import Host
from paris_p2p.node.membership import CERTIFICATE, Membership
from paris_p2p.node.numbering import Numbering
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.node.run_swarm import RunSwarm, SealedRunSwarm
from paris_p2p.owner_records import (
    KeyBoxRecord,
    MemberRecord,
    NoticeRecord,
    Stocked,
    StockList,
    StorageTicket,
)
from paris_p2p.records import PeerRecord, RequestKind, Signed
from paris_p2p.rules.chain import Chain
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.stocking import to_hold
from paris_p2p.rules.trust import Thing
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.limits import Reasons

log = logging.getLogger(__name__)
LOOK_EVERY_S = 15.0
_PEER_S = 600.0  # how long a presence holds
_MAX_ASKED = 16  # members, in one look
_MAX_PAGES = 16  # of the owner's node's stock
_MAX_PAGES_OF_OTHERS = 4  # of another member's
_MAX_STOCKS = 32  # members whose stock is remembered: each may name what it likes
_ASKED_S = 20.0
_AHEAD = 8  # notices that are looked for on the board beyond the newest
_HEARD = ("notice", "member", "peer")


class Keeper:
    """Keeps one run; `run_until_over` returns the reason when this node has no more part in it."""

    def __init__(self, host: Host, ticket: StorageTicket, forget_ended_s: float):
        self.host, self.ticket, self.forget_ended_s = host, ticket, forget_ended_s
        self.run, self.signed_data = ticket.run, b""
        self.signed_spec = spec_of_ticket(ticket)
        self.folder = save_ticket(host.settings.data_dir, ticket)
        self.ledger = Ledger(self.folder / "ledger")
        if ticket.certificate:
            self.ledger.put(CERTIFICATE, ticket.certificate)
        self.refused: Counter[str] = Reasons()
        self.keys = RunKeys(self.folder)  # none: a storage node gets door keys alone
        self._numbering = Numbering(self.run, self.ledger)
        self.swarm: RunSwarm = SealedRunSwarm(
            self.run,
            host.identity,
            lambda: host.swarm,
            ring=lambda: ring_of(self.ticket),
            in_force=lambda: min(len(self.state.key_hashes), len(self.ticket.doors)),
            next_seq=lambda: self._numbering.next_ms("seq/sealed/run"),
            askable=self._askable,
        )
        self._door = DoorWord(self.run, self.signed_spec, self.ledger, self.swarm.open)
        self.word: OwnersWord = self._door
        self.membership = Membership(self)
        self.stocks: dict[str, list[Stocked]] = {}  # by member, as it said last
        self.held: dict[str, Stocked] = {}  # by blob id
        self._told_s = -1e9

    # what the other parts of a node ask

    @property
    def peer_id(self) -> str:
        return self.host.identity.peer_id

    @property
    def public_id(self) -> str:
        return self.swarm.public_id

    @property
    def chain(self) -> Chain:
        return self.word.chain

    @property
    def state(self) -> RunState:
        return self.word.state

    @property
    def spec_data(self) -> bytes:
        """Returns nothing: the RunSpec is sealed to this node."""
        return b""

    def header(self, kind: str, slot: str, lifetime_s: float | None = None) -> dict[str, Any]:
        return self._numbering.header(kind, slot, lifetime_s)

    def sign(self, record: Signed, keys: int | None = None) -> Envelope[Any]:
        return self.swarm.sign(record, keys)

    async def tell(self, envelope: Envelope[Any]) -> None:
        await self.swarm.gossip(envelope)
        await self.swarm.store(envelope)

    def add_member(self, member: Envelope[MemberRecord]) -> bool:
        try:
            return self.word.add_member(member)
        except RecordError as error:  # everybody with a door key, also an old one, can say such a thing
            log.info("a member record was refused: %s", error)
            self.refused["member record"] += 1
            return False

    def serves(self, blob_id: str) -> bool:
        return blob_id in self.held

    def things(self, blob_id: str) -> set[Thing]:
        held = self.held.get(blob_id)
        return set() if held is None else {held.thing}

    def knows(self, peer: str) -> bool:
        return self.state.is_member(peer)

    def expects(self, peer: str) -> bool:
        return self.state.is_member(peer)

    def kept_blobs(self) -> set[str]:
        return set(self.held)

    def records_under(self, key: str) -> list[bytes]:
        """Returns the members and the notices that this node knows, and can read."""
        plain = self.swarm.asked(key)
        if plain == members_key(self.run):
            return self.membership.records()
        shelf, _, name = plain.rpartition("/")
        if name.isdecimal() and shelf == notices_key(self.run, 1).rpartition("/")[0]:
            return [one.data for one in self.chain.notices if one.record.seq >= int(name)][:512]
        return []

    async def answer(self, peer: str, action: RequestKind, body: bytes) -> bytes | None:
        return await self.membership.answer_hello(peer, body) if action == "hello" else None

    async def refresh(self, slots: Sequence[str] = ()) -> None:
        """Reads who takes part."""
        await self._read_notices()
        await self.membership.read()

    def _askable(self) -> Iterator[str]:
        yield members_key(self.run)
        yield from (notices_key(self.run, number) for number in range(1, self._door.newest + 1))

    # its life

    async def run_until_over(self) -> str:
        """Keeps the run until the owner ends it or takes this node's part; returns why."""
        self.host.members[self.run] = self
        await self.swarm.subscribe(self._hear)
        showing = asyncio.create_task(self.membership.keep_showing())
        try:
            while not (why := self.over_because()):
                try:
                    await self.look()
                except SwarmError as error:
                    log.info("run %s… was not looked at this time: %s", self.public_id[:16], error)
                except ParisError as error:
                    log.warning("run %s… was not kept up this time: %s", self.public_id[:16], error)
                await asyncio.sleep(LOOK_EVERY_S)
            return why
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            self.swarm.unsubscribe(self._hear)
            self.host.members.pop(self.run, None)

    def forget(self) -> None:
        """Deletes all that was kept of the run, but for blobs that another run here needs."""
        needed = set[str]().union(*(member.kept_blobs() for member in tuple(self.host.members.values())))
        for blob_id in self.held.keys() - needed:
            self.host.store.delete(blob_id)
        self.held = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    async def look(self) -> None:
        """Reads who takes part, takes stock, and fetches what is missing."""
        await self.refresh()
        await self._ask_keys()
        if time.monotonic() - self._told_s > _PEER_S / 2:
            header = self.header("peer", "", _PEER_S)
            await self.tell(self.sign(PeerRecord(**header, role="bootstrap", notices=self._door.newest)))
            self._told_s = time.monotonic()
        await self._take_stock()
        await self._fetch()

    def over_because(self) -> str:
        """Returns why this node has no part in the run any more; empty while it has."""
        state = self.state
        if state.is_revoked(self.peer_id):
            return "its owner took this node's part in it"
        ended_s = end_heard_s(self.ledger, state)
        if ended_s is not None and time.time() >= ended_s + self.forget_ended_s:
            return "its owner ended it"
        return ""

    async def _hear(self, sender: str, data: bytes) -> None:
        """Takes what gossip brings, as far as it is for this node."""
        try:
            self._take(self.swarm.open(data, _HEARD))
        except RecordError as error:
            log.debug("a message of %s is not for this node: %s", sender[-8:], error)

    def _take(self, envelope: Envelope[Any]) -> None:
        if isinstance(envelope.record, NoticeRecord):
            self.word.add_notice(envelope)
        elif isinstance(envelope.record, MemberRecord):
            self.membership.take(envelope)

    async def _members(self) -> list[str]:
        """Returns connected members, the owner's node first."""
        state, owner_node = self.state, self.ticket.owner_node
        connected = [peer.peer_id for peer in await self.swarm.peers()]
        members = [peer for peer in connected if state.is_member(peer) and peer != self.peer_id]
        return sorted(members, key=lambda peer: (peer != owner_node, peer))[:_MAX_ASKED]

    async def _read_notices(self) -> None:
        """Reads on from the board and from members: some numbers are not for this node."""
        first = self._door.newest + 1
        for number in range(first, first + _AHEAD):
            for envelope in await self.swarm.read(notices_key(self.run, number)):
                self._take(envelope)
        for peer in await self._members():
            try:
                told = await self.swarm.ask_records(peer, notices_key(self.run, self._door.newest + 1))
            except (SwarmError, MissingBlobError, RecordError) as error:
                log.info("%s does not tell the run's notices: %s", peer[-8:], error)
                continue
            for data in told:
                await self._hear(peer, data)

    async def _ask_keys(self) -> None:
        """Gets the door keys that notices named since."""
        named, me = self.state.key_hashes, self.host.identity
        while (number := len(self.ticket.doors) + 1) <= len(named):
            boxes = [
                envelope.record.box
                for envelope in await self.swarm.read(key_box_key(self.run, number, self.peer_id))
                if isinstance(envelope.record, KeyBoxRecord) and envelope.signer == self.ticket.owner_node
            ]
            for peer in await self._members():
                try:
                    boxes.append(
                        await self.host.swarm.ask(peer, "key", self.public_id, encode({"first": number}))
                    )
                except (SwarmError, MissingBlobError, RecordError) as error:
                    log.debug("%s gave no key: %s", peer[-8:], error)
            for box in boxes:
                try:
                    ring = doors_with(ring_of(self.ticket), open_gift(me, box), named)
                except RecordError as error:
                    log.warning("a key does not hold: %s", error)
                    continue
                if ring is not None and len(ring.doors) > len(self.ticket.doors):
                    self.ticket = with_ring(self.ticket, ring)
                    save_ticket(self.host.settings.data_dir, self.ticket)
            if len(self.ticket.doors) < number:
                return

    async def _take_stock(self) -> None:
        """Asks members what the run consists of; what those said that are away now counts on."""
        asked = await self._members()
        for peer in asked:
            try:
                async with asyncio.timeout(_ASKED_S):
                    self.stocks[peer] = await self._stock_of(peer)
            except (SwarmError, MissingBlobError, RecordError, TimeoutError) as error:
                log.info("%s does not tell what there is: %s", peer[-8:], error)
        state = self.state
        self.stocks = {peer: stock for peer, stock in self.stocks.items() if state.is_member(peer)}
        away = [peer for peer in self.stocks if peer not in asked and peer != self.ticket.owner_node]
        for peer in away[: max(0, len(self.stocks) - _MAX_STOCKS)]:
            del self.stocks[peer]
        if self.stocks:
            held = to_hold(self.stocks, self.ticket.owner_node, self.host.store.max_bytes or 0)
            self.held = {one.blob.id: one for one in held}

    async def _stock_of(self, peer: str) -> list[Stocked]:
        stock: list[Stocked] = []
        for _ in range(_MAX_PAGES if peer == self.ticket.owner_node else _MAX_PAGES_OF_OTHERS):
            data = await self.host.swarm.ask(peer, "stock", self.public_id, encode({"skip": len(stock)}))
            page = parse(StockList, decode(data)).blobs
            if not page:
                break
            stock += page
        return stock

    async def _fetch(self) -> None:
        """Fetches what is missing from members; a full disk gives up what is needed least."""
        store, swarm = self.host.store, self.host.swarm
        missing = [one.blob for one in self.held.values() if not store.has(one.blob.id)]
        if not missing:
            return
        fetcher = Fetcher(swarm, store, self.host.sources)
        for ref in missing:
            try:
                await fetcher.one(ref, self._members)
            except DiskFullError as error:
                if not await asyncio.to_thread(self.host.make_room, ref.size_bytes, [ref.id]):
                    log.warning("no more is kept: %s", error)
                    return
            except (SwarmError, ParisError) as error:
                log.info("blob %s… was not had this time: %s", ref.id[:16], error)
