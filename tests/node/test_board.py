"""The board under floods and crashes: what matters stays, what a stranger can make without number is
bounded.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key, tips_key
from paris_p2p.node.board import Board
from paris_p2p.node.crowd import MAX_ATTESTATIONS, MAX_CARDS, MAX_CLAIMS
from paris_p2p.records import CardRecord
from paris_p2p.rules.claims import decide_claim, epoch_to_publish, lead_of
from paris_p2p.spec import GateSpec, RunSpec
from paris_p2p.store.ledger import Ledger
from tests.peer.world import World
from tests.rules.made import NOW, PEERS, RUN, SLOT, TIMING, attest, card, claim

A, B, C, D, E, F = PEERS


class Crash(BaseException):
    """The power goes."""


def strangers(count: int) -> list[Identity]:
    return [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1000, 1000 + count)]


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    """Only C and D may attest."""
    return World(
        tmp_path / "world",
        gate=GateSpec(members_attest=False, attestors=(C.peer_id, D.peer_id)),
        timing=TIMING,
    ).run.record


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def board(spec: RunSpec, ledger: Ledger) -> Board:
    return Board(RUN, spec, ledger)


def with_tip(board: Board, maker: Identity = A) -> Envelope[CardRecord]:
    """A tip that `maker` made under a claim it still holds."""
    board.add(claim(maker, claimed_at=NOW - 50, issued_at=NOW), NOW)
    first = card(maker, weights={"id": "03" * 32, "size_bytes": 1})
    assert board.add(first, NOW)
    assert board.add(attest(D, first), NOW)
    return first


def lead(board: Board) -> str:
    found = lead_of(board.claims(SLOT), board.tip(SLOT), NOW + 1, TIMING)
    return found.signer if found else ""


def tip_id(board: Board) -> str:
    tip = board.tip(SLOT)
    return tip.card.id if tip else ""


# claims


@pytest.mark.parametrize(("here", "wasted"), [((A,), 0), ((A, C), 0), ((A, C, D), 1), (None, 1)])
def test_time_is_wasted_only_while_enough_are_here_to_sign_a_card_of_the_lead(
    tmp_path: Path, here: tuple[Identity, ...] | None, wasted: int
) -> None:
    gate = GateSpec(quorum=2)
    board = Board(
        RUN, World(tmp_path / "world", gate=gate, timing=TIMING).run.record, Ledger(tmp_path / "ledger")
    )
    board.hearing.attestors = None if here is None else frozenset(peer.peer_id for peer in here)
    patience_s = board.hearing.heard(SLOT).patience_s
    now_s = NOW
    while now_s < NOW + 1.5 * patience_s:
        board.add(claim(A, claimed_at=NOW, issued_at=now_s), now_s)
        now_s += TIMING.claim_s / 3
    assert board.hearing.heard(SLOT).wasted(A.peer_id, now_s) == wasted
    assert board.hearing.heard(SLOT).places(now_s) == 1 + wasted


def test_a_flood_of_claims_stays_bounded_and_cannot_displace_the_tips_maker(board: Board) -> None:
    with_tip(board)
    for stranger in strangers(2 * MAX_CLAIMS):
        board.add(claim(stranger, epoch=2), NOW)
    assert len(board.claims(SLOT)) == MAX_CLAIMS
    assert lead(board) == A.peer_id


@pytest.mark.parametrize("backdated_s", [-1.0, 0.0, 60.0], ids=["later", "same time", "backdated"])
def test_a_flood_of_claims_cannot_displace_the_first_live_one(board: Board, backdated_s: float) -> None:
    board.add(claim(A), NOW)
    for stranger in strangers(2 * MAX_CLAIMS):
        board.add(claim(stranger, claimed_at=NOW - backdated_s, issued_at=NOW + 0.5), NOW)
    assert len(board.claims(SLOT)) == MAX_CLAIMS
    assert A.peer_id in {held.signer for held in board.claims(SLOT)}


def test_a_flood_before_an_honest_claim_does_not_keep_it_out_when_it_says_to_be_first(board: Board) -> None:
    for stranger in strangers(2 * MAX_CLAIMS):
        board.add(claim(stranger, claimed_at=NOW + 0.5), NOW)
    assert board.add(claim(A), NOW)
    assert lead(board) == A.peer_id


def test_claims_that_cannot_lead_go_before_live_ones(board: Board) -> None:
    for stranger in strangers(MAX_CLAIMS):
        board.add(claim(stranger, epoch=0), NOW)
    honest = [claim(peer) for peer in PEERS]
    assert all(board.add(one, NOW) for one in honest)
    assert {peer.peer_id for peer in PEERS} <= {held.signer for held in board.claims(SLOT)}


def test_renewing_keeps_a_claims_place_and_lapsing_loses_it(board: Board) -> None:
    for peer in (A, B):
        board.add(claim(peer), NOW)
    board.add(claim(A, claimed_at=NOW, issued_at=NOW + 40), NOW + 40)
    assert [held.signer for held in board.claims(SLOT)] == [A.peer_id, B.peer_id]
    board.add(claim(A, claimed_at=NOW + 999), NOW + 999)
    assert [held.signer for held in board.claims(SLOT)] == [B.peer_id, A.peer_id]


def test_only_the_newest_claim_of_a_signer_counts(board: Board) -> None:
    assert board.add(claim(A, issued_at=NOW + 1, released=True), NOW + 1)
    assert not board.add(claim(A), NOW + 1)
    assert lead(board) == ""


# cards


def test_a_flood_of_cards_stays_bounded_and_cannot_displace_tip_best_or_the_leads_card(board: Board) -> None:
    first = with_tip(board)
    second = card(A, first)
    board.add(second, NOW)
    # a little worse: the best one stays the first
    board.add(attest(D, second, loss=1.02, best=first.id), NOW)
    waiting = card(A, second)
    board.add(waiting, NOW)
    for stranger in strangers(2 * MAX_CARDS):
        board.add(card(stranger, second), NOW)
    slot = board.slots[SLOT]
    assert len(slot.cards) == len(slot.seen_at_s) == MAX_CARDS
    assert {first.id, second.id, waiting.id} <= set(slot.cards)
    assert tip_id(board) == second.id


def test_a_lead_that_floods_with_cards_cannot_displace_an_attested_one(
    board: Board, tmp_path: Path, spec: RunSpec
) -> None:
    spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"quorum": 2})})
    board = Board(RUN, spec, Ledger(tmp_path / "two"))
    board.add(claim(A), NOW)
    half = card(A)
    board.add(half, NOW)
    board.add(attest(C, half), NOW)
    for steps in range(2 * MAX_CARDS):
        board.add(card(A, steps=1000 + steps), NOW)  # all for the same place
    assert board.add(attest(D, half), NOW)
    assert tip_id(board) == half.id


def test_a_peer_that_asks_directly_is_told_the_leads_card_whatever_strangers_sent(board: Board) -> None:
    first = with_tip(board)
    waiting = card(A, first)
    board.add(waiting, NOW)
    for stranger in strangers(40):
        board.add(card(stranger, first), NOW)
    told = board.records_under(tips_key(RUN, SLOT))
    assert {first.data, waiting.data} <= set(told)
    assert len(told) <= 10
    assert len(board.records_under(claims_key(RUN, SLOT))) == 1
    assert (
        board.records_under(tips_key("00" * 32, SLOT))
        == board.records_under(tips_key(RUN, "expert-77"))
        == []
    )
    assert board.records_under("nonsense") == []


@pytest.mark.parametrize("backwards", [True, False])
def test_cards_wait_until_they_are_attested_and_old_ones_never_become_the_tip(
    board: Board, backwards: bool
) -> None:
    first = card(A)
    second, third = card(A, first), card(A, card(A, first))
    line = [first, second, third]
    for one in reversed(line) if backwards else line:
        board.add(one, NOW)
    assert [one.id for one in board.pending(SLOT)] == [
        one.id for one in (reversed(line) if backwards else line)
    ]
    board.add(attest(D, second), NOW)
    board.add(attest(D, first), NOW)
    assert tip_id(board) == second.id
    assert [one.id for one in board.pending(SLOT)] == [third.id]


def test_a_copy_of_a_card_signed_by_a_stranger_is_another_card_and_gets_none_of_its_attestations(
    board: Board,
) -> None:
    made = card(A)
    assert board.add(card(B), NOW)  # the same payload, and it comes first
    assert board.add(made, NOW)
    assert board.add(attest(D, made), NOW)
    tip = board.tip(SLOT)
    assert tip is not None
    assert tip.card.signer == A.peer_id


# attestations


def test_attestations_by_peers_who_may_not_attest_are_ignored(board: Board) -> None:
    made = card(A)
    board.add(made, NOW)
    assert not any(board.add(attest(stranger, made), NOW) for stranger in (B, E, F, *strangers(50)))
    assert not board.slots[SLOT].attestations
    assert board.tip(SLOT) is None
    assert board.add(attest(D, made), NOW)
    assert tip_id(board) == made.id


def test_an_attestor_that_floods_is_bounded_and_displaces_nobody_elses(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.crowd.MAX_ATTESTATIONS", 40)
    first = with_tip(board)
    early = card(A, first)
    assert board.add(attest(C, early), NOW)  # it comes before its card
    for number in range(100):
        board.add(attest(D, first, card=f"{number:064x}", best=first.id), NOW)
    assert len(board.slots[SLOT].attestations) == 40 < MAX_ATTESTATIONS
    board.add(early, NOW)
    assert tip_id(board) == early.id


def test_a_peer_that_asks_directly_is_told_who_attested_what_waits(
    board: Board, spec: RunSpec, tmp_path: Path
) -> None:
    spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"quorum": 2})})
    board, newcomer = Board(RUN, spec, Ledger(tmp_path / "two")), Board(RUN, spec, Ledger(tmp_path / "new"))
    half, other = card(A), card(A, steps=1000)
    for one in (half, other, attest(C, half), attest(D, other)):
        board.add(one, NOW)
    for data in board.records_under(tips_key(RUN, SLOT)):
        newcomer.add(open_envelope(data, run=RUN), NOW)
    assert newcomer.epochs_used(SLOT) == board.epochs_used(SLOT) == {1: {half.id, other.id}}


def test_a_later_attestation_of_the_tip_counts_too_and_does_not_make_it_younger(board: Board) -> None:
    first = with_tip(board)
    board.add(attest(C, first, loss=0.5), NOW + 30)
    tip = board.tip(SLOT)
    assert tip is not None
    assert len(tip.attestations) == 2
    assert board.slots[SLOT].tip_since_s == NOW


def test_a_tip_never_goes_back_when_its_records_are_dropped(board: Board) -> None:
    first = with_tip(board)
    second = card(A, first)
    board.add(second, NOW)
    board.add(attest(C, second), NOW)
    board.slots[SLOT].attestations.clear()
    board.add(attest(C, first), NOW)
    assert tip_id(board) == second.id


# restart


def test_a_restart_knows_the_tips(board: Board, spec: RunSpec, ledger: Ledger) -> None:
    first = with_tip(board)
    board.add(attest(C, first), NOW)
    again = Board(RUN, spec, ledger).tip(SLOT)
    assert again is not None
    assert again.card.data == first.data
    assert {one.signer for one in again.attestations} == {C.peer_id, D.peer_id}


def test_a_crash_while_a_new_tip_is_written_leaves_the_old_or_the_new_one(
    board: Board, spec: RunSpec, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = with_tip(board)
    second = card(A, first)
    board.add(second, NOW)
    writes = 0
    put = Ledger.put

    def die_at(number: int) -> None:
        def dying(self: Ledger, key: str, data: bytes) -> None:
            nonlocal writes
            writes += 1
            if writes > number:
                raise Crash
            put(self, key, data)

        monkeypatch.setattr(Ledger, "put", dying)

    again = board
    for number in (0, 1):  # the tip before is written first, among those that were
        writes = 0
        die_at(number)
        with pytest.raises(Crash):
            again.add(attest(D, second), NOW)
        assert tip_id(Board(RUN, spec, ledger)) == first.id
        monkeypatch.setattr(Ledger, "put", put)
        again = Board(RUN, spec, ledger)
        again.add(second, NOW)
    writes = 0
    die_at(2)
    again.add(attest(D, second), NOW)
    assert tip_id(Board(RUN, spec, ledger)) == second.id


@pytest.mark.parametrize(
    "damage", [b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb([b"no envelope"]), msgpack.packb({"a": 1})]
)
def test_a_damaged_tip_in_the_ledger_is_forgotten_not_fatal(
    spec: RunSpec, ledger: Ledger, damage: bytes
) -> None:
    ledger.put(f"tip/{SLOT}", damage)
    board = Board(RUN, spec, ledger)
    assert board.tip(SLOT) is None
    assert ledger.get(f"tip/{SLOT}") is None
    assert tip_id(board) == "" != with_tip(board).id == tip_id(board)


TOP = (1 << 53) - 1


def forged(spec: RunSpec, **numbers: int) -> list[Envelope[Any]]:
    """A card of blobs that nobody has, with as many attestations as the quorum asks for."""
    made = card(B, parent="cd" * 32, **({"seq": TOP, "epoch": TOP} | numbers))
    return [made, attest(C, made, loss=0.0), attest(D, made, loss=0.0)]


@pytest.mark.parametrize(
    "numbers", [{}, {"steps": TOP}, {"clips": TOP}, {"seq": 2, "epoch": TOP}, {"seq": TOP, "epoch": 1}]
)
def test_a_card_whose_numbers_cannot_be_is_no_tip_however_many_sign_it(
    board: Board, spec: RunSpec, numbers: dict[str, int]
) -> None:
    first = with_tip(board)
    for record in forged(spec, **numbers):
        board.add(record, NOW)
    assert tip_id(board) == first.id
    assert board.refused.total() >= 1
    assert not board.attestors_of_unknown(SLOT)  # nobody is asked for cards that cannot be
    assert decide_claim(board.view(SLOT), E.peer_id, NOW + 1).epoch == 2
    assert not board.pending(SLOT)


def test_a_tip_in_the_ledger_whose_numbers_cannot_be_is_forgotten_with_a_line_in_the_log(
    spec: RunSpec, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.put(f"tip/{SLOT}", msgpack.packb([record.data for record in forged(spec)]))
    board = Board(RUN, spec, ledger)
    assert board.tip(SLOT) is None
    assert ledger.get(f"tip/{SLOT}") is None
    assert f"epoch {TOP} and seq {TOP}" in caplog.text
    assert with_tip(board).id == tip_id(board)


def test_a_leap_that_the_runs_age_allows_is_no_tip_for_who_was_here_and_one_for_who_was_away(
    board: Board, spec: RunSpec
) -> None:
    first = with_tip(board)
    later = card(B, first, seq=1000, epoch=40)
    for record in (later, attest(D, later)):
        board.add(record, NOW + 60)
    assert tip_id(board) == first.id
    late_s = NOW + 300 * spec.timing.checkpoint_s
    board.add(attest(C, later), late_s)
    assert tip_id(board) == later.id


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.builds(
            lambda peer, epoch, seq, steps, at, loss: (peer, epoch, seq, steps, at, loss),
            st.sampled_from(PEERS),
            st.sampled_from([0, 1, 2, 2048, 2049, TOP]),
            st.sampled_from([0, 1, 2, 3, TOP]),
            st.sampled_from([0, 1, 10, TOP]),
            st.sampled_from([0.0, 1.0, NOW, 4e9 - 200]),
            st.sampled_from([0.0, 1e6]),
        ),
        max_size=8,
    )
)
def test_nothing_that_peers_sign_makes_the_board_or_the_rules_fail(board: Board, made: list[Any]) -> None:
    for peer, epoch, seq, steps, at, loss in made:
        one = card(peer, epoch=epoch, seq=seq, steps=steps, clips=steps, issued_at=at, expires_at=at + 10)
        for record in (
            claim(peer, epoch=epoch, claimed_at=at, seq=seq),
            one,
            attest(C, one, loss=loss),
            attest(D, one),
        ):
            board.add(record, NOW)
    for peer in PEERS:
        decision = decide_claim(board.view(SLOT), peer.peer_id, NOW + 1)
        claim(peer, epoch=decision.epoch)  # what it would sign can be signed
        epoch = epoch_to_publish(decision.epoch, (), board.tip(SLOT), board.epochs_used(SLOT))
        last = board.tip(SLOT)
        card(peer, last.card if last else None, epoch=epoch)
    board.records_under(tips_key(RUN, SLOT))


# what was heard


def test_who_wasted_a_slot_is_known_after_a_restart_and_damage_is_forgotten(
    board: Board, spec: RunSpec, ledger: Ledger
) -> None:
    patience_s = board.hearing.heard(SLOT).patience_s
    at = time.time()
    until_s = at + patience_s + 200
    while at < until_s:
        board.add(claim(A, claimed_at=1.0, issued_at=at), at)
        at += TIMING.claim_s / 3
    assert board.hearing.heard(SLOT).wasted(A.peer_id, at) == 1
    again = Board(RUN, spec, ledger)
    assert again.hearing.heard(SLOT).wasted(A.peer_id, at) == 1
    assert again.hearing.heard(SLOT).places(at) == 2
    for value in (1, [1, 2], [1, 2, [[b"x", 3]]], [1, float("nan"), []], {"a": 1}):
        ledger.put(f"heard/{SLOT}", msgpack.packb(value))
        assert Board(RUN, spec, ledger).hearing.heard(SLOT).places(at) == 1
        assert ledger.get(f"heard/{SLOT}") is None


def test_this_nodes_own_claim_stays_in_any_crowd(spec: RunSpec, ledger: Ledger) -> None:
    board = Board(RUN, spec, ledger, B.peer_id)
    for stranger in strangers(MAX_CLAIMS):
        board.add(claim(stranger), NOW)
    assert board.add(claim(B, claimed_at=NOW + 1), NOW + 1)


def test_records_of_other_runs_and_unknown_slots_are_ignored(board: Board) -> None:
    for record in (claim(A, run="cd" * 32), claim(A, slot="expert-9")):
        assert not board.add(record, NOW)


def test_a_tip_outlives_its_records_expiry_and_an_older_one_gains_nothing_by_a_replay(
    board: Board, spec: RunSpec, ledger: Ledger
) -> None:
    expired: dict[str, Any] = {"issued_at": NOW - 100, "expires_at": NOW - 1}
    first = card(A, **expired)
    last = card(A, first, **expired)
    for one in (last, attest(D, last, **expired)):
        assert board.add(one, NOW)
    assert tip_id(board) == last.id
    for one in (first, attest(D, first, **expired), attest(C, first, **expired)):
        board.add(one, NOW)
    assert tip_id(board) == last.id == tip_id(Board(RUN, spec, ledger))
