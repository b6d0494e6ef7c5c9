"""One run on this host: its records are signed and kept (run_records.py), its blobs fetched, seeded and
announced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, MissingKeyError, SealError
from paris_p2p.kinds import holders_key, members_key
from paris_p2p.node.admitting import Admitter
from paris_p2p.node.fetch import Fetcher
from paris_p2p.node.host import Host, save_spec
from paris_p2p.node.kept_checkpoints import Keeping
from paris_p2p.node.key_exchange import KeyExchange
from paris_p2p.node.membership import Membership
from paris_p2p.node.older_nodes import warn_of_older_nodes
from paris_p2p.node.open_copies import OPEN, OpenCopies, work_folder
from paris_p2p.node.record_reading import OPENING_S
from paris_p2p.node.run_blobs import RunBlobs
from paris_p2p.node.run_records import RunRecords
from paris_p2p.node.stock import stock_answer
from paris_p2p.owner_records import AddClips
from paris_p2p.records import BlobRef, CardRecord, RequestKind
from paris_p2p.rules.chunks import order_sources
from paris_p2p.rules.trust import Thing
from paris_p2p.spec import RunSpec
from paris_p2p.swarm.asking import end_tasks

Answer = Callable[[str, bytes], Awaitable[bytes | None]]  # (peer, what it says) -> what it is told


class RunNode(RunRecords):
    """A member run of a Host; `opened` enters it."""

    def __init__(self, host: Host, run: Envelope[RunSpec]):
        super().__init__(host, run)
        self._data_of = -1  # the number of the notice that the next two are of
        self._data: frozenset[str] = frozenset()
        self._data_things: dict[str, set[Thing]] = {}  # of all that the owner ever gave
        self._held: dict[str, set[str]] = {}  # purpose -> blobs in use
        self.keeping = Keeping(host.store, self.ledger, self.data_blobs, self.disk_news.set)
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

    def data_blobs(self) -> frozenset[str]:
        """Returns the blobs that the owner gave, by the RunSpec of now."""
        self._know_data()
        return self._data

    def _know_data(self) -> None:
        """Notes what the owner's blobs are to this run, also of those that notices took out: cards of before
        are judged on them.
        """
        if self._data_of == self.chain.number:
            return
        things: dict[str, set[Thing]] = {ref.id: {"data"} for ref in self.signed_spec.data_blobs}
        for shard in self.signed_spec.gate_shards:
            things[shard.blob.id] = {"gate"}
        for shard in self.signed_spec.train_shards:
            things[shard.blob.id].add("data")
        for notice in self.chain.notices:
            change = notice.record.change
            for added in change.shards if isinstance(change, AddClips) else ():
                things.setdefault(added.blob.id, set()).add("gate" if added.split == "gate" else "data")
        self._data_of, self._data_things = self.chain.number, things
        self._data = frozenset(ref.id for ref in self.spec.data_blobs)

    def things(self, blob_id: str) -> set[Thing]:
        """Returns what a blob is to this run: rights differ (rules/trust.py)."""
        self._know_data()
        found = set(self._data_things.get(blob_id, ()))
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

    def serves(self, blob_id: str) -> bool:
        self._know_data()
        is_data = blob_id in self._data_things
        return is_data or blob_id in self.keeping.good or blob_id in self._tip_blobs()

    def knows(self, peer: str) -> bool:
        """Tells whether a peer has a part in this run that strangers cannot give themselves."""
        return self.board.has_part(peer)

    def records_under(self, key: str) -> list[bytes]:
        plain = self.swarm.asked(key)
        if plain == members_key(self.run):
            return self.membership.records(self.board.behind_tips())
        return self.board.records_under(plain)

    def keep_good(self, card: CardRecord) -> None:
        """Lets this card's blobs be seeded: this peer made it, or checked it."""
        self.keeping.keep_good(card)

    def _tip_blobs(self) -> set[str]:
        tips = [self.board.tip(slot) for slot in self.board.slots]
        return {ref.id for tip in tips if tip for ref in (tip.card.record.weights, tip.card.record.resume)}

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
    beside: list[asyncio.Task[Any]] = []
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
        del host.members[node.run]
        node.swarm.unsubscribe(node.reading.on_gossip)
        await node.reading.close()
