"""One run on this host: its records are signed and kept, its blobs fetched, seeded and announced.

What others say of the run is read in record_reading.py, and kept on the board (board.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, MissingKeyError, SealError
from paris_p2p.kinds import (
    claims_key,
    dht_key,
    holders_key,
    members_key,
    notices_key,
    peers_key,
    refusals_key,
    tips_key,
)
from paris_p2p.node.admitting import Admitter
from paris_p2p.node.board import Board
from paris_p2p.node.effective_files import EffectiveFiles
from paris_p2p.node.fetch import Fetcher
from paris_p2p.node.host import Host, save_spec, spec_path
from paris_p2p.node.kept_checkpoints import Keeping
from paris_p2p.node.key_exchange import KeyExchange
from paris_p2p.node.membership import Membership
from paris_p2p.node.numbering import Numbering
from paris_p2p.node.open_copies import OPEN, OpenCopies, work_folder
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.record_reading import GOSSIPED, OPENING_S, Reading
from paris_p2p.node.run_blobs import RunBlobs
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.node.run_swarm import PlainRunSwarm, RunSwarm, SealedRunSwarm
from paris_p2p.node.stock import stock_answer
from paris_p2p.node.twin_watch import OwnSignatures
from paris_p2p.owner_records import MemberRecord, NoticeRecord
from paris_p2p.records import BlobRef, CardRecord, HolderRecord, PeerRecord, RequestKind, Signed
from paris_p2p.rules.chain import Chain, whose_fault
from paris_p2p.rules.chunks import order_sources
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.trust import Thing
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.asking import end_tasks
from paris_p2p.swarm.limits import EventLimit, Reasons

PeerRole = Literal["peer", "owner", "bootstrap", "generator"]
log = logging.getLogger(__name__)
Answer = Callable[[str, bytes], Awaitable[bytes | None]]  # (peer, what it says) -> what it is told
HOLDER_LIFETIME_S = 1800.0
PEER_LIFETIME_S = 600.0
NOTICES_PER_S, NOTICES_AT_ONCE = 1.0, 16  # by gossip; the board has all


class RunNode:
    """A member run of a Host; `opened` enters it."""

    def __init__(self, host: Host, run: Envelope[RunSpec]):
        self.host, self.run, self.signed_spec, self.signed_data = host, run.id, run.record, run.data
        self.owner = run.signer
        self.ledger = Ledger(host.settings.data_dir / "runs" / run.id / "ledger")
        self.numbering = Numbering(run.id, self.ledger)
        self.keys = RunKeys(self.spec_file.parent)
        self.swarm = self._own_part()
        self.word = OwnersWord(run.id, run.record, self.ledger, self.swarm.open)
        self.keys.in_force = lambda: len(self.state.key_hashes)
        self.board = Board(run.id, run.record, self.ledger, host.identity.peer_id, self.word)
        self._effective = EffectiveFiles(host.settings.data_dir / "runs" / run.id / "work" / "spec")
        self.roles: dict[str, str] = {}  # of the peers that said they are here
        self.own = OwnSignatures(self.peer_id, self.ledger, time.time())
        self.refused: Counter[str] = Reasons()  # reason -> records and cards
        self.board.refused = self.word.refused = self.refused
        self.listeners: list[Callable[[Envelope[Any]], None]] = []
        self._data_of: RunSpec | None = None  # whose blobs the next one names
        self._data: frozenset[str] = frozenset()
        self._notices_told = EventLimit(per_s=NOTICES_PER_S, burst=NOTICES_AT_ONCE)
        self._held: dict[str, set[str]] = {}  # purpose -> blobs in use
        self.disk_news = asyncio.Event()  # what stays on this disk may have changed; its one reader clears it
        self.keeping = Keeping(host.store, self.ledger, self.data_blobs, self.disk_news.set)
        self.reading = Reading(self.swarm, self.board, self.keep_all, self.refused)
        copies = OpenCopies(host.store, work_folder(host.settings.data_dir, run.id, OPEN))
        self.blobs = RunBlobs(host.store, self.keys, copies, lambda: self.spec, host.make_room)
        self.membership, self.admitter = Membership(self), Admitter(self)
        self.exchange = KeyExchange(self)
        self.listeners.append(self.membership.note)
        self.answers: dict[RequestKind, Answer] = {  # to what other peers say about this run
            "hello": self.membership.answer_hello,
            "join": self.admitter.answer,
            "key": self.exchange.answer,
            "stock": lambda _, body: stock_answer(self, body),
        }

    @property
    def peer_id(self) -> str:
        return self.host.identity.peer_id

    @property
    def chain(self) -> Chain:
        """Returns the owner's notices that this node knows."""
        return self.word.chain

    @property
    def fork(self) -> str:
        """Returns what a person is told where two notices of the owner contradict one another; else empty."""
        return whose_fault(self.chain.fork) if self.chain.fork else ""

    @property
    def state(self) -> RunState:
        """Returns what the run is by now; every decision that a notice can change asks it."""
        return self.word.state

    @property
    def spec(self) -> RunSpec:
        """Returns the owner's RunSpec with all that notices changed; `signed_spec` is as it was signed."""
        return self.word.spec

    def data_blobs(self) -> frozenset[str]:
        """Returns the blobs that the owner gave, by the RunSpec of now."""
        spec = self.spec
        if spec is not self._data_of:
            self._data_of, self._data = spec, frozenset(ref.id for ref in spec.data_blobs)
        return self._data

    @property
    def public_id(self) -> str:
        """Returns what other peers ask for this run by."""
        return self.swarm.public_id

    def things(self, blob_id: str) -> set[Thing]:
        """Returns what a blob is to this run: rights differ (rules/trust.py)."""
        spec, found = self.spec, set[Thing]()
        if blob_id in self.data_blobs():
            is_gate = any(shard.blob.id == blob_id for shard in spec.gate_shards)
            is_train = any(shard.blob.id == blob_id for shard in spec.train_shards)
            found |= {"gate"} if is_gate else {"data"}
            found |= {"data"} if is_train else set()
        tips = [tip for slot in self.board.slots if (tip := self.board.tip(slot)) is not None]
        if blob_id in self.keeping.resumes or any(tip.card.record.resume.id == blob_id for tip in tips):
            found |= {"resume"}
        if blob_id in self.keeping.good - self.keeping.resumes or any(
            tip.card.record.weights.id == blob_id for tip in tips
        ):
            found |= {"weights"}
        return found

    async def answer(self, peer: str, action: RequestKind, body: bytes) -> bytes | None:
        """Answers what a peer says; None where there is nothing to say to it."""
        return await self.answers[action](peer, body) if action in self.answers else None

    def expects(self, peer: str) -> bool:
        """Tells whether a peer is a member, or waits to be let in."""
        return self.state.is_member(peer) or peer in self.admitter.asking

    @property
    def spec_file(self) -> Path:
        return spec_path(self.host.settings.data_dir, self.run)

    def spec_file_for(self, number: int | None = None) -> Path | None:
        """Returns what a job's `effective_path` is: a file with the RunSpec by the first `number` notices (by
        all that are known, when none is given); None where no notice changed it.
        """
        state = self.state
        return self._effective.path(state, state.number if number is None else number)

    def serves(self, blob_id: str) -> bool:
        return blob_id in self.data_blobs() or blob_id in self.keeping.good or blob_id in self._tip_blobs()

    def knows(self, peer: str) -> bool:
        """Tells whether a peer has a part in this run that strangers cannot give themselves."""
        return self.board.has_part(peer)

    def records_under(self, key: str) -> list[bytes]:
        plain = self.swarm.asked(key)
        if plain == members_key(self.run):
            return self.membership.records(self.board.behind_tips())
        return self.board.records_under(plain)

    @property
    def spec_data(self) -> bytes:
        """Returns the RunSpec as other peers get it."""
        return self.swarm.spec_to_send(self.signed_data)

    def _own_part(self) -> RunSwarm:
        """Returns this run's part of the swarm: sealed where the run is private."""
        me = self.host.identity
        if not self.signed_spec.private:
            return PlainRunSwarm(self.run, me, lambda: self.host.swarm)
        self.keys.check(self.signed_spec)
        return SealedRunSwarm(
            self.run,
            me,
            lambda: self.host.swarm,
            ring=lambda: self.keys.ring,
            in_force=lambda: self.keys.in_force(),
            next_seq=lambda: self.numbering.next_ms("seq/sealed/run"),
            askable=self._askable,
            missing=self.keys.wanted.set,
        )

    def _askable(self) -> Iterator[str]:
        """Yields the DHT keys of which this node tells other peers what it knows."""
        for slot in self.board.slots:
            yield from (claims_key(self.run, slot), tips_key(self.run, slot), refusals_key(self.run, slot))
        yield members_key(self.run)
        yield from (notices_key(self.run, number) for number in range(1, self.chain.number + 1))

    def keep_good(self, card: CardRecord) -> None:
        """Lets this card's blobs be seeded: this peer made it, or checked it."""
        self.keeping.keep_good(card)

    def _tip_blobs(self) -> set[str]:
        tips = [self.board.tip(slot) for slot in self.board.slots]
        return {ref.id for tip in tips if tip for ref in (tip.card.record.weights, tip.card.record.resume)}

    # records

    async def say(self, record: Signed) -> Envelope[Any]:
        """Signs a record, keeps it, and tells the others."""
        envelope = self.sign(record)
        self.keep(envelope)
        await self.tell(envelope)
        return envelope

    def sign(self, record: Signed, keys: int | None = None) -> Envelope[Any]:
        """Signs a record as this node, in a private run under its newest key, or under number `keys`.

        What else is under this node's name, another node signed.
        """
        envelope = self.swarm.sign(record, keys)
        self.own.note(envelope)
        return envelope

    async def tell(self, envelope: Envelope[Any]) -> None:
        """Puts a verified envelope, of this peer or another, on the swarm's board and into gossip."""
        # of many notices at once the others ask for the rest: who gossips without end is disconnected
        is_one_of_many = envelope.record.kind == "notice" and not self._notices_told.allow("")
        if envelope.record.kind in GOSSIPED and not is_one_of_many:
            await self.swarm.gossip(envelope)
        if not await self.swarm.store(envelope):
            log.debug("the DHT kept its own newer record under %s", dht_key(envelope.record))

    def header(self, kind: str, slot: str, lifetime_s: float | None = None) -> dict[str, Any]:
        """Returns the fields that every record repeats (numbering.py)."""
        return self.numbering.header(kind, slot, lifetime_s)

    def keep(self, envelope: Envelope[Any]) -> None:
        """Puts a verified record on this node's board; listeners hear of what is new."""
        self.keep_all((envelope,))

    def keep_all(self, envelopes: Sequence[Envelope[Any]]) -> None:
        """Does as `keep` for several; notices and certificates count together before anybody hears of one."""
        word = [one for one in envelopes if isinstance(one.record, NoticeRecord | MemberRecord)]
        self._tell_listeners(self.board.take_word(word, time.time()) if word else ())
        for envelope in envelopes:
            if self.own.look_at(envelope):
                log.warning("a record under this node's key was not signed here: %s", self.own.twin)
            is_word = isinstance(envelope.record, NoticeRecord | MemberRecord)
            if not is_word and self.board.add(envelope, time.time()):
                self._tell_listeners((envelope,))

    def _tell_listeners(self, new: Sequence[Envelope[Any]]) -> None:
        for envelope in new:
            if envelope.record.kind != "claim":  # a claim changes nothing of what is kept
                self.disk_news.set()
            for listener in self.listeners:
                listener(envelope)

    def add_member(self, member: Envelope[MemberRecord]) -> bool:
        """Takes a verified member record; returns True when it tells something new."""
        return bool(self.board.take_word((member,), time.time()))

    async def refresh(self, slots: Sequence[str] = ()) -> None:
        """Reads claims and tips of the slots, or of all, from the bulletin board (record_reading.py)."""
        await self.reading.refresh(slots)

    async def ask_connected(self, *, wait_s: float | None = None) -> None:
        """Asks connected peers for all they know of the run (record_reading.py)."""
        await (self.reading.ask_connected() if wait_s is None else self.reading.ask_connected(wait_s=wait_s))

    async def read_refusals(self, slot: str) -> None:
        """Reads why this peer's newest cards were refused (record_reading.py)."""
        await self.reading.read_refusals(slot)

    # presence

    async def announce_peer(self, role: PeerRole) -> None:
        """Says that this peer is here."""
        head = self.header("peer", "", PEER_LIFETIME_S)
        await self.say(PeerRecord(**head, role=role, notices=self.chain.number))

    async def announce_holding(self, what: str) -> None:
        """Says that this peer serves the blobs of a card, or (what = run id) the data of the run."""
        await self.say(HolderRecord(**self.header("holder", "", HOLDER_LIFETIME_S), what=what))

    def known_attestors(self) -> set[str]:
        """Returns the peers that lately said they are here and may attest; bootstrap nodes and generators do
        not.
        """
        return {
            peer
            for peer, role in self.roles.items()
            if role in ("peer", "owner") and self.state.may_attest(peer)
        }

    async def attestors_connected(self) -> bool:
        """Tells whether some other peer is connected that could attest. A peer nobody heard of yet counts, if
        everybody may.
        """
        others = {peer.peer_id for peer in await self.host.swarm.peers()}
        return any(
            self.state.may_attest(peer) and self.roles.get(peer, "peer") in ("peer", "owner")
            for peer in others
        )

    async def read_peers(self) -> None:
        """Reads who says they are here, and as what, into `roles`."""
        records = await self.swarm.read(peers_key(self.run))
        for envelope in records:
            self.own.look_at(envelope)
        self.roles = {
            envelope.signer: envelope.record.role
            for envelope in records
            if isinstance(envelope.record, PeerRecord)
        }
        # Where too few are there to attest, no lead can be asked for an attested card (rules/heard.py).
        me = {self.peer_id} if self.state.may_attest(self.peer_id) else set[str]()
        self.board.hearing.attestors = frozenset(self.known_attestors() | me)
        present = [
            one for one in records if isinstance(one.record, PeerRecord) and one.signer != self.peer_id
        ]
        await self.reading.notices.hear({one.signer: one.record.notices for one in present})

    # blobs

    async def fetch(
        self, refs: Sequence[BlobRef], what: str, progress: Callable[[int], None] | None = None
    ) -> list[Path]:
        """Returns verified local files of blobs, fetched from their holders and from connected peers, several
        at once.
        """

        async def sources() -> list[str]:
            holders = await self.swarm.read(holders_key(self.run, what))
            now = time.time()
            named = [envelope.signer for envelope in holders if envelope.record.expires_at > now]
            connected = [peer.peer_id for peer in await self.host.swarm.peers()]
            trusted = {peer for peer in {*named, *connected} if self.host.knows(peer)}
            return [peer for peer in order_sources(named, connected, trusted) if peer != self.peer_id]

        self.keeping.note(ref.id for ref in refs)

        async def fetched() -> list[Path]:
            fetcher = Fetcher(self.host.swarm, self.host.store, self.host.sources)
            return await fetcher.many(refs, sources, progress)

        try:
            return await fetched()
        except DiskFullError:
            need_bytes = sum(ref.size_bytes for ref in refs if not self.host.store.has(ref.id))
            if not await asyncio.to_thread(self.host.make_room, need_bytes, [ref.id for ref in refs]):
                raise
            return await fetched()

    @asynccontextmanager
    async def readable(
        self, refs: Sequence[BlobRef], what: str, purpose: str, *, gate: bool = False
    ) -> AsyncIterator[list[Path]]:
        """Yields plain files of blobs, fetched as `fetch` does and held for `purpose` while the block lasts.

        What is sealed is in opened copies, gone afterwards; `gate` says that they are the gate's clips.
        Raises MissingKeyError where this peer has no key to one, and gets none; SealError where one that is
        whole does not open.
        """
        self.hold(purpose, {ref.id for ref in refs})
        try:
            async with AsyncExitStack() as stack:
                await self.fetch(refs, what)
                try:
                    paths = await stack.enter_async_context(self.blobs.opened(refs, gate=gate))
                except (MissingKeyError, SealError) as error:
                    missing = isinstance(error, MissingKeyError)
                    if not await (self.exchange.ask() if missing else self.blobs.heal(refs)):
                        raise
                    await self.fetch(refs, what)
                    paths = await stack.enter_async_context(self.blobs.opened(refs, gate=gate))
                yield paths
        finally:
            self.let_go(purpose)

    # what stays on this disk

    def kept_blobs(self) -> set[str]:
        """Returns the blobs that must not be evicted: the data of the run, what the tips need, and what is in
        use.
        """
        return self._tip_blobs().union(self.data_blobs(), self.keeping.good, *tuple(self._held.values()))

    def hold(self, purpose: str, blob_ids: set[str]) -> None:
        """Keeps blobs that `purpose` is using, whatever the tip does; a second call replaces them."""
        self._held[purpose] = blob_ids

    def let_go(self, purpose: str) -> None:
        """Lets blobs go that `purpose` was using."""
        self._held.pop(purpose, None)
        self.disk_news.set()

    async def forget_superseded(self) -> None:
        """Deletes checkpoints that were refused or overtaken, of those made, attested or copied here
        (rules/keeping.py). The tip's, the best's, those that wait for attestation and those in use stay.
        """
        await self.keeping.forget(self.board.slots.values(), set[str]().union(*self._held.values()))


@asynccontextmanager
async def opened(host: Host, run: Envelope[RunSpec]) -> AsyncIterator[RunNode]:
    """Joins a run on this host: it is served to others, subscribed to, and caught up with."""
    save_spec(host.settings.data_dir, run)
    node = RunNode(host, run)
    host.members[node.run] = node
    beside: list[asyncio.Task[None]] = []
    try:
        await node.swarm.subscribe(node.reading.on_gossip)
        if node.signed_spec.members_only:
            await node.membership.greet_connected()
            beside.append(asyncio.create_task(node.membership.keep_showing()))
        if node.signed_spec.private or node.spec.gate.key_hash:
            beside.append(asyncio.create_task(node.exchange.keep_up()))
        await node.ask_connected(wait_s=OPENING_S)
        await node.refresh()
        yield node
    finally:
        await end_tasks(beside)
        del host.members[node.run]
        node.swarm.unsubscribe(node.reading.on_gossip)
        await node.reading.close()
