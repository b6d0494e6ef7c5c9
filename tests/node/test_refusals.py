"""Refusals on the board: only of those who may attest, only of what would follow the tip, and bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import refusals_key, tips_key
from paris_p2p.node.board import Board
from paris_p2p.node.board_answers import MAX_REFUSALS_TOLD
from paris_p2p.node.crowd import MAX_REFUSALS
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.spec import GateSpec, RunSpec
from paris_p2p.store.ledger import Ledger
from tests.rules.made import NOW, RUN, SLOT, A, D, attest, card
from tests.test_spec import spec as run_spec


def refusal(signer: Identity, of: Envelope[CardRecord], **more: Any) -> Envelope[RefusalRecord]:
    record = of.record
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": record.seq,
        "issued_at": NOW,
        "expires_at": NOW + 3600,
    }
    fields |= {"epoch": record.epoch, "card": of.id, "parent": record.parent, "reason": "loss"} | more
    return seal(signer, RefusalRecord(**fields))


@pytest.fixture
def spec() -> RunSpec:
    return run_spec(gate=GateSpec())


@pytest.fixture
def board(spec: RunSpec, tmp_path: Path) -> Board:
    return Board(RUN, spec, Ledger(tmp_path))


def with_tip(board: Board) -> tuple[Envelope[CardRecord], Envelope[CardRecord]]:
    """A tip that is a little worse than the best one before it."""
    best = card(A)
    last = card(A, best)
    for envelope in (best, attest(D, best), last, attest(D, last, loss=1.04, best=best.id)):
        assert board.add(envelope, NOW)
    return best, last


def test_refusals_of_waiting_cards_are_kept_told_and_gone_when_the_tip_moves(board: Board) -> None:
    _, last = with_tip(board)
    waits = card(A, last)
    board.add(waits, NOW)
    one = refusal(D, waits)
    assert board.add(one, NOW)
    assert not board.add(one, NOW)
    assert board.refusals(SLOT) == [one]
    assert board.records_under(refusals_key(RUN, SLOT)) == [one.data]
    assert not board.add(refusal(D, last), NOW)  # it is the tip: nobody asks
    board.add(attest(D, waits), NOW)
    assert board.refusals(SLOT) == []


def test_who_may_not_attest_may_not_refuse(spec: RunSpec, tmp_path: Path) -> None:
    closed = Board(
        RUN,
        spec.model_copy(update={"gate": GateSpec(members_attest=False, attestors=(D.peer_id,))}),
        Ledger(tmp_path),
    )
    waits = card(A)
    assert not closed.add(refusal(A, waits), NOW)
    assert closed.add(refusal(D, waits), NOW)


def test_a_flood_of_refusals_is_bounded_and_does_not_displace_anothers(board: Board) -> None:
    waits = card(A)
    honest = refusal(D, waits)
    board.add(honest, NOW)
    for number in range(MAX_REFUSALS + 20):
        board.add(refusal(A, waits, card=f"{number:064x}"), NOW)
    assert len(board.refusals(SLOT)) == MAX_REFUSALS
    assert honest in board.refusals(SLOT)
    assert len(board.records_under(refusals_key(RUN, SLOT))) == MAX_REFUSALS_TOLD


def test_the_best_card_is_known_after_a_restart_and_told_with_the_tip(board: Board, spec: RunSpec) -> None:
    best, last = with_tip(board)
    again = Board(RUN, spec, board.ledger)
    found = again.best(SLOT)
    assert found is not None
    assert (found.id, again.tip(SLOT).card.id) == (best.id, last.id)  # type: ignore[union-attr]
    told = [open_envelope(data, run=RUN).id for data in again.records_under(tips_key(RUN, SLOT))]
    assert best.id in told


def test_a_best_card_that_comes_after_the_tip_is_kept_too(board: Board, spec: RunSpec) -> None:
    best = card(A)
    last = card(A, best)
    for envelope in (last, attest(D, last, loss=1.04, best=best.id), best):
        board.add(envelope, NOW)
    found = Board(RUN, spec, board.ledger).best(SLOT)
    assert found is not None
    assert found.id == best.id
