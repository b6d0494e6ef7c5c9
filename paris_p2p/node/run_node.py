"""One run on this host: its records are signed and kept (run_records.py), its blobs fetched, seeded and
announced (run_disk.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from paris_p2p.crew_records import MAX_ROUND_BYTES, UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, MissingKeyError, RecordError, SealError
from paris_p2p.kinds import holders_key, members_key
from paris_p2p.node.admitting import Admitter
from paris_p2p.node.crew_books import CrewBooks
from paris_p2p.node.fetch import Fetcher
from paris_p2p.node.history_answers import HistoryDesk
from paris_p2p.node.history_reading import HistoryReading
from paris_p2p.node.host import Host, save_spec
from paris_p2p.node.key_exchange import KeyExchange
from paris_p2p.node.membership import Membership
from paris_p2p.node.older_nodes import warn_of_older_nodes
from paris_p2p.node.record_reading import OPENING_S
from paris_p2p.node.run_disk import RunDisk
from paris_p2p.node.stock import stock_answer
from paris_p2p.node.tallies import Tallies
from paris_p2p.records import BlobRef, CardRecord, RequestKind
from paris_p2p.rules.chunks import order_sources
from paris_p2p.rules.keeping import card_blobs
from paris_p2p.rules.near import run_secrets
from paris_p2p.spec import RunSpec
from paris_p2p.store.sealing import sealed_bytes
from paris_p2p.swarm.addresses import nearest_first
from paris_p2p.swarm.asking import end_tasks

Answer = Callable[[str, bytes], Awaitable[bytes | None]]  # (peer, what it says) -> what it is told


class RunNode(RunDisk):
    """A member run of a Host; `opened` enters it."""

    def __init__(self, host: Host, run: Envelope[RunSpec]):
        super().__init__(host, run)
        self.books = CrewBooks(self.rounds)
        self.membership, self.admitter = Membership(self), Admitter(self)
        self.exchange = KeyExchange(self)
        self.history = HistoryReading(self.swarm, self.board, lambda: host.swarm)
        self._fetches = 0  # of updates, so far
        self.tallies = Tallies()
        self.listeners.append(self.membership.note)
        self.answers: dict[RequestKind, Answer] = {  # to what other peers say about this run
            "hello": self.membership.answer_hello,
            "join": self.admitter.answer,
            "key": self.exchange.answer,
            "stock": lambda _, body: stock_answer(self, body),
            "history": HistoryDesk(self.board).answer,
        }

    async def answer(self, peer: str, action: RequestKind, body: bytes) -> bytes | None:
        """Answers what a peer says; None where there is nothing to say to it."""
        return await self.answers[action](peer, body) if action in self.answers else None

    def expects(self, peer: str) -> bool:
        """Tells whether a peer is a member, or waits to be let in."""
        return self.state.is_member(peer) or peer in self.admitter.asking

    def knows(self, peer: str) -> bool:
        """Tells whether a peer has a part in this run that strangers cannot give themselves."""
        return self.board.has_part(peer)

    def near_secrets(self) -> tuple[bytes, ...]:
        """Returns what this run's tags in a local network are made of."""
        keys = [key.secret for key in self.keys.ring.keys]
        return run_secrets(self.run, self.signed_spec.private, keys)

    def records_under(self, key: str) -> list[bytes]:
        plain = self.swarm.asked(key)
        if plain == members_key(self.run):
            return self.membership.records(self.board.behind_tips())
        return self.board.records_under(plain)

    # blobs

    async def fetch(
        self, refs: Sequence[BlobRef], what: str, progress: Callable[[int], None] | None = None
    ) -> list[Path]:
        """Returns verified local files of blobs, fetched from their holders and from connected peers, several
        at once.
        """

        async def named() -> list[str]:
            holders = await self.swarm.read(holders_key(self.run, what))
            now = time.time()
            return [envelope.signer for envelope in holders if envelope.record.expires_at > now]

        return await self._fetched(refs, named, progress)

    async def fetch_update(
        self, update: Envelope[UpdateRecord], progress: Callable[[int], None] | None = None
    ) -> Path:
        """Returns the verified local file of an update, as `fetch` does.

        Its maker is asked, and connected peers: copies are with the slot's lead, bootstrap nodes and the
        owner's node. No holders are announced for it, nor looked up: a record of each update and round
        would be more traffic than a small network's update is. RecordError where it names a blob that lies
        here for another reason.
        """
        ref = update.record.blob
        if self.host.store.has(ref.id) and not self.keeping.holds(ref.id):
            raise RecordError(f"the update of {update.signer[-8:]} names a blob that is none of an update's")

        async def named() -> list[str]:
            return [update.signer]

        self._fetches += 1
        purpose = f"fetch {self._fetches}"
        self.hold(purpose, {ref.id})  # it counts as here once it is whole: a new tip would end the download
        try:
            return (await self._fetched([ref], named, progress))[0]
        finally:
            self.let_go(purpose)

    async def fetch_card(
        self, card: Envelope[CardRecord], progress: Callable[[int], None] | None = None
    ) -> tuple[BlobRef, ...]:
        """Brings everything here that a card consists of, its rounds before the updates that these name, and
        returns it. Raises as `fetch` does, and RecordError for a round that is too large.
        """
        record = card.record
        if large := [ref for ref in record.rounds if ref.size_bytes > sealed_bytes(MAX_ROUND_BYTES)]:
            raise RecordError(f"{record.slot} names a round of {large[0].size_bytes} bytes")
        await self.fetch(card_blobs(record, ()), card.id, progress)
        refs = await asyncio.to_thread(self.rounds.refs, record)
        if record.rounds:
            await self.fetch(refs, card.id, progress)
            self.note_crews()
        return refs

    async def _fetched(
        self,
        refs: Sequence[BlobRef],
        named: Callable[[], Awaitable[list[str]]],
        progress: Callable[[int], None] | None,
    ) -> list[Path]:
        async def sources() -> list[str]:
            first = await named()
            connected = [peer.peer_id for peer in nearest_first(await self.host.swarm.peers())]
            trusted = {peer for peer in {*first, *connected} if self.host.knows(peer)}
            return [peer for peer in order_sources(first, connected, trusted) if peer != self.peer_id]

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


