"""The certificates of one run that a node knows, within bounds that no stranger and no delegate can fill for
others.

Those that have ended stay while there is room: what a member made before still counts.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress

from paris_p2p.errors import RecordError
from paris_p2p.owner_records import FOREVER_S, Admit, Revoke
from paris_p2p.rules.chain import Notice
from paris_p2p.rules.run_state import Certificate
from paris_p2p.spec import RunSpec

MAX_CERTIFICATES = 8192  # of a run
MAX_OF_A_DELEGATE = 4096  # of them, signed by one peer; a run has few delegates, and none needs more members
OWNERS_ROOM = 1024  # of a run's certificates, which no delegates take, however many there are
MAX_OF_A_PEER = 4  # certificates of one member, one of each signer
MAX_UNPROVEN = 256  # by signers that the owner has not let admit anybody, as far as is known here


class Certificates:
    """Holds one certificate of each member and signer."""

    def __init__(self, signed: RunSpec):
        self._owners = {signed.owner, signed.owner_node} - {""}
        self._signers = set(self._owners)  # who was ever let admit others: what it signed may count
        self._held: dict[str, dict[str, Certificate]] = {}  # by member, then by signer
        self._by_signer: Counter[str] = Counter()
        self._unproven: OrderedDict[str, Certificate] = OrderedDict()  # by id
        # signer -> number of the notice -> whose certificates by the signer go on, and when it was let anew
        self._revoked: dict[str, dict[int, frozenset[str]]] = {}
        self._anew_s: dict[str, dict[int, float]] = {}

    def __iter__(self) -> Iterator[Certificate]:
        # copied first: threads that answer others ask for the state, too
        return iter([one for held in list(self._held.values()) for one in list(held.values())])

    def __contains__(self, peer: object) -> bool:
        """Tells whether a peer has a certificate here that may count."""
        return peer in self._held

    def note(self, notice: Notice) -> None:
        """Learns from a notice whom the owner lets admit others, and takes what those signed; what one signed
        that is revoked goes, so that it keeps no place.
        """
        change, number = notice.record.change, notice.record.seq
        if isinstance(change, Revoke):
            self._revoked.setdefault(change.peer, {})[number] = frozenset(change.keeps)
            self._drop([one for one in self if one.signer == change.peer and self._is_void(one)])
        elif isinstance(change, Admit):
            self._anew_s.setdefault(change.peer, {})[number] = notice.record.issued_at
            if "admit" in change.rights:
                self._let(change.peer)

    def add(self, certificate: Certificate) -> bool:
        """Takes a verified certificate; returns True when it gives something new, RecordError without room.

        One takes nothing away that an earlier one of its signer gave: that is what revoking is for. One by a
        signer that may admit nobody waits: the notice that lets it may come late.
        """
        record, signer = certificate.record, certificate.signer
        if self._is_void(certificate):
            return False
        if signer not in self._signers:
            self._unproven[certificate.id] = certificate
            if len(self._unproven) > MAX_UNPROVEN:
                self._unproven.popitem(last=False)
            return False
        known = self._held.get(record.peer, {}).get(signer)
        if known is not None and not _adds(certificate, known):
            return False
        if known is None:
            self._make_place(certificate, time.time())
            self._by_signer[signer] += 1
        self._held.setdefault(record.peer, {})[signer] = certificate
        if signer in self._owners and "admit" in record.rights:
            self._let(record.peer)
        return True

    def _let(self, signer: str) -> None:
        """Takes the certificates of one that may admit others."""
        self._signers.add(signer)
        for key, one in list(self._unproven.items()):
            if one.signer == signer:
                del self._unproven[key]
                with suppress(RecordError):  # no room
                    self.add(one)

    def _make_place(self, certificate: Certificate, now_s: float) -> None:
        """Drops certificates that ended where there is no room; RecordError when none did.

        Who came first stays: a delegate that admits without end shuts out its own later ones at most.
        """
        if self._full(certificate):
            self._drop_ended(now_s)
        if why := self._full(certificate):
            raise RecordError(why)

    def _full(self, certificate: Certificate) -> str:
        peer, signer = certificate.record.peer, certificate.signer
        total = self._by_signer.total()
        by_delegates = total - sum(self._by_signer[owner] for owner in self._owners)
        limit = MAX_CERTIFICATES if signer in self._owners else MAX_OF_A_DELEGATE
        if len(self._held.get(peer, {})) >= MAX_OF_A_PEER:
            return f"{peer} has {MAX_OF_A_PEER} certificates, and no more are taken"
        if self._by_signer[signer] >= limit:
            return f"{signer} has admitted {limit} peers, and no more are taken"
        if total >= MAX_CERTIFICATES:
            return f"the run has {MAX_CERTIFICATES} members, and no more are taken"
        if signer not in self._owners and by_delegates >= MAX_CERTIFICATES - OWNERS_ROOM:
            return f"the run's delegates have admitted {by_delegates} peers, and no more are taken"
        return ""

    def _drop_ended(self, now_s: float) -> None:
        self._drop([one for one in self if one.record.expires_at <= now_s])

    def _drop(self, certificates: list[Certificate]) -> None:
        for one in certificates:
            held = self._held[one.record.peer]
            del held[one.signer]
            self._by_signer[one.signer] -= 1
            if not held:
                del self._held[one.record.peer]

    def _is_void(self, certificate: Certificate) -> bool:
        """Tells whether a certificate counts for nothing for good, since its signer was revoked
        (rules/run_state.py); notices may have come in any order.
        """
        anew_s = self._anew_s.get(certificate.signer, {})
        for number, keeps in self._revoked.get(certificate.signer, {}).items():
            until_s = min((at_s for later, at_s in anew_s.items() if later > number), default=FOREVER_S)
            if certificate.record.issued_at < until_s and certificate.record.peer not in keeps:
                return True
        return False


def _adds(new: Certificate, known: Certificate) -> bool:
    """Tells whether a later certificate of one signer for one peer gives more rights, or for longer."""
    before, after = {*known.record.rights}, {*new.record.rights}
    if not before <= after or new.record.expires_at < known.record.expires_at:
        return False
    return before < after or new.record.expires_at > known.record.expires_at
