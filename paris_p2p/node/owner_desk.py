"""What an owner's commands ask of the run's node over its control API (cli/say.py): what it knows, to take
notices, who has them.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from paris_p2p.envelope import Envelope
from paris_p2p.errors import BlobError, RecordError, SwarmError, UsageError
from paris_p2p.handed_word import (
    Asked,
    CardPlace,
    HandedWord,
    Holders,
    KnownWord,
    Reply,
    Request,
    Requests,
    SlotPlaces,
    parse_passed,
)
from paris_p2p.key_box import open_gift, with_gift
from paris_p2p.kinds import notices_key
from paris_p2p.node.admitting import Asking
from paris_p2p.node.control import Question
from paris_p2p.node.owners_word import Opener, OwnersWord
from paris_p2p.node.run_node import RunNode
from paris_p2p.rules.chain import Notice, whose_fault
from paris_p2p.rules.claims import lead_of
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.veil import is_for_the_door

_HAVE_IT_S = 10.0  # for a peer to say whether it has a notice
_MAX_ASKED = 64


class OwnerDesk:
    """Answers for one node."""

    def __init__(self, node: RunNode):
        self.node = node

    @property
    def questions(self) -> dict[str, Question]:
        """Returns what may be asked, by name."""
        return {
            "word": self.word,
            "tell": self.tell,
            "holders": self.holders,
            "requests": self.requests,
            "answer": self.answer,
        }

    async def word(self, body: bytes = b"") -> KnownWord:
        """Returns what this node knows of the run's notices, members and checkpoints."""
        return known_word(self.node, [peer.peer_id for peer in await self.node.host.swarm.peers()])

    async def tell(self, body: bytes) -> Holders:
        """Takes notices and keys from the owner's commands, and tells the others.

        UsageError when they do not follow those that this node knows.
        """
        await self.take(parse_passed(HandedWord, body, "what was handed over"))
        return Holders(connected=len(await self.node.host.swarm.peers()))

    async def take(self, handed: HandedWord) -> None:
        """Takes notices and keys, and tells the others of all that was new here."""
        node = self.node
        if handed.run != node.run:
            raise UsageError(f"this node is of run {node.run[:16]}…, not of {handed.run[:16]}…")
        before = node.chain.number
        for data in handed.notices:
            self._take_keys(handed.keys)
            notice = node.word.open(data, ("notice",))
            chain = node.chain.add(notice)
            if chain.fork is not None:
                raise UsageError(f"these notices are not taken: {whose_fault(chain.fork)}")
            node.keep(notice)
        self._take_keys(handed.keys)
        if missing := node.chain.missing_below():
            raise UsageError(f"notice {missing} is missing before those that were handed over")
        for notice in node.chain.notices[before:]:
            try:
                await node.tell(notice)
            except SwarmError:
                return  # nobody is there; what the board lacks is put there at each refresh

    async def holders(self, body: bytes) -> Holders:
        """Asks the connected peers, of a members-only run its members, whether they have a notice."""
        number = parse_passed(Asked, body, "the question").number
        if not 1 <= number <= self.node.chain.number:
            raise UsageError(f"there is no notice {number}; there are {self.node.chain.number}")
        notice = self.node.chain.notices[number - 1]
        peers = [peer.peer_id for peer in await self.node.host.swarm.peers()]
        if self.node.signed_spec.members_only:  # bootstrap nodes and strangers are told nothing
            peers = [peer for peer in peers if self._may_have(peer, notice)]
        asked = {peer: partial(self._has, peer, notice) for peer in peers[:_MAX_ASKED]}
        answers = await ask_side_by_side(asked, enough=1, limit_s=_HAVE_IT_S, extra=1.0)
        await end_tasks(answers.late.values())
        for error in answers.failed.values():
            if not isinstance(error, SwarmError | BlobError | RecordError):
                raise error
        return Holders(
            connected=len(peers), have=tuple(peer for peer, has_it in answers.good.items() if has_it)
        )

    async def requests(self, body: bytes = b"") -> Requests:
        """Returns who asks to be let in."""
        return Requests(asking=tuple(_request(one) for one in self.node.admitter.requests()))

    async def answer(self, body: bytes) -> Requests:
        """Lets in who asked under a number, or says no; returns whom. UsageError where this node may not."""
        answer = parse_passed(Reply, body, "the answer")
        node = self.node
        if not node.state.may(node.peer_id, "admit"):
            raise UsageError("this peer may not let others in; the run's owner, or a delegate of its, does")
        if answer.rights:
            one = node.admitter.admit(answer.number, answer.rights, answer.until)
        else:
            one = node.admitter.deny(answer.number)
        return Requests(asking=(_request(one),))

    def _may_have(self, peer: str, notice: Notice) -> bool:
        """Tells whether a peer can have a notice: one that only stores for a private run reads no others than
        those for the door.
        """
        rights = self.node.state.rights(peer)
        reads_all = rights != {"store"} or not self.node.signed_spec.private
        return bool(rights) and (reads_all or is_for_the_door(notice.record))

    async def _has(self, peer: str, notice: Notice) -> bool:
        key = notices_key(self.node.run, notice.record.seq)
        return notice.data in await self.node.swarm.ask_records(peer, key)

    def _take_keys(self, box: bytes) -> None:
        """Keeps the keys that the notices known by now name."""
        if not box:
            return
        node = self.node
        ring = with_gift(
            node.keys.ring, open_gift(node.host.identity, box), node.state.key_hashes, node.spec.gate.key_hash
        )
        if ring != node.keys.ring:
            node.keys.keep(ring)


