"""A slot's lineage from its past tips: links, lines, what counts, and what may be thinned out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.owner_records import Revoke, RevokeCard
from paris_p2p.rules.history import history_lines, lineage, missing, proven, thinned
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import GateSpec

from .made import NOW, A, B, C, D, attest, card
from .made_notices import made_run, state_of

RUN = made_run(created_at=NOW - 1e6, gate=GateSpec(members_attest=False, attestors=(C.peer_id, D.peer_id)))
STATE = state_of(RUN)


def grown(makers: str, *, every_s: float = 60.0) -> list[Tip]:
    """Tips whose makers are named by letters, one after the other."""
    tips: list[Tip] = []
    for place, name in enumerate(makers):
        parent = tips[-1].card if tips else None
        one = card({"a": A, "b": B}[name], parent, run=RUN.id, issued_at=NOW - 9e4 + every_s * place)
        signed = attest(D, one, loss=2.0 - 0.01 * place, run=RUN.id, issued_at=one.record.issued_at + 5)
        tips.append(Tip(one, (signed,)))
    return tips


def test_a_whole_lineage_has_a_line_for_each_tip_with_what_it_added() -> None:
    tips = grown("aab")
    links = lineage([tips[2], tips[0], tips[1]])
    assert [link.kind for link in links] == ["first", "parent", "parent"]
    lines = history_lines(links)
    assert [(line.seq, line.added_clips, line.added_steps) for line in lines] == [
        (1, 100, 10),
        (2, 100, 10),
        (3, 100, 10),
    ]
    assert lines[0].seconds is None
    assert [line.seconds for line in lines[1:]] == [60.0, 60.0]
    assert lines[2].lead == B.peer_id
    assert lines[2].clips_per_s == pytest.approx(100 / 60)
    assert missing(links) == 0


def test_what_is_missing_between_two_makers_is_a_gap_and_between_one_makers_cards_is_not() -> None:
    tips = grown("aaaabbb")
    links = lineage([tips[0], tips[3], tips[6]])
    assert [link.kind for link in links] == ["first", "same", "gap"]
    lines = history_lines(links)
    assert [line.added_clips for line in lines] == [100, 300, None]
    assert [line.tips for line in lines] == [1, 3, None]
    assert missing(links) == 2
    assert missing(lineage(tips[5:])) == 5


def test_an_attested_card_that_was_overtaken_is_in_no_lineage() -> None:
    tips = grown("aaa")
    rival = card(B, tips[0].card, run=RUN.id, issued_at=NOW - 8e4)  # of the second's place
    later = card(B, tips[2].card, run=RUN.id, issued_at=NOW - 7e4)
    links = lineage([*tips, Tip(rival, (attest(D, rival, run=RUN.id),)), Tip(later, (attest(D, later),))])
    assert rival.id not in {link.tip.card.id for link in links}
    assert [link.tip.card.record.seq for link in links] == [1, 2, 3, 4]


def test_a_slot_that_goes_back_adds_nothing_and_takes_nothing_away() -> None:
    tips = grown("aaa")
    best = tips[0].card.record
    back = card(A, tips[2].card, run=RUN.id, clips=best.clips, steps=best.steps, lowered=1)
    on = card(A, back, run=RUN.id, lowered=1)
    links = lineage([*tips, *(Tip(one, (attest(D, one, run=RUN.id),)) for one in (back, on))])
    assert [link.clips for link in links] == [100, 100, 100, 0, 100]
    assert history_lines(links)[3].clips == 100


def test_only_a_quorum_of_peers_that_were_allowed_to_attest_makes_a_tip() -> None:
    tip = grown("a")[0]
    assert proven(tip, STATE, NOW) == tip
    own, stranger = attest(A, tip.card, run=RUN.id), attest(B, tip.card, run=RUN.id)
    assert proven(Tip(tip.card, (own, stranger)), STATE, NOW) is None
    moved = attest(D, tip.card, run=RUN.id, seq=7)
    of_another = attest(D, card(A, run=RUN.id, clips=5), run=RUN.id)
    assert proven(Tip(tip.card, (moved, of_another)), STATE, NOW) is None
    both = Tip(tip.card, (*tip.attestations, stranger, tip.attestations[0]))
    assert proven(both, STATE, NOW) == tip
    two = state_of(made_run(created_at=NOW - 1e6, gate=replace_gate(2)))
    assert proven(tip, two, NOW) is None


def replace_gate(quorum: int) -> GateSpec:
    return GateSpec(members_attest=False, attestors=(C.peer_id, D.peer_id), quorum=quorum)


def test_what_the_owner_took_back_is_a_tip_no_more() -> None:
    tips = grown("aaa")
    floor = RevokeCard(slot="expert-0", card=tips[1].card.id, place=2, floor=9)
    state = state_of(RUN, floor)
    assert [proven(tip, state, NOW) is not None for tip in tips] == [True, False, False]
    revoked = state_of(RUN, Revoke(peer=D.peer_id, since=0.0))
    assert all(proven(tip, revoked, NOW) is None for tip in tips)


def test_numbers_that_cannot_be_are_no_history() -> None:
    absurd = card(A, run=RUN.id, seq=1, clips=1 << 52)
    assert proven(Tip(absurd, (attest(D, absurd, run=RUN.id),)), STATE, NOW) is None


@given(st.text("ab", min_size=1, max_size=40), st.integers(1, 40))
def test_thinning_never_loses_who_made_what(makers: str, most: int) -> None:
    tips = grown_fast(makers)
    left = thinned(tips, most)
    assert len(left) <= most
    assert left[-1] is tips[-1]
    edges = sum(1 for place in range(len(tips)) if is_edge(makers, place))
    links = lineage(left)
    if most >= edges:  # nothing but the middle of a maker's own stretch went
        assert missing(links) == 0
        assert by_maker(links) == by_maker(lineage(tips))


def is_edge(makers: str, place: int) -> bool:
    return makers[max(0, place - 1) : place + 2] != makers[place] * 3


def by_maker(links: object) -> dict[str, int]:
    counts: dict[str, int] = {}
    for link in links:  # type: ignore[attr-defined]
        counts[link.tip.card.signer] = counts.get(link.tip.card.signer, 0) + link.clips
    return counts


_GROWN: dict[str, list[Tip]] = {}


def grown_fast(makers: str) -> list[Tip]:
    """The same tips, signed once for each beginning."""
    if makers not in _GROWN:
        before = grown_fast(makers[:-1]) if len(makers) > 1 else []
        parent = before[-1].card if before else None
        one = card({"a": A, "b": B}[makers[-1]], parent, run=RUN.id)
        _GROWN[makers] = [*before, replace(Tip(one, ()), attestations=(attest(D, one, run=RUN.id),))]
    return _GROWN[makers]
