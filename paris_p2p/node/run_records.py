"""One run's records on this host: signed, told, kept, and read as others tell them.

What others say of the run is read in record_reading.py, and kept on the board (board.py). What counts of it
follows from the owner's notices (owners_word.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from paris_p2p.doctor.software import installed_version
from paris_p2p.envelope import Envelope
from paris_p2p.kinds import (
    dht_key,
    members_key,
    notices_key,
    peers_key,
    refusals_key,
    slot_keys,
)
from paris_p2p.node.board import Board
from paris_p2p.node.effective_files import EffectiveFiles
from paris_p2p.node.host import Host, spec_path
from paris_p2p.node.numbering import Numbering
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.record_reading import GOSSIPED, Reading
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.node.run_swarm import PlainRunSwarm, RunSwarm, SealedRunSwarm
from paris_p2p.node.tip_ages import TipAges
from paris_p2p.node.twin_watch import OwnSignatures
from paris_p2p.owner_records import MemberRecord, NoticeRecord
from paris_p2p.records import HolderRecord, PeerRecord, Signed
from paris_p2p.rules.chain import Chain, whose_fault
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.versions import version_number
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.limits import EventLimit, Reasons

PeerRole = Literal["peer", "owner", "bootstrap", "generator"]
log = logging.getLogger(__name__)
HOLDER_LIFETIME_S = 1800.0
PEER_LIFETIME_S = 600.0
NOTICES_PER_S, NOTICES_AT_ONCE = 1.0, 16  # by gossip; the board has all


def own_version() -> int:
    """Returns this program's version as the number that travels (rules/versions.py)."""
    return version_number(installed_version())


class RunRecords:
    """Is the part of a RunNode that has to do with records alone."""

    def __init__(self, host: Host, run: Envelope[RunSpec]):
        self.host, self.run, self.signed_spec, self.signed_data = host, run.id, run.record, run.data
        self.owner, self.run_envelope = run.signer, run
        self.ledger = Ledger(host.settings.data_dir / "runs" / run.id / "ledger")
        self.numbering = Numbering(run.id, self.ledger)
        self.keys = RunKeys(self.spec_file.parent)
        self.swarm = self._own_part()
        self.word = OwnersWord(run.id, run.record, self.ledger, self.swarm.open)
        self.keys.in_force = lambda: len(self.state.key_hashes)
        self.keys.has_part = lambda peer: peer == self.owner or self.state.is_member(peer)
        self.board = Board(run.id, run.record, self.ledger, host.identity.peer_id, self.word)
        self._effective = EffectiveFiles(host.settings.data_dir / "runs" / run.id / "work" / "spec")
        self.roles: dict[str, str] = {}  # of the peers that said they are here
        self.versions: dict[str, int] = {}  # their programs', 0 of those that told none (rules/versions.py)
        self.tip_ages = TipAges()
        self.own = OwnSignatures(self.peer_id, self.ledger, time.time())
        self.refused: Counter[str] = Reasons()  # reason -> records and cards
        self.board.refused = self.word.refused = self.refused
        self.listeners: list[Callable[[Envelope[Any]], None]] = []
        self.disk_news = asyncio.Event()  # what stays on this disk may have changed; its one reader clears it
        self._notices_told = EventLimit(per_s=NOTICES_PER_S, burst=NOTICES_AT_ONCE)
        self.reading = Reading(self.swarm, self.board, self.keep_all, self.refused)

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

    @property
    def public_id(self) -> str:
        """Returns what other peers ask for this run by."""
        return self.swarm.public_id

    @property
    def spec_file(self) -> Path:
        return spec_path(self.host.settings.data_dir, self.run)

    def spec_file_for(self, number: int | None = None) -> Path | None:
        """Returns what a job's `effective_path` is: a file with the RunSpec by the first `number` notices (by
        all that are known, when none is given); None where no notice changed it.
        """
        state = self.state
        return self._effective.path(state, state.number if number is None else number)

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
            missing=self.keys.miss,
        )

    def _askable(self) -> Iterator[str]:
        """Yields the DHT keys of which this node tells other peers what it knows."""
        for slot in self.board.slots:
            yield from slot_keys(self.run, slot, crew=self.spec.crew is not None)
            yield refusals_key(self.run, slot)
        yield members_key(self.run)
        yield from (notices_key(self.run, number) for number in range(1, self.chain.number + 1))

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
            if envelope.record.kind not in ("claim", "worker"):  # they change nothing of what is kept
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
        await self.say(PeerRecord(**head, role=role, notices=self.chain.number, v=own_version()))

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
        self.versions = {
            envelope.signer: envelope.record.v
            for envelope in records
            if isinstance(envelope.record, PeerRecord) and envelope.signer != self.peer_id
        }
        # Where too few are there to attest, no lead can be asked for an attested card (rules/heard.py).
        me = {self.peer_id} if self.state.may_attest(self.peer_id) else set[str]()
        self.board.hearing.attestors = frozenset(self.known_attestors() | me)
        present = [
            one for one in records if isinstance(one.record, PeerRecord) and one.signer != self.peer_id
        ]
        await self.reading.notices.hear({one.signer: one.record.notices for one in present})
