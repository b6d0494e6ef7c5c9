"""Receipts: who made what, from signed records; what is not proven is nobody's."""

from __future__ import annotations

import pytest

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef
from paris_p2p.rules.history import lineage, thinned
from paris_p2p.rules.receipts import Receipts, run_receipts
from paris_p2p.rules.tips import Tip

from .made import NOW, SLOT, A, B, C, D, attest, card
from .test_history import RUN, grown

BLOB = BlobRef(id="03" * 32, size_bytes=9)


def counted(tips: list[Tip], merged: dict[str, tuple[Envelope[UpdateRecord], ...]] | None = None) -> Receipts:
    return run_receipts({SLOT: lineage(tips)}, merged or {}, has_crews=merged is not None)


def clips(receipts: Receipts) -> dict[str, int]:
    return {one.peer: one.clips for one in receipts.of()}


def update(by: Identity, made: int, seq: int = 1, first_clip: int = 0) -> Envelope[UpdateRecord]:
    return seal(
        by,
        UpdateRecord(
            run=RUN.id, slot=SLOT, seq=seq, issued_at=NOW, expires_at=NOW + 90, base="aa" * 32, blob=BLOB,
            steps=made // 8, clips=made, first_clip=first_clip, train_loss=1.0,
        ),
    )  # fmt: skip


def tip(of: Envelope) -> Tip:
    return Tip(of, (attest(D, of, run=RUN.id),))


def test_each_lead_gets_what_its_cards_add() -> None:
    receipts = counted(grown("aabaa"))
    assert clips(receipts) == {A.peer_id: 400, B.peer_id: 100}
    first = receipts.of(A.peer_id)[0]
    assert (first.steps, first.cards, first.updates) == (40, 4, 0)
    assert first.last_at_s - first.first_at_s == 240.0
    assert receipts.unproven_clips == {}


def test_what_was_thinned_out_is_still_its_makers_and_a_gap_is_nobodys() -> None:
    tips = grown("aaaabbb")
    assert clips(counted([tips[0], tips[3], tips[4], tips[6]])) == {A.peer_id: 400, B.peer_id: 300}
    gap = counted([tips[0], tips[3], tips[6]])
    assert clips(gap) == {A.peer_id: 400}
    assert gap.unproven_clips == {SLOT: 300}
    assert counted(tips[3:4]).unproven_clips == {SLOT: 400}


def test_going_back_takes_nothing_away_and_gives_nothing() -> None:
    tips = grown("aab")
    best = tips[0].card.record
    back = tip(card(B, tips[2].card, run=RUN.id, clips=best.clips, steps=best.steps, lowered=1))
    on = tip(card(B, back.card, run=RUN.id, lowered=1))
    receipts = counted([*tips, back, on])
    assert clips(receipts) == {A.peer_id: 200, B.peer_id: 200}


def test_a_crews_work_is_of_those_whose_updates_were_merged() -> None:
    solo = grown("a")[0]
    one, two, three = (BlobRef(id=f"{k:02x}" * 32, size_bytes=9) for k in (7, 8, 9))
    by_b, by_c = update(B, 16), update(C, 8)
    head = {"run": RUN.id, "oldest_reader": 5, "merged": "bb" * 32}
    light = {"full": solo.card.id, **head}
    first = tip(card(A, solo.card, rounds=(one,), clips=124, steps=13, **light))
    second = tip(card(A, first.card, rounds=(one, two), clips=132, steps=14, **light))
    full = tip(card(A, second.card, rounds=(one, two, three), clips=140, steps=15, **head))
    tips = [solo, first, second, full]
    own = update(A, 8, seq=3)
    merged = {one.id: (by_b, by_c), two.id: (own,)}
    receipts = counted(tips, merged)
    assert clips(receipts) == {A.peer_id: 108, B.peer_id: 16, C.peer_id: 8}
    assert receipts.unproven_clips == {SLOT: 8}  # of the third round, which is not here
    assert [(r.cards, r.updates) for r in receipts.of(A.peer_id)] == [(4, 1)]
    assert clips(counted(tips, merged | {three.id: (by_b,)})) == clips(receipts)  # an update counts once


def test_rounds_that_bring_more_than_their_card_says_prove_nothing() -> None:
    solo, one = grown("a")[0], BlobRef(id="07" * 32, size_bytes=9)
    head = {"run": RUN.id, "oldest_reader": 5, "merged": "bb" * 32, "full": solo.card.id}
    light = tip(card(A, solo.card, rounds=(one,), clips=108, steps=13, **head))
    receipts = counted([solo, light], {one.id: (update(B, 800),)})
    assert B.peer_id not in clips(receipts)
    assert receipts.unproven_clips == {SLOT: 8}


