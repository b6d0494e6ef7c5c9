"""Updates and workers on the board: a crowd of strangers is bounded and takes nobody's place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paris_p2p.crew_records import CrewSpec
from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.kinds import crews_key, updates_key
from paris_p2p.node.board import Board
from paris_p2p.node.board_intake import NO_CREW
from paris_p2p.node.crew_shelf import MAX_OF_A_SIGNER, MAX_UPDATES, MAX_WORKERS
from paris_p2p.owner_records import Admit, Revoke
from paris_p2p.records import CardRecord
from paris_p2p.spec import GateSpec
from paris_p2p.store.ledger import Ledger
from tests.peer.world import World
from tests.rules.made import NOW, PEERS, RUN, SLOT, TIMING, attest, card
from tests.rules.made_crews import update, worker

A, B, C, D, E, F = PEERS
CREW = CrewSpec(peers=4)


def strangers(count: int) -> list[Identity]:
    return [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1000, 1000 + count)]


def make_board(folder: Path, **more: object) -> Board:
    gate = GateSpec(members_attest=False, attestors=(C.peer_id, D.peer_id))
    spec = World(folder / "world", gate=gate, timing=TIMING, **({"crew": CREW} | more)).run.record
    return Board(RUN, spec, Ledger(folder / "ledger"), me=F.peer_id)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return make_board(tmp_path)


def next_tip(board: Board, before: Envelope[CardRecord] | None = None) -> Envelope[CardRecord]:
    made = card(A, before)
    assert board.add(made, NOW)
    assert board.add(attest(D, made), NOW)
    return made


def signers(board: Board) -> set[str]:
    return {one.signer for one in board.updates(SLOT)}


def test_updates_are_told_in_the_order_they_came_with_when_they_did(board: Board) -> None:
    tip = next_tip(board)
    first, second = update(B, tip.id), update(E, tip.id, seq=7)
    assert board.add(second, NOW + 1)
    assert board.add(first, NOW + 2)
    assert not board.add(second, NOW + 3)
    assert board.updates(SLOT) == [second, first]
    assert (board.heard_at(second.id), board.heard_at(first.id)) == (NOW + 1, NOW + 2)
    assert board.heard_at("ab" * 32) is None
    assert board.records_under(updates_key(RUN, SLOT)) == [second.data, first.data]


def test_of_one_signer_the_newest_updates_are_kept(board: Board) -> None:
    tip = next_tip(board)
    for seq in (5, 1, 4, 2, 3):
        board.add(update(B, tip.id, seq=seq), NOW)
    kept = {one.record.seq for one in board.updates(SLOT)}
    assert kept == {5, 4, 3}
    assert len(kept) == MAX_OF_A_SIGNER


def test_ten_thousand_updates_of_strangers_are_bounded_and_those_that_matter_stay(board: Board) -> None:
    tip = next_tip(board)
    board.slots[SLOT].crew.contributed = frozenset({B.peer_id})
    of_named, of_merged, own = update(C, tip.id), update(B, tip.id), update(F, tip.id)
    of_the_tips_maker = update(A, tip.id)
    crowd = [update(one, tip.id, seq=seq) for one in strangers(3400) for seq in (1, 2, 3)]
    for one in crowd[:5000]:
        board.add(one, NOW)
    for one in (of_named, of_merged, own, of_the_tips_maker):
        assert board.add(one, NOW)
    for one in crowd[5000:]:
        board.add(one, NOW)
    assert MAX_UPDATES / 2 < len(board.updates(SLOT)) <= MAX_UPDATES
    assert len(board.slots[SLOT].crew.heard_s) == len(board.updates(SLOT))
    assert len(board.update_blobs(SLOT)) == 3
    assert signers(board) >= {A.peer_id, B.peer_id, C.peer_id, F.peer_id}
    assert sum(len(data) for data in board.records_under(updates_key(RUN, SLOT))) < 1 << 19


def test_an_update_whose_base_nobody_knows_goes_before_one_of_the_last_cards(board: Board) -> None:
    tip = next_tip(board)
    for one in strangers(2 * MAX_UPDATES):
        board.add(update(one, "cd" * 32), NOW)
    assert board.add(update(B, tip.id), NOW)


def test_an_update_three_rounds_late_goes_with_the_tip_and_is_not_taken_again(board: Board) -> None:
    tips = [next_tip(board)]
    late, others = update(B, tips[0].id), []
    board.add(late, NOW)
    for number in range(3):
        assert late in board.updates(SLOT)
        tips.append(next_tip(board, tips[-1]))
        others.append(update(E, tips[-1].id, seq=number + 2))
        board.add(others[-1], NOW)
    assert board.updates(SLOT) == others
    assert not board.add(late, NOW)
    assert board.lineage(SLOT) == (tips[3].id, tips[2].id, tips[1].id)


def test_an_update_waits_for_its_base_and_not_for_ever(board: Board) -> None:
    first = next_tip(board)
    later = card(A, first)
    early, of_nothing = update(B, later.id), update(E, "cd" * 32)
    board.add(early, NOW)
    board.add(of_nothing, NOW)
    assert next_tip(board, first) == later
    much_later_s = NOW + 3599
    board.add(update(C, later.id), much_later_s)
    assert early in board.updates(SLOT)
    board.add(update(C, later.id, seq=2), NOW + 10_000)
    assert of_nothing not in board.updates(SLOT)


def test_an_update_goes_when_its_record_ran_out(board: Board) -> None:
    tip = next_tip(board)
    board.add(update(B, tip.id), NOW)
    board.add(update(E, tip.id, expires_at=NOW + 80_000), NOW + 7200)
    assert signers(board) == {E.peer_id}


def test_ten_thousand_workers_are_bounded_and_take_no_place_of_those_who_contributed(board: Board) -> None:
    board.slots[SLOT].crew.contributed = frozenset({A.peer_id, B.peer_id})
    crowd = [worker(one) for one in strangers(10_000)]
    for one in crowd[:5000]:
        board.add(one, NOW)
    for peer in (A, B, F):
        assert board.add(worker(peer), NOW + 1)
    for one in crowd[5000:]:
        board.add(one, NOW + 1)
    assert MAX_WORKERS / 2 < len(board.workers(SLOT)) <= MAX_WORKERS
    assert len(board.slots[SLOT].crew.since_s) == len(board.workers(SLOT))
    assert {one.signer for one in board.workers(SLOT)} >= {A.peer_id, B.peer_id, F.peer_id}
    crew = [one.peer for one in board.crew(SLOT, "", NOW + 2)]
    assert set(crew[:2]) == {A.peer_id, B.peer_id}
    assert len(crew) == CREW.peers - 1
    assert len(board.records_under(crews_key(RUN, SLOT))) == len(board.workers(SLOT))


def test_a_workers_newest_record_counts_and_a_break_costs_it_its_place(board: Board) -> None:
    board.add(worker(A), NOW)
    board.add(worker(B), NOW + 1)
    board.add(worker(A, joined_at=NOW, issued_at=NOW + 40), NOW + 40)
    assert not board.add(worker(A), NOW + 41)
    assert board.slots[SLOT].crew.since_s == {A.peer_id: NOW, B.peer_id: NOW + 1}
    board.add(worker(A, joined_at=NOW, issued_at=NOW + 900), NOW + 900)  # its record had run out
    assert board.slots[SLOT].crew.since_s == {A.peer_id: NOW + 900, B.peer_id: NOW + 1}
    assert [one.signer for one in board.workers(SLOT)] == [B.peer_id, A.peer_id]
    board.add(worker(B, joined_at=NOW + 1, issued_at=NOW + 901, released=True), NOW + 901)
    assert [one.peer for one in board.crew(SLOT, "", NOW + 902)] == [A.peer_id]


def test_a_run_without_crews_takes_neither_and_counts_them(tmp_path: Path) -> None:
    board = make_board(tmp_path, crew=None)
    tip = next_tip(board)
    assert not board.add(update(B, tip.id), NOW)
    assert not board.add(worker(B), NOW)
    assert board.refused[NO_CREW] == 2
    assert (board.updates(SLOT), board.workers(SLOT), board.crew(SLOT, "", NOW)) == ([], (), ())


def test_a_revocation_takes_a_peers_updates_and_its_place_in_the_crew(tmp_path: Path) -> None:
    world = World(tmp_path / "world", timing=TIMING, crew=CREW)
    run, now = world.run.id, time.time()
    board = Board(run, world.run.record, Ledger(tmp_path / "ledger"))
    base = "cd" * 32
    for peer in (A, B):
        board.add(update(peer, base, run=run, issued_at=now, expires_at=now + 3600), now)
        board.add(worker(peer, joined_at=now, run=run), now)
    board.take_word([world.notice(Revoke(peer=A.peer_id, since=now - 60))], now)
    assert signers(board) == {B.peer_id}
    assert [one.signer for one in board.workers(SLOT)] == [B.peer_id]
    assert not board.add(update(A, base, seq=9, run=run, issued_at=now, expires_at=now + 3600), now)
    assert not board.add(worker(A, joined_at=now - 90, issued_at=now - 80, run=run), now)


def test_only_members_that_may_train_are_in_a_crew_of_a_members_run(tmp_path: Path) -> None:
    world = World(tmp_path / "world", timing=TIMING, crew=CREW, members_only=True)
    run, now = world.run.id, time.time()
    board = Board(run, world.run.record, Ledger(tmp_path / "ledger"))
    assert not board.add(worker(A, joined_at=now, run=run), now)
    for peer, right in ((B, "generate"), (A, "train")):
        world.notices.append(world.notice(Admit(peer=peer.peer_id, rights=(right,), until=now + 9000)))
    board.take_word(world.notices, now)
    assert not board.add(worker(B, joined_at=now + 1, run=run), now + 1)
    assert board.add(worker(A, joined_at=now + 5, run=run), now + 5)
    assert [one.signer for one in board.workers(SLOT)] == [A.peer_id]
