"""A node's part in a members-only run: its certificate, shown to the peers it meets, and those of others
(docs/protocol.md, "Members").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any

from blake3 import blake3

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import MissingBlobError, MissingKeyError, ParisError, RecordError, SwarmError
from paris_p2p.kinds import members_key
from paris_p2p.node.node_seam import NodeSeam
from paris_p2p.owner_records import CertificateRecord, MemberRecord
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)
CERTIFICATE = "certificate"  # in the ledger: this node's own
NAME = "name"  # in the ledger: what it called itself
MEMBER_LIFETIME_S = 86400.0
GREET_EVERY_S = 3.0  # a look at who is connected: a private run's peers hang up on those that say nothing
_MAX_KEPT = 8192  # members in the ledger
_READ_EVERY_S = 60.0
_GREETED_AGAIN_S = 600.0
_TRIED_AGAIN_S = 60.0  # one that did not answer as a member
_AT_ONCE = 8


def open_certificate(run: str, data: bytes) -> Envelope[CertificateRecord]:
    """Returns a certificate, verified but for its signer's right to give it; RecordError."""
    return open_envelope(data, run=run, kinds=("certificate",))


class Membership:
    """Shows this node's certificate, and takes note of the others'."""

    def __init__(self, node: NodeSeam):
        self.node, self.run, self.ledger = node, node.run, node.ledger
        self.own: Envelope[MemberRecord] | None = None
        self._greeted: dict[str, float] = {}  # peer -> when to greet it again
        self.known: dict[str, Envelope[MemberRecord]] = {}  # by peer
        self._load()

    @property
    def certificate(self) -> Envelope[CertificateRecord] | None:
        return own_certificate(self.ledger, self.run, self.node.peer_id)

    async def keep_showing(self) -> None:
        """Greets those who are connected, and tells the board at each half of a member record's life."""
        told_s = read_s = -1e9
        while True:
            try:
                if time.monotonic() - told_s > MEMBER_LIFETIME_S / 4:
                    await self.announce()
                    told_s = time.monotonic()
                if time.monotonic() - read_s > _READ_EVERY_S:
                    await self.read()
                    read_s = time.monotonic()
                await self.greet_connected()
            except SwarmError as error:
                log.info("members were not greeted this time: %s", error)
            except Exception:
                log.exception("members were not greeted this time")
            await asyncio.sleep(GREET_EVERY_S)

    async def announce(self) -> None:
        """Puts this node's certificate on the board and into gossip."""
        if (own := self.record()) is not None:
            await self.node.tell(own)

    async def read(self) -> None:
        """Reads who takes part from the board."""
        for envelope in await self.node.swarm.read(members_key(self.run)):
            self.take(envelope)

    def record(self) -> Envelope[MemberRecord] | None:
        """Returns what shows this node's certificate, signed anew when half of its life is over; None where
        there is no certificate.
        """
        certificate = self.certificate
        if certificate is None:
            return None
        left_s = self.own.record.expires_at - time.time() if self.own is not None else 0.0
        is_same = self.own is not None and self.own.record.certificate == certificate.data
        # a clock that was set back since made it one from the future
        is_young = MEMBER_LIFETIME_S / 2 <= left_s <= MEMBER_LIFETIME_S + CLOCK_SLACK_S
        if not (is_same and is_young):
            name = (self.ledger.get(NAME) or b"").decode(errors="replace")[:64]
            header = self.node.header("member", "", MEMBER_LIFETIME_S)
            try:
                self.own = self.node.sign(MemberRecord(**header, certificate=certificate.data, name=name))
                self.take(self.own)
            except SwarmError as error:  # the run has a new key, which has not come yet
                log.info("this peer's certificate cannot be shown anew: %s", error)
        return self.own

    def take(self, envelope: Envelope[Any]) -> bool:
        """Takes a verified member record; returns True when it told something new."""
        if not isinstance(envelope.record, MemberRecord) or envelope.record.run != self.run:
            return False
        is_new = self.node.add_member(envelope)
        self.note(envelope)
        return is_new

    def note(self, envelope: Envelope[Any]) -> None:
        """Remembers a verified member record, also over a restart, unless what it shows is another's."""
        record, signer = envelope.record, envelope.signer
        if signer not in self.node.word.certificates:
            return  # nobody whom the owner lets admit others admitted it
        before = self.known.get(signer)
        if not isinstance(record, MemberRecord):
            return
        if before is None and len(self.known) >= _MAX_KEPT and not self._make_place():
            return
        if before is not None and before.record.seq >= record.seq:
            return
        try:
            if open_certificate(self.run, record.certificate).record.peer != signer:
                return
        except RecordError:
            return
        self.known[signer] = envelope
        if before is None or before.record.certificate != record.certificate:
            self.ledger.put(_kept_under(signer), envelope.data)

    def _make_place(self) -> bool:
        """Forgets those that nobody vouches for any more; tells whether there is room now."""
        for peer in [peer for peer in self.known if peer not in self.node.word.certificates]:
            del self.known[peer]
            self.ledger.delete(_kept_under(peer))
        return len(self.known) < _MAX_KEPT

    def records(self, behind: Collection[str] = ()) -> list[bytes]:
        """Returns the member records that this node knows, for a peer that asks for them directly.

        First come those of the peers `behind` the tips, also of members that were or have gone: without
        their certificates nobody who comes new could tell that the tips count.
        """
        now_s, state = time.time(), self.node.state
        known = list(self.known.values())
        first = [one for one in known if one.signer in behind]
        live = [one for one in known if one.record.expires_at > now_s and state.is_member(one.signer)]
        return [one.data for one in (*first, *(one for one in live if one.signer not in behind))]

    # hello

    async def answer_hello(self, peer: str, body: bytes) -> bytes | None:
        """Takes what a peer shows of itself; returns this node's own record to a member (b"" where it needs
        none), None to everybody else.
        """
        if body:
            try:
                shown = await asyncio.to_thread(self.node.swarm.open, body, ("member",))
            except RecordError as error:
                log.info("%s shows nothing that holds: %s", peer[-8:], error)
                return None
            if shown.signer != peer or shown.record.expires_at <= time.time():
                return None  # another's: to repeat it admits nobody
            self.take(shown)
        if not self.node.state.is_member(peer):
            return None
        own = self.record()
        return b"" if own is None else own.data

    async def greet_connected(self, *, anew: bool = False) -> None:
        """Shows this node's certificate to the connected peers that have not seen it, or `anew` to all."""
        now_s = time.monotonic()
        if anew:
            self._greeted.clear()
        connected = {peer.peer_id for peer in await self.node.swarm.peers()}
        self._greeted = {peer: due_s for peer, due_s in self._greeted.items() if peer in connected}
        due = [peer for peer in connected if self._greeted.get(peer, 0.0) <= now_s]
        for start in range(0, len(due), _AT_ONCE):
            await asyncio.gather(*(self.greet(peer) for peer in due[start : start + _AT_ONCE]))

    async def greet(self, peer: str) -> bool:
        """Shows this node's certificate to a peer, and takes the one that it shows; returns True when it
        answered as a member.
        """
        self._greeted[peer] = time.monotonic() + _TRIED_AGAIN_S
        own = self.record()
        try:
            body = b"" if own is None else own.data
            answer = await self.node.host.swarm.ask(peer, "hello", self.node.public_id, body)
            if answer:
                shown = await asyncio.to_thread(self.node.swarm.open, answer, ("member",))
                if shown.signer == peer:
                    self.take(shown)
            await self._ask_for_members(peer)
            self._greeted[peer] = time.monotonic() + _GREETED_AGAIN_S
            return True
        except (ParisError, MissingBlobError) as error:
            log.debug("%s does not answer as a member: %s", peer[-8:], error)
            return False

    async def _ask_for_members(self, peer: str) -> None:
        """Takes the members that a member knows: the board forgets those that were away for a day."""
        for data in await self.node.swarm.ask_records(peer, members_key(self.run)):
            try:
                self.take(await asyncio.to_thread(self.node.swarm.open, data, ("member",)))
            except RecordError as error:
                log.info("%s tells of a member what does not hold: %s", peer[-8:], error)
                break

    def _load(self) -> None:
        """Takes the members that the ledger holds, verified again; the record's own end does not matter: what
        counts is the certificate.
        """
        for key, data in self.ledger.items("member/"):
            try:
                envelope = self.node.swarm.open(data, ("member",))
                if key != _kept_under(envelope.signer):
                    raise RecordError(f"it is of {envelope.signer}")
                self.node.add_member(envelope)
                self.known[envelope.signer] = envelope
            except MissingKeyError as error:
                log.info("%s in the ledger cannot be read yet: %s", key, error)
            except RecordError as error:
                log.info("%s in the ledger is left out: %s", key, error)
                self.ledger.delete(key)
        self.record()


def own_certificate(ledger: Ledger, run: str, peer: str) -> Envelope[CertificateRecord] | None:
    """Returns the certificate that a peer keeps for a run; None when there is none that holds now.

    A damaged one is named and deleted: the invite, or asking, gets another.
    """
    data = ledger.get(CERTIFICATE)
    if data is None:
        return None
    try:
        certificate = open_certificate(run, data)
        if certificate.record.peer != peer:
            raise RecordError(f"it is of {certificate.record.peer}, and this is {peer}")
    except RecordError as error:
        log.warning("the certificate of run %s… is left out and deleted: %s", run[:16], error)
        ledger.delete(CERTIFICATE)
        return None
    return certificate if certificate.record.expires_at > time.time() else None


def _kept_under(peer: str) -> str:
    return f"member/{blake3(peer.encode()).hexdigest()}"