@asynccontextmanager
async def opened(host: Host, run: Envelope[RunSpec]) -> AsyncIterator[RunNode]:
    """Joins a run on this host: it is served to others, subscribed to, and caught up with."""
    save_spec(host.settings.data_dir, run)
    node = RunNode(host, run)
    host.members[node.run] = node
    host.tagged[node.run] = node.near_secrets
    beside: list[asyncio.Task[Any]] = [asyncio.create_task(node.history.keep_up())]
    try:
        await node.swarm.subscribe(node.reading.on_gossip)
        if node.signed_spec.members_only:
            await node.membership.greet_connected()
            beside.append(asyncio.create_task(node.membership.keep_showing()))
        if node.signed_spec.private or node.spec.gate.key_hash:
            beside.append(asyncio.create_task(node.exchange.keep_up()))
        if node.signed_spec.private:
            beside.append(asyncio.create_task(warn_of_older_nodes(host.swarm, node.public_id)))
        await node.ask_connected(wait_s=OPENING_S)
        await node.refresh()
        if node.signed_spec.private and await node.exchange.ask():
            # who was away while the run got a new key could neither show itself nor read what was said since
            await node.membership.greet_connected(anew=True)
            await node.ask_connected(wait_s=OPENING_S)
            await node.refresh()
        yield node
    finally:
        await end_tasks(beside)
        del host.members[node.run], host.tagged[node.run]
        node.swarm.unsubscribe(node.reading.on_gossip)
        await node.reading.close()