def crews_cards(
    count: int, full_every: int
) -> tuple[list[Tip], dict[str, tuple[Envelope[UpdateRecord], ...]]]:
    """Returns a solo card and a crew's `count` cards after it, each with a round of two members' updates."""
    solo = grown("a")[0]
    tips, merged, named = [solo], {}, ()
    for place in range(count):
        ref = BlobRef(id=f"{0x40 + place:02x}" * 32, size_bytes=9)
        made = tuple(update(who, 8, seq=place + 1, first_clip=8 * place) for who in (B, C))
        merged[ref.id], named = made, (*named, ref)
        is_full = (place + 1) % full_every == 0
        more = {} if is_full else {"full": solo.card.id}
        before = tips[-1].card.record
        clips, steps = before.clips + 16, before.steps + 2
        head = {"run": RUN.id, "oldest_reader": 5, "merged": "bb" * 32, "clips": clips, "steps": steps}
        tips.append(tip(card(A, tips[-1].card, rounds=named, **head, **more)))
        named = () if is_full else named
    return tips, merged


@pytest.mark.parametrize("most", [5, 6, 9])
def test_thinning_a_crews_cards_takes_nothing_from_its_members(most: int) -> None:
    tips, merged = crews_cards(12, full_every=4)
    whole = counted(tips, merged)
    assert clips(whole) == {A.peer_id: 100, B.peer_id: 96, C.peer_id: 96}
    left = thinned(tips, most)
    assert len(left) <= most
    after = counted(left, merged)
    assert clips(after) == clips(whole)
    assert after.of(A.peer_id)[0].cards == whole.of(A.peer_id)[0].cards == 13


def test_a_members_clips_count_once_however_often_they_are_signed() -> None:
    tips, merged = crews_cards(3, full_every=4)
    again = [BlobRef(id=f"{0x40 + place:02x}" * 32, size_bytes=9).id for place in range(3)]
    # the second and third round merge anew what the first did, signed again
    for place in (1, 2):
        merged[again[place]] = (update(B, 8, seq=place + 1, first_clip=0), merged[again[place]][1])
    receipts = counted(tips, merged)
    assert clips(receipts) == {A.peer_id: 100, B.peer_id: 8, C.peer_id: 24}
    assert receipts.unproven_clips == {SLOT: 16}
    two = (update(B, 8, first_clip=0), update(B, 8, seq=2, first_clip=4), update(C, 8))
    assert clips(counted(tips[:2], {again[0]: two})) == {A.peer_id: 100, B.peer_id: 8, C.peer_id: 8}


def test_after_going_back_members_train_again_and_it_counts() -> None:
    tips, merged = crews_cards(1, full_every=1)
    crew = tips[-1].card
    solo = tips[0].card.record
    back = tip(card(A, crew, run=RUN.id, clips=solo.clips, steps=solo.steps, lowered=1))
    ref = BlobRef(id="77" * 32, size_bytes=9)
    more = {"merged": "cc" * 32, "oldest_reader": 5, "clips": solo.clips + 8, "steps": solo.steps + 1}
    on = tip(card(A, back.card, run=RUN.id, lowered=1, rounds=(ref,), **more))
    merged[ref.id] = (update(B, 8, seq=9, first_clip=0),)
    assert clips(counted([*tips, back, on], merged)) == {A.peer_id: 100, B.peer_id: 16, C.peer_id: 8}


@pytest.mark.parametrize(("kept", "unproven"), [((0, 3), 48), ((3,), 148)])
def test_rounds_that_bring_more_than_a_gap_holds_prove_nothing(kept: tuple[int, ...], unproven: int) -> None:
    tips, merged = crews_cards(3, full_every=4)
    merged[next(iter(merged))] = (update(B, 800), update(C, 8))
    receipts = counted([tips[place] for place in kept], merged)
    assert receipts.unproven_clips == {SLOT: unproven}
    assert not clips(receipts).keys() & {B.peer_id, C.peer_id}


def test_in_a_run_with_crews_cards_that_are_gone_are_nobodys() -> None:
    tips = grown("aaaa")
    assert counted([tips[0], tips[3]], {}).unproven_clips == {SLOT: 300}
