"""One run on this host: its board of records kept fresh, its blobs fetched, seeded and announced."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import BlobError, DiskFullError, RecordError, UnreachableError, VersionError
from paris_p2p.node.board import Board
from paris_p2p.node.fetch import fetch_many
from paris_p2p.node.host import Host, save_spec, spec_path
from paris_p2p.node.kept_checkpoints import Keeping
from paris_p2p.node.twin_watch import OwnSignatures
from paris_p2p.records import (
    SIGNED_LIFETIME_S,
    BlobRef,
    CardRecord,
    HolderRecord,
    PeerRecord,
    Signed,
    cards_topic,
    claims_key,
    dht_key,
    holders_key,
    peers_key,
    refusals_key,
    tips_key,
)
from paris_p2p.rules.chunks import order_sources
from paris_p2p.rules.trust import may_attest
from paris_p2p.spec import RunSpec, ShardRef
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.swarm.limits import Reasons, kind_of

PeerRole = Literal["peer", "owner", "bootstrap", "generator"]
log = logging.getLogger(__name__)
HOLDER_LIFETIME_S = 1800.0
PEER_LIFETIME_S = 600.0
GOSSIPED = ("claim", "card", "attestation", "refusal")
MAX_ASKED = 8  # connected peers, for what the bulletin board does not tell
MAX_BAD_TOLD = 8  # records of one answer
MAX_READ_AT_ONCE = 4  # slots
KEPT_AT_ONCE = 16  # records, between two turns of the event loop
MAX_MISS_S = 60.0  # between two rounds of questions for attested cards that nobody had
T = TypeVar("T")
ASKED_S = 3.0  # what a refresh waits for their answers; what comes later is heard all the same
OPENING_S = 10.0  # the same, of a newcomer's first questions
MAX_OWING = 32  # peers that have not answered yet
CATCH_UP_LIMIT_S = 30.0  # for all that one peer is asked at once


class RunNode:
    """A member run of a Host; `opened` enters it."""

    def __init__(self, host: Host, run: Envelope[RunSpec]):
        self.host, self.run, self.spec, self.spec_data = host, run.id, run.record, run.data
        self.owner = run.signer
        self.ledger = Ledger(host.settings.data_dir / "runs" / run.id / "ledger")
        self.board = Board(run.id, run.record, self.ledger, host.identity.peer_id)
        self.roles: dict[str, str] = {}  # of the peers that said they are here
        self.own = OwnSignatures(self.peer_id, self.ledger, time.time())
        self.refused: Counter[str] = Reasons()  # reason -> records and cards
        self.board.refused = self.refused
        self.listeners: list[Callable[[Envelope[Any]], None]] = []
        self._data_blobs = {ref.id for ref in run.record.data_blobs}
        self._asked: dict[str, asyncio.Task[None]] = {}  # connected peers who have not answered yet
        self._held: dict[str, set[str]] = {}  # purpose -> blobs in use
        # slot -> tries for attested cards nobody had, and when the next is due
        self._misses: dict[str, tuple[int, float]] = {}
        self.keeping = Keeping(host.store, self.ledger, self._data_blobs)

    @property
    def peer_id(self) -> str:
        return self.host.identity.peer_id

    @property
    def spec_file(self) -> Path:
        return spec_path(self.host.settings.data_dir, self.run)

    def serves(self, blob_id: str) -> bool:
        return blob_id in self._data_blobs or blob_id in self.keeping.good or blob_id in self._tip_blobs()

    def knows(self, peer: str) -> bool:
        """Whether a peer has a part in this run that strangers cannot give themselves: named by its owner,
        or behind a tip.
        """
        if peer == self.spec.owner_node or peer in self.spec.gate.attestors:
            return True
        tips = [self.board.tip(slot) for slot in self.spec.slots]
        return any(
            tip and peer in {tip.card.signer, *(one.signer for one in tip.attestations)} for tip in tips
        )

    def records_under(self, key: str) -> list[bytes]:
        return self.board.records_under(key)

    def keep_good(self, card: CardRecord) -> None:
        """This card's blobs may be seeded: we made it, or we checked it."""
        self.keeping.keep_good(card)

    def _tip_blobs(self) -> set[str]:
        tips = [self.board.tip(slot) for slot in self.spec.slots]
        return {ref.id for tip in tips if tip for ref in (tip.card.record.weights, tip.card.record.resume)}

    # records

    async def say(self, record: Signed) -> Envelope[Any]:
        """Sign a record, keep it, and tell the others."""
        envelope = self.sign(record)
        self.keep(envelope)
        await self.tell(envelope)
        return envelope

    def sign(self, record: Signed) -> Envelope[Any]:
        """Sign a record as this node; whatever else is under its key, another node signed (twin.py)."""
        envelope = seal(self.host.identity, record)
        self.own.note(envelope)
        return envelope

    async def tell(self, envelope: Envelope[Any]) -> None:
        """Put a verified envelope, ours or another's, on the board of the swarm and into gossip."""
        if envelope.record.kind in GOSSIPED:
            await self.host.swarm.publish(cards_topic(self.run), envelope.data)
        if not await self.host.swarm.store_record(envelope):
            log.debug("the DHT kept its own newer record under %s", dht_key(envelope.record))

    def header(self, kind: str, slot: str, lifetime_s: float | None = None) -> dict[str, Any]:
        """The fields every record repeats. seq is milliseconds, never going back even when the clock does."""
        now = time.time()
        name = f"seq/{kind}/{slot or 'run'}"
        kept = self.ledger.get(name) or b"0"
        last = int(kept) if kept.isdigit() and len(kept) <= 16 else 0  # damaged: the clock alone counts
        seq = max(last + 1, int(now * 1000))
        self.ledger.put(name, str(seq).encode())
        lifetime = SIGNED_LIFETIME_S[kind] if lifetime_s is None else lifetime_s
        return {"run": self.run, "slot": slot, "seq": seq, "issued_at": now, "expires_at": now + lifetime}

    async def refresh(self, slots: Sequence[str] = ()) -> None:
        """Read claims and tips of the slots (all, when none are named) and put back tips the bulletin board
        forgot.

        Several slots at once: where a read takes long, the last one must not wait for all others.
        """
        turns = asyncio.Semaphore(MAX_READ_AT_ONCE)

        async def one(slot: str) -> None:
            async with turns:
                await self._refresh_slot(slot)

        await together(one(slot) for slot in slots or self.spec.slots)

    async def _refresh_slot(self, slot: str) -> None:
        key, swarm = tips_key(self.run, slot), self.host.swarm
        claims, found = await together(
            [swarm.read_records(claims_key(self.run, slot), self.run), swarm.read_records(key, self.run)]
        )
        await self._keep_all((*claims, *found))
        ids, now = {envelope.id for envelope in found}, time.time()
        for envelope in self.board.tip_envelopes(slot):
            if envelope.id not in ids and envelope.record.expires_at > now:
                # an older one is had from peers directly
                await swarm.store_record(envelope)
        await self._ask_for_attested(slot)

    async def _ask_for_attested(self, slot: str) -> None:
        """Cards that were attested and are not to be had from the bulletin board, from the peers that are
        connected.

        The board keeps one card of a maker: one that it made meanwhile hides the one that became the tip.
        Anybody can attest a card that nobody has: peers are asked side by side, once a slot and interval, and
        more rarely while they know nothing.
        """
        attestors, now_s = self.board.attestors_of_unknown(slot), time.monotonic()
        if not attestors:
            self._misses.pop(slot, None)
            return
        tries, next_s = self._misses.get(slot, (0, 0.0))
        if now_s < next_s:
            return
        wait_s = min(MAX_MISS_S, self.spec.timing.checkpoint_s / 2 * 2.0 ** min(tries, 20))
        self._misses[slot] = tries + 1, now_s + wait_s
        await self.ask_connected((slot,), first=attestors, enough=MAX_ASKED)
        if not self.board.attestors_of_unknown(slot):
            self._misses.pop(slot, None)

    async def ask_connected(
        self,
        slots: Sequence[str] = (),
        *,
        first: Collection[str] = (),
        enough: int = 1,
        wait_s: float = ASKED_S,
    ) -> None:
        """Ask connected peers side by side for what they know, those in `first` and those with a part in the
        run before others.

        Returns when `enough` told all and the others had as long again, at the latest after `wait_s`. Who has
        not answered by then is heard when it does, is not asked anew before, and is left after
        CATCH_UP_LIMIT_S.
        """
        connected = [
            peer.peer_id for peer in await self.host.swarm.peers() if peer.peer_id not in self._asked
        ]
        random.shuffle(connected)  # not the same ones each time, should they not know either
        connected.sort(key=lambda peer: (peer not in first, not self.knows(peer)))
        questions = {
            peer: partial(self.catch_up, peer, slots)
            for peer in connected[: min(MAX_ASKED, MAX_OWING - len(self._asked))]
        }
        answers = await ask_side_by_side(questions, enough=enough, limit_s=wait_s, extra=1.0)
        for peer, error in answers.failed.items():
            log.info("%s did not answer: %s", peer[-8:], error)
        for peer, task in answers.late.items():
            self._asked[peer] = task
            task.add_done_callback(partial(self._answered, peer))

    def _answered(self, peer: str, task: asyncio.Task[None]) -> None:
        del self._asked[peer]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("%s did not answer: %s", peer[-8:], error)

    async def stop_asking(self) -> None:
        await end_tasks(self._asked.values())

    async def catch_up(self, peer: str, slots: Sequence[str] = ()) -> None:
        """Ask one peer directly for what it knows (of all slots, when none are named): tips whose DHT
        records have gone.
        """
        try:
            async with asyncio.timeout(CATCH_UP_LIMIT_S):
                for slot in slots or self.spec.slots:
                    for key in (claims_key(self.run, slot), tips_key(self.run, slot)):
                        await self._receive_all(await self.host.swarm.fetch_records(peer, key))
        except TimeoutError as error:
            raise UnreachableError(
                f"{peer[-8:]} did not tell its records in {CATCH_UP_LIMIT_S:.0f} s"
            ) from error
        except (BlobError, RecordError) as error:
            # it refuses, or answers nonsense: no worse than not answering
            raise UnreachableError(f"{peer[-8:]} does not tell its records: {error}") from error

    async def read_refusals(self, slot: str) -> None:
        """Why this peer's newest cards were refused, beside what gossip told: from the board, and from
        connected peers.
        """
        key = refusals_key(self.run, slot)
        await self._keep_all(await self.host.swarm.read_records(key, self.run))
        connected = [peer.peer_id for peer in await self.host.swarm.peers()]
        asked = {
            peer: partial(self.host.swarm.fetch_records, peer, key)
            for peer in random.sample(connected, min(2, len(connected)))
        }
        answers = await ask_side_by_side(asked, enough=len(asked), limit_s=ASKED_S)
        await end_tasks(answers.late.values())
        for peer, error in answers.failed.items():
            log.info("%s did not tell what it knows of refusals: %s", peer[-8:], error)
        for told in answers.good.values():
            await self._receive_all(told)

    async def _on_gossip(self, sender: str, data: bytes) -> None:
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        for envelope in self._open([data]):
            self.keep(envelope)

    async def _receive_all(self, told: Sequence[bytes]) -> None:
        """What one peer told, its signatures checked in a thread: five hundred take a tenth of a second."""
        await self._keep_all(await asyncio.to_thread(self._open, told))

    def _open(self, told: Sequence[bytes]) -> list[Envelope[Any]]:
        """The records that hold; an honest peer tells no others, so that after a few bad ones the rest is
        left.
        """
        opened, bad = [], 0
        for data in told:
            try:
                opened.append(open_envelope(data, run=self.run, kinds=GOSSIPED))
            except RecordError as error:
                log.debug("a record was refused: %s", error)
                self.refused[f"record: {kind_of(error)}"] += 1
                bad += not isinstance(error, VersionError)
            if bad > MAX_BAD_TOLD:
                self.refused["records: not looked at after too many bad ones"] += 1
                break
        return opened

    async def _keep_all(self, envelopes: Sequence[Envelope[Any]]) -> None:
        """Others have turns in between: where a slot is full of strangers' records, one more takes a
        millisecond.
        """
        for number, envelope in enumerate(envelopes):
            if number % KEPT_AT_ONCE == 0:
                await asyncio.sleep(0)
            self.keep(envelope)

    def keep(self, envelope: Envelope[Any]) -> None:
        if self.own.look_at(envelope):
            log.warning("a record under this node's key was not signed here: %s", self.own.twin)
        if self.board.add(envelope, time.time()):
            for listener in self.listeners:
                listener(envelope)

    # presence

    async def announce_peer(self, role: PeerRole) -> None:
        await self.say(PeerRecord(**self.header("peer", "", PEER_LIFETIME_S), role=role))

    async def announce_holding(self, what: str) -> None:
        """Say that this peer serves the blobs of a card, or (what = run id) the run's data."""
        await self.say(HolderRecord(**self.header("holder", "", HOLDER_LIFETIME_S), what=what))

    def known_attestors(self) -> set[str]:
        """Peers that lately said they are here and may attest; bootstrap nodes and generators do not."""
        return {
            peer
            for peer, role in self.roles.items()
            if role in ("peer", "owner") and may_attest(self.spec, peer)
        }

    async def attestors_connected(self) -> bool:
        """Whether some other peer is there that could attest. A peer nobody heard of yet counts, if
        everybody may.
        """
        others = {peer.peer_id for peer in await self.host.swarm.peers()}
        return any(
            may_attest(self.spec, peer) and self.roles.get(peer, "peer") in ("peer", "owner")
            for peer in others
        )

    async def read_peers(self) -> None:
        """Who says they are here, and as what; kept in `roles`."""
        records = await self.host.swarm.read_records(peers_key(self.run), self.run)
        for envelope in records:
            self.own.look_at(envelope)
        self.roles = {
            envelope.signer: envelope.record.role
            for envelope in records
            if isinstance(envelope.record, PeerRecord)
        }
        # Where too few are there to attest, no lead can be asked for an attested card (rules/heard.py).
        me = {self.peer_id} if may_attest(self.spec, self.peer_id) else set[str]()
        self.board.hearing.attestors = frozenset(self.known_attestors() | me)

    # blobs

    async def fetch(
        self, refs: Sequence[BlobRef], what: str, progress: Callable[[int], None] | None = None
    ) -> list[Path]:
        """Verified local files of blobs, from their holders and from connected peers, several at once."""

        async def sources() -> list[str]:
            holders = await self.host.swarm.read_records(holders_key(self.run, what), self.run)
            now = time.time()
            named = [envelope.signer for envelope in holders if envelope.record.expires_at > now]
            connected = [peer.peer_id for peer in await self.host.swarm.peers()]
            trusted = {peer for peer in {*named, *connected} if self.host.knows(peer)}
            return [peer for peer in order_sources(named, connected, trusted) if peer != self.peer_id]

        self.keeping.note(ref.id for ref in refs)

        async def fetched() -> list[Path]:
            return await fetch_many(
                refs, sources, self.host.swarm, self.host.store, ledger=self.host.sources, progress=progress
            )

        try:
            return await fetched()
        except DiskFullError:
            need_bytes = sum(ref.size_bytes for ref in refs if not self.host.store.has(ref.id))
            if not await asyncio.to_thread(self.host.make_room, need_bytes, [ref.id for ref in refs]):
                raise
            return await fetched()

    async def fetch_shards(
        self, shards: Sequence[ShardRef], progress: Callable[[int], None] | None = None
    ) -> list[tuple[Path, int]]:
        """Local files of a run's shards with their clusters."""
        paths = await self.fetch([shard.blob for shard in shards], self.run, progress)
        return [(path, shard.cluster) for path, shard in zip(paths, shards, strict=True)]

    # what stays on this disk

    def kept_blobs(self) -> set[str]:
        """Blobs that must not be evicted: the run's data that is here, what the tips need, and what is in
        use.
        """
        return (self._data_blobs | self._tip_blobs() | self.keeping.good).union(*tuple(self._held.values()))

    def hold(self, purpose: str, blob_ids: set[str]) -> None:
        """Keep blobs that `purpose` is using, whatever the tip does; a second call replaces them."""
        self._held[purpose] = blob_ids

    def let_go(self, purpose: str) -> None:
        """`purpose` needs nothing any more."""
        self._held.pop(purpose, None)

    async def forget_superseded(self) -> None:
        """Delete checkpoints that were refused or overtaken, made, attested or copied here
        (rules/keeping.py).

        The tip's, the best's, those that wait for attestation and those in use stay.
        """
        await self.keeping.forget(self.board.slots.values(), set[str]().union(*self._held.values()))


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, side by side; when one fails the others are ended before its error is raised, so that
    none is left behind.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def opened(host: Host, run: Envelope[RunSpec]) -> AsyncIterator[RunNode]:
    """Join a run on this host: served to others, subscribed, and caught up."""
    save_spec(host.settings.data_dir, run)
    node = RunNode(host, run)
    host.members[node.run] = node
    try:
        await host.swarm.subscribe(cards_topic(node.run), node._on_gossip)
        await node.ask_connected(wait_s=OPENING_S)
        await node.refresh()
        yield node
    finally:
        del host.members[node.run]
        host.swarm.unsubscribe(cards_topic(node.run), node._on_gossip)
        await node.stop_asking()
