"""Lets peers into a members-only run: by a token, whose uses are counted on this disk, or by a person's word
(docs/protocol.md, "Joining").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from paris_p2p.envelope import Envelope, decode, encode, open_envelope, parse, seal
from paris_p2p.errors import RecordError, UsageError
from paris_p2p.identity import verify
from paris_p2p.invite import make_token
from paris_p2p.key_box import gift_for, seal_gift
from paris_p2p.node.membership import open_certificate
from paris_p2p.node.node_seam import NodeSeam
from paris_p2p.owner_records import (
    CertificateRecord,
    JoinAnswer,
    JoinRequest,
    Right,
    TokenRecord,
    companion_bytes,
)
from paris_p2p.rules.admission import CERTIFICATE_S, Token, certificate_rights, issued_in_order, token_fault
from paris_p2p.veil import is_for_the_door

log = logging.getLogger(__name__)
MAX_ADMITTED = 4096  # certificates by this peer: as many as others take of one signer
MAX_REQUESTS = 64  # of those who ask without a token; the longest unheard goes first
_SENT_NOTICES = 512
_OWN_TOKEN = "invite-token"  # in the ledger: that of the invite that was printed last


@dataclass(frozen=True)
class Asking:
    """Is a peer that asks to be let in, and has no token."""

    number: int  # by which a person names it
    peer: str
    other: str  # the machine's other key
    is_generator: bool
    name: str
    address: str
    asked_s: float


class Admitter:
    """The side of joining that lets in; every node that may admit has it."""

    def __init__(self, node: NodeSeam):
        self.node = node
        self.asking: dict[str, Asking] = {}  # by peer, the longest unheard first
        self.denied: dict[str, None] = {}  # peers that a person said no to, until this node's end
        self._uses: dict[str, dict[str, bytes]] = defaultdict(dict)  # token -> main peer -> certificate
        self._asked = 0
        self._turn = asyncio.Lock()  # two that race for the last use
        for key, data in node.ledger.items("token/"):
            self._load(key, data)

    @property
    def admitted(self) -> int:
        return sum(len(uses) for uses in self._uses.values())

    async def answer(self, peer: str, body: bytes) -> bytes | None:
        """Answers a `join`; None to those who are told nothing, as where the run is not here."""
        try:
            request = read_request(self.node.run, peer, body)
            token = _open_token(self.node.run, request.token) if request.token else None
        except RecordError as error:
            log.info("%s asks to be let in, with nothing that holds: %s", peer[-8:], error)
            return None
        state = self.node.state
        main = request.other if request.is_generator and request.other else peer
        if state.is_revoked(peer) or state.is_revoked(main) or not state.may(self.node.peer_id, "admit"):
            return None
        if token is None:
            return await self._answer_asking(peer, request)
        if not issued_in_order(state, token):
            return None
        async with self._turn:
            used = self._uses.get(token.record.token.hex(), {})
            why = token_fault(state, token, self.node.peer_id, self._users(token, used), main)
            if not why and main not in used and self.admitted >= MAX_ADMITTED:
                why = "full"
            if why:
                return _packed(JoinAnswer(why=why))
            if main not in used or _has_ended(self.node.run, used[main]):
                made = self._certificate(main, certificate_rights(token.record.rights), token.record)
                await asyncio.to_thread(self._note_use, token.record.token.hex(), main, made.data)
                log.info("%s was let in by a token of %s", main[-8:], token.signer[-8:])
            certificate = open_certificate(self.node.run, self._uses[token.record.token.hex()][main])
        return await self._let_in(peer, request, certificate)

    def _users(self, token: Token, used: Iterable[str]) -> set[str]:
        """Returns who came by a token to this node, or to another admitter as far as their members are known
        here.
        """
        known = [one.record for one in self.node.word.certificates]
        elsewhere = {one.peer for one in known if one.token == token.record.token and not one.companion_of}
        return {*used, *elsewhere}

    def own_token(self, uses: int, lasts_s: float) -> Token:
        """Returns a token that this node redeems, for a whole machine; the one of before while most of its
        time is left, so that an invite that was sent out is the one that is printed again.
        """
        now_s, kept = time.time(), self.node.ledger.get(_OWN_TOKEN)
        if kept is not None:
            try:
                token = _open_token(self.node.run, kept)
                first, last = token.record.issued_at, token.record.expires_at
                came = self._users(token, self._uses.get(token.record.token.hex(), {}))
                if (
                    not any(self.node.state.is_revoked(peer) for peer in came)
                    and token.record.uses == uses
                    and abs(last - first - lasts_s) < 1
                    and last - now_s > lasts_s / 2
                ):
                    return token
            except RecordError as error:
                log.warning("the token of the last invite is damaged; a new one is made: %s", error)
        token = make_token(
            self.node.host.identity,
            self.node.run,
            ("train", "attest", "generate"),
            uses=uses,
            now_s=now_s,
            until_s=now_s + lasts_s,
            admitters=[self.node.peer_id],
        )
        self.node.ledger.put(_OWN_TOKEN, token.data)
        return token

    def requests(self) -> list[Asking]:
        """Returns who asks to be let in, the newest last."""
        return sorted(self.asking.values(), key=lambda one: one.number)

    def admit(self, number: int, rights: tuple[Right, ...], until_s: float) -> Asking:
        """Lets in who asked: it gets its certificate when it asks again. UsageError."""
        one = self._numbered(number)
        main = one.other if one.is_generator and one.other else one.peer
        now_s = time.time()
        made = self._certificate(main, certificate_rights(rights), None, min(until_s, now_s + CERTIFICATE_S))
        self._note_use("asked", main, made.data)
        del self.asking[one.peer]
        return one

    def deny(self, number: int) -> Asking:
        """Tells who asked that the answer is no, when it asks again. UsageError."""
        one = self._numbered(number)
        del self.asking[one.peer]
        self.denied[one.peer] = None
        while len(self.denied) > MAX_REQUESTS:
            del self.denied[next(iter(self.denied))]
        return one

    def _numbered(self, number: int) -> Asking:
        for one in self.asking.values():
            if one.number == number:
                return one
        known = ", ".join(str(one.number) for one in self.requests()) or "none"
        raise UsageError(f"nobody asks under number {number}; there are: {known}")

    async def _answer_asking(self, peer: str, request: JoinRequest) -> bytes | None:
        main = request.other if request.is_generator and request.other else peer
        if self.node.signed_spec.members_only and self.node.state.is_member(peer):
            return _packed(await self._welcome(peer))  # by a notice, or it lost what it was given
        made = next((uses[main] for uses in self._uses.values() if main in uses), None)
        if made is not None and not _has_ended(self.node.run, made):
            return await self._let_in(peer, request, open_certificate(self.node.run, made))
        if peer in self.denied:
            return _packed(JoinAnswer(why="denied"))
        before = self.asking.pop(peer, None)
        if before is None:
            self._asked += 1
        if len(self.asking) >= MAX_REQUESTS:
            del self.asking[next(iter(self.asking))]
        number = before.number if before is not None else self._asked
        address = await self._address_of(peer)
        self.asking[peer] = Asking(
            number, peer, request.other, request.is_generator, request.name, address, time.time()
        )
        if before is None:
            log.info("%s (%s) asks to be let in", peer, request.name or "without a name")
        return None  # it learns no more than where the run is not here, until a person has decided

    async def _address_of(self, peer: str) -> str:
        connected = await self.node.host.swarm.peers()
        return next((one.addresses[0] for one in connected if one.peer_id == peer and one.addresses), "")

    async def _let_in(
        self, peer: str, request: JoinRequest, certificate: Envelope[CertificateRecord]
    ) -> bytes | None:
        """Returns what a peer needs to take part; its machine's other key gets a certificate too."""
        node, record = self.node, certificate.record
        generator = peer if request.is_generator else request.other
        pair: dict[str, Envelope[CertificateRecord]] = {record.peer: certificate}
        rights = certificate_rights(record.rights, generator=True)
        if generator and generator != record.peer and rights:
            pair[generator] = self._certificate(
                generator, rights, None, record.expires_at, companion_of=record.peer
            )
        try:
            for one in pair.values():
                node.word.add_certificate(one)
        except RecordError as error:
            log.warning("%s is not let in: %s", peer, error)
            return _packed(JoinAnswer(why="full"))
        if peer not in pair or not node.state.is_member(peer):
            return None  # its rights are none, or it was revoked since
        other = next((one.data for holder, one in pair.items() if holder != peer), b"")
        welcome = await self._welcome(peer)
        return _packed(
            welcome.model_copy(update={"certificate": pair[peer].data, "other_certificate": other})
        )

    async def _welcome(self, peer: str) -> JoinAnswer:
        """Returns what a member gets; one that may only store gets no RunSpec, for it is sealed to it."""
        spec, rights = self.node.signed_spec, self.node.state.rights(peer)
        gift = gift_for(self.node.keys.ring, rights)
        if spec.private and gift is not None and not gift.keys:
            door = [one.data for one in self.node.chain.notices if is_for_the_door(one.record)]
            return JoinAnswer(
                notices=tuple(door[:_SENT_NOTICES]),
                keys=await asyncio.to_thread(seal_gift, peer, gift),
                owner=spec.owner,
                owner_node=spec.owner_node,
                attestors=spec.gate.attestors,
            )
        return JoinAnswer(
            spec=self.node.signed_data,
            notices=tuple(one.data for one in self.node.chain.notices[:_SENT_NOTICES]),
            keys=b"" if gift is None else await asyncio.to_thread(seal_gift, peer, gift),
        )

    def _certificate(
        self,
        peer: str,
        rights: tuple[Right, ...],
        token: TokenRecord | None,
        until_s: float = 0.0,
        companion_of: str = "",
    ) -> Envelope[CertificateRecord]:
        """Signs a certificate. One that a token buys lasts as CERTIFICATE_S says: the token's own end is that
        of joining.
        """
        now_s = time.time()
        ends_s = now_s + CERTIFICATE_S if token is not None else until_s
        record = CertificateRecord(
            run=self.node.run,
            seq=int(now_s * 1000),
            issued_at=now_s,
            expires_at=ends_s,
            peer=peer,
            rights=rights,
            companion_of=companion_of,
            token=b"" if token is None else token.token,
        )
        return seal(self.node.host.identity, record)

    def _note_use(self, token: str, main: str, certificate: bytes) -> None:
        """Counts a use: on the disk first, so that no power cut gives one twice."""
        self.node.ledger.put(f"token/{token}/{blake3(main.encode()).hexdigest()}", certificate)
        self._uses[token][main] = certificate

    def _load(self, key: str, data: bytes) -> None:
        try:
            certificate = open_certificate(self.node.run, data)
        except RecordError as error:
            # It stays, and counts as used: else to damage a file would give one more use.
            log.warning("%s in the ledger is damaged; its use stays used: %s", key, error)
            self._uses[key.split("/")[1]][key] = b""
            return
        self._uses[key.split("/")[1]][certificate.record.peer] = data
        if certificate.record.expires_at > time.time():
            self.node.word.add_certificate(certificate)


def read_request(run: str, peer: str, body: bytes) -> JoinRequest:
    """Returns what a newcomer asks; RecordError when it is no request, or its other key's proof does not
    hold.
    """
    request = parse(JoinRequest, decode(body))
    if request.other:
        verify(request.other, companion_bytes(run, peer), request.proof)
    return request


def _has_ended(run: str, certificate: bytes) -> bool:
    return open_certificate(run, certificate).record.expires_at <= time.time()


def _open_token(run: str, data: bytes) -> Token:
    return open_envelope(data, run=run, kinds=("token",))


def _packed(answer: JoinAnswer) -> bytes:
    return encode(answer.model_dump(exclude_defaults=True))