def _request(one: Asking) -> Request:
    named = {name: getattr(one, name) for name in Request.model_fields}
    return Request(**named)


def known_word(node: RunNode, connected: list[str]) -> KnownWord:
    """Returns what a node knows of its run's notices and members."""
    word = node.word
    return KnownWord(
        run=node.run,
        notices=tuple(notice.data for notice in word.chain.notices),
        certificates=tuple(certificate.data for certificate in word.certificates),
        names={peer: one.record.name for peer, one in node.membership.known.items() if one.record.name},
        peers=tuple(peer for peer in connected if peer != node.peer_id),
        slots=tuple(slot_places(node, slot, time.time()) for slot in node.state.slots_ever),
        fork=whose_fault(word.chain.fork) if word.chain.fork else "",
    )


def word_on_disk(home: Path, run: Envelope[RunSpec], opener: Opener) -> KnownWord:
    """Returns what a node that does not run has kept of its run's notices and members."""
    folder = home / "runs" / run.id / "ledger"
    if not folder.is_dir():
        return KnownWord(run=run.id)
    ledger = Ledger(folder)
    word = OwnersWord(run.id, run.record, ledger, opener)
    names: dict[str, str] = {}
    for _, data in ledger.items("member/"):
        try:
            member = word.open(data, ("member",))
            word.add_member(member)
            names[member.signer] = member.record.name
        except RecordError:
            continue  # damaged or over: the node asks for it again
    return KnownWord(
        run=run.id,
        notices=tuple(notice.data for notice in word.chain.notices),
        certificates=tuple(certificate.data for certificate in word.certificates),
        names={peer: name for peer, name in names.items() if name},
        fork=whose_fault(word.chain.fork) if word.chain.fork else "",
    )


def slot_places(node: RunNode, slot: str, now_s: float) -> SlotPlaces:
    """Returns a slot's newest attested cards, and the lowest epoch above all that it had.

    Epochs are those of cards, which the board bounds by the run's age, and of the lead: a stranger's claim
    of an epoch beyond all others must not raise the floor.
    """
    board = node.board
    records, view = board.slots[slot], board.view(slot)
    tips = [*([records.tip] if records.tip else []), *reversed(records.past.values())]
    lead = lead_of(view.claims, records.tip, now_s, node.spec.timing, view.heard)
    epochs = [card.record.epoch for card in (*records.cards.values(), *(tip.card for tip in tips))]
    highest = max([*epochs, *([lead.record.epoch] if lead else [])], default=0)
    return SlotPlaces(
        slot=slot,
        floor=max(highest + 1, node.state.floor_epoch(slot)),
        cards=tuple(
            CardPlace(
                card=tip.card.id, seq=tip.card.record.seq, epoch=tip.card.record.epoch, maker=tip.card.signer
            )
            for tip in tips
        ),
    )
