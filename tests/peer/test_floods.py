"""Cards without a claim and attestations of cards nobody has, by the dozen: an attestor's work does not
grow with them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import cards_topic
from paris_p2p.peer.attest import Attestor
from paris_p2p.peer.seen_cards import slot_cards
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord
from paris_p2p.rules import next_check
from paris_p2p.rules.checks import Candidate
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.tips import NO_CLAIM, NO_PARENT
from paris_p2p.spec import GateSpec, TimingSpec
from tests.peer.world import Peer, World

SLOT = "expert-0"
# nothing is due by itself meanwhile
CALM = TimingSpec(claim_s=60.0, settle_s=0.1, margin_s=0.2, checkpoint_s=60.0)
MANY = 60


def claimless(
    run: str, key: Identity, number: int, parent: Envelope[CardRecord] | None = None
) -> Envelope[CardRecord]:
    """A card that follows the tip, of an epoch above everybody's, for which nobody holds a claim."""
    now, blob, last = time.time(), BlobRef(id="ab" * 32, size_bytes=10), parent.record if parent else None
    card = CardRecord(
        run=run,
        slot=SLOT,
        seq=last.seq + 1 if last else 1,
        issued_at=now,
        expires_at=now + 1000.0,
        epoch=1000 + number,
        parent=parent.id if parent else "",
        weights=blob,
        resume=blob,
        clips=(last.clips if last else 0) + 1,
        steps=(last.steps if last else 0) + 1,
        train_loss=0.1,
    )
    return seal(key, card)


def attested(key: Identity, run: str, number: int) -> Envelope[AttestationRecord]:
    """An attestation of a card that nobody has."""
    now, nobodys = time.time(), f"{number:064x}"
    attestation = AttestationRecord(
        run=run, slot=SLOT, seq=50, issued_at=now, expires_at=now + 1000.0, epoch=7, card=nobodys, loss=0.1,
        reference_loss=1.0, best=nobodys, gate_clips=4,
    )  # fmt: skip
    return seal(key, attestation)


def attestation_of(key: Identity, card: Envelope[CardRecord]) -> Envelope[AttestationRecord]:
    record = card.record
    attestation = AttestationRecord(
        run=record.run, slot=SLOT, seq=record.seq, issued_at=record.issued_at, expires_at=record.expires_at,
        epoch=record.epoch, card=card.id, loss=0.1, reference_loss=1.0, best=card.id, gate_clips=4,
    )  # fmt: skip
    return seal(key, attestation)


def candidates(attestor: Attestor) -> list[Candidate]:
    """What the attestor would decide about now."""
    cards = slot_cards(attestor.node, SLOT)
    return next_check.candidates(cards, attestor._own(SLOT, cards.tip))


def count_reads(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The readings of the board that waiting cards cause; the volunteer's own name no slot."""
    refresh, read = peer.node.refresh, list[Sequence[str]]()

    async def counted(slots: Sequence[str] = ()) -> None:
        read.extend([slots] if slots else [])
        await refresh(slots)

    monkeypatch.setattr(peer.node, "refresh", counted)
    return read


async def test_many_cards_without_a_claim_cost_one_reading_and_the_leads_card_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_key, liar = Identity.generate(), Identity.generate()
    gate = GateSpec(members_attest=False, attestors=(owner_key.peer_id,))
    async with World(tmp_path, gate=gate, timing=CALM) as world:
        owner = await world.add("owner", role="owner", identity=owner_key)
        stranger = world.network.join(liar)
        read = count_reads(owner, monkeypatch)
        for number in range(MANY):
            await stranger.publish(cards_topic(world.run.id), claimless(world.run.id, liar, number).data)
        await world.until(lambda: owner.node.refused[NO_CLAIM] == MANY)
        assert read.count([SLOT]) <= 3  # one when the first came, one when the last had
        lead = await world.add("a", slot=SLOT)
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        tip = owner.node.board.tip(SLOT)
        assert tip is not None
        assert tip.card.signer == lead.node.peer_id


async def test_the_claims_are_looked_at_once_for_all_cards_of_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, looks = Identity.generate(), list[int]()
    leads_of = next_check.leads_of

    def counted(claims: Any, *more: Any) -> Any:
        looks.append(len(claims))
        return leads_of(claims, *more)

    async with World(tmp_path, timing=CALM) as world:
        owner = await world.add("owner", role="owner")
        for number in range(MANY):
            owner.node.keep(claimless(world.run.id, liar, number))
        monkeypatch.setattr(next_check, "leads_of", counted)
        assert len(candidates(owner.volunteer.attestor)) == MANY
        assert len(looks) == 1


async def test_attestations_of_cards_that_nobody_has_cost_one_round_of_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, timing=CALM) as world:
        owner = await world.add("owner", role="owner")
        await world.add("other", role="owner")
        asked: list[str] = []
        catch_up = owner.node.reading.catch_up

        async def counted(peer: str, slots: Sequence[str] = ()) -> None:
            asked.append(peer)
            await catch_up(peer, slots)

        monkeypatch.setattr(owner.node.reading, "catch_up", counted)
        for number in range(MANY):
            liar = Identity.generate()
            owner.node.keep(attested(liar, world.run.id, number))
            await owner.node.refresh([SLOT])
        assert len(owner.node.board.attestors_of_unknown(SLOT)) == MANY
        assert asked == [world.peers[1].node.peer_id]


async def test_a_card_whose_claim_comes_later_is_attested_after_all(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        lead = await world.add("a", slot=SLOT)
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        tip = owner.node.board.tip(SLOT)
        assert tip is not None
        assert tip.card.signer == lead.node.peer_id
        owner.node.board.slots[SLOT].claims.clear()  # as if no claim had come yet
        seq = tip.card.record.seq
        await world.until(
            lambda: (now := owner.node.board.tip(SLOT)) is not None and now.card.record.seq > seq
        )


async def test_a_card_whose_parent_is_not_known_to_be_the_tip_yet_is_looked_at_again_when_it_is(
    tmp_path: Path,
) -> None:
    maker, other = Identity.generate(), Identity.generate()
    async with World(tmp_path, timing=CALM) as world:
        owner = await world.add("owner", role="owner")
        attestor = owner.volunteer.attestor
        parent = claimless(world.run.id, maker, 1)
        card = claimless(world.run.id, maker, 2, parent)
        owner.node.keep(card)
        await world.until(lambda: owner.node.refused[NO_PARENT] == 1)
        owner.node.keep(parent)
        assert [one.objection for one in candidates(attestor) if one.card == card] == [NO_PARENT]
        owner.node.keep(attestation_of(other, parent))
        assert card.id not in attestor.refusals
        assert [(one.card.id, one.objection) for one in candidates(attestor)] == [(card.id, NO_CLAIM)]
        owner.node.keep(attestation_of(other, card))
        late = claimless(world.run.id, maker, 9, parent)
        owner.node.keep(late)
        objections = [(one.card.id, one.objection) for one in candidates(attestor)]
        assert objections == [(late.id, REASONS["parent"])]
