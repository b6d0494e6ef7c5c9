"""What a node knows of the owner's word: notices and certificates, and the state that follows from them
(rules/run_state.py).

The notices are in the ledger too, so that a restart knows them before anybody speaks.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import MissingKeyError, RecordError, SignatureError
from paris_p2p.node.certificates import Certificates
from paris_p2p.owner_records import MAX_NOTICES, MemberRecord
from paris_p2p.rules.chain import Chain, Notice
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.rules.run_state import Certificate, RunState, run_state
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)
Opener = Callable[[bytes, tuple[str, ...]], Envelope[Any]]


def plain_opener(run: str) -> Opener:
    """Returns what opens the records of a run that is not private."""
    return lambda data, kinds: open_envelope(data, run=run, kinds=kinds)


class OwnersWord:
    """Holds the notices and certificates of one run; `state` is what they make of it now."""

    def __init__(self, run: str, signed: RunSpec, ledger: Ledger, opener: Opener | None = None):
        self.run, self.signed, self.ledger = run, signed, ledger
        self.open = opener or plain_opener(run)
        self.chain = Chain(run, signed.owner)
        self.refused: Counter[str] = Counter()
        self.version = 0  # counts what changed: those who keep what follows from the state look at it
        self.certificates = Certificates(signed)
        self._state: RunState | None = None
        self._due_s = 0.0  # when the clock alone may change the state
        self._load()

    @property
    def state(self) -> RunState:
        """Returns what the run is now; the same object until a record came or a date passed."""
        now_s = time.time()
        if self._state is None or not self._state.now_s <= now_s < self._due_s:
            self._state = run_state(self.run, self.signed, self.chain.notices, now_s, self.certificates)
            self._due_s = self._state.next_date_s()
        return self._state

    @property
    def spec(self) -> RunSpec:
        """Returns the owner's RunSpec with all that notices changed."""
        return self.state.spec

    def add_notice(self, notice: Notice) -> bool:
        """Takes a verified notice, keeps it in the ledger, and returns True when the chain grew or forked.

        One that comes before its predecessor waits in memory. One of another's key is counted and ignored.
        """
        before = self.chain
        try:
            self.chain = before.add(notice)
        except SignatureError as error:
            self.refused["notice: not the owner's"] += 1
            log.info("%s", error)
            return False
        if self.chain.fork is not None and before.fork is None:
            self.ledger.put("fork", msgpack.packb([one.data for one in self.chain.fork]))
        for new in self.chain.notices[before.number :]:
            self.certificates.note(new)
            # hundreds may come at once, and every peer has them
            self.ledger.put(notice_name(new.record.seq), new.data, durable=False)
            if words := from_the_future(new, time.time()):
                log.warning("%s", words)
        if self.chain.number == before.number and (self.chain.fork is None) == (before.fork is None):
            return False
        self._changed()
        return True

    def add_member(self, member: Envelope[MemberRecord]) -> bool:
        """Takes the certificate that a verified member record shows; returns True when it is new.

        Raises RecordError for one that is not the signer's own, or finds no room.
        """
        certificate = self.open(member.record.certificate, ("certificate",))
        if certificate.record.peer != member.signer:
            raise RecordError(
                f"{member.signer} shows the certificate of {certificate.record.peer}; that admits nobody else"
            )
        return self.add_certificate(certificate)

    def add_certificate(self, certificate: Certificate) -> bool:
        """Takes a verified certificate; returns True when it gives something new. RecordError without room.

        One that has ended is taken too: what the member made before still counts.
        """
        try:
            is_new = self.certificates.add(certificate)
        except RecordError:
            self.refused["member: no room"] += 1
            raise
        if is_new:
            self._changed()
        return is_new

    def _changed(self) -> None:
        self._state = None
        self.version += 1

    def _load(self) -> None:
        """Takes what the ledger holds, verified again; what is damaged is named, deleted, and asked for
        again.
        """
        for key, data in self.ledger.items("notice/"):
            try:
                notice = self.open(data, ("notice",))
                if key != notice_name(notice.record.seq):
                    raise RecordError(f"it holds notice {notice.record.seq}")
                self.chain = self.chain.add(notice)
            except MissingKeyError as error:
                log.info("%s in the ledger cannot be read yet: %s", key, error)
            except RecordError as error:
                log.warning("%s in the ledger is damaged and deleted, it is asked for again: %s", key, error)
                self.ledger.delete(key)
        self._load_members()
        if (kept := self.ledger.get("fork")) is None or self.chain.fork is not None:
            return
        try:
            one, other = (self.open(part, ("notice",)) for part in msgpack.unpackb(kept))
            if self.chain.owner not in (one.signer, other.signer) or one.signer != other.signer:
                raise RecordError("it is not signed by the owner")
            self.chain = replace(self.chain, fork=(one, other))
        except MissingKeyError as error:
            log.info("fork in the ledger cannot be read yet: %s", error)
        except (RecordError, ValueError, TypeError, msgpack.UnpackException) as error:
            log.warning("fork in the ledger is damaged and deleted, the swarm has it too: %s", error)
            self.ledger.delete("fork")

    def _load_members(self) -> None:
        """Takes the members that membership.py kept, before anything is counted; damage is its matter."""
        for notice in self.chain.notices:
            self.certificates.note(notice)
        for _, data in self.ledger.items("member/"):
            try:
                self.add_member(self.open(data, ("member",)))
            except RecordError as error:
                log.debug("a member in the ledger is left out: %s", error)


def from_the_future(notice: Notice, now_s: float) -> str:
    """Returns what a person is told of a notice that is dated after now; empty for others. It counts all the
    same: the chain must not break.
    """
    ahead_s = notice.record.issued_at - now_s
    if ahead_s <= CLOCK_SLACK_S:
        return ""
    return (
        f"notice {notice.record.seq} of the run's owner is dated {ahead_s:.0f} s after what this machine's "
        "clock says: this machine's clock is behind, or the owner's was ahead; it counts all the same, "
        "set the one that is wrong"
    )


def notice_name(number: int) -> str:
    """Returns a notice's key in the ledger; names in order are numbers in order."""
    return f"notice/{number:0{len(str(MAX_NOTICES))}}"
