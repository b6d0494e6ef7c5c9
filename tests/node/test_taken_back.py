"""The board under the owner's word: what counts, what falls, and where a slot goes back to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import SIGNED_LIFETIME_S, notices_key
from paris_p2p.node.board import Board
from paris_p2p.node.certificates import MAX_OF_A_DELEGATE, MAX_UNPROVEN
from paris_p2p.node.not_yet import MAX_OF_A_SIGNER, MAX_RECORDS
from paris_p2p.owner_records import (
    AddClips,
    AddedShard,
    AddExpert,
    Admit,
    AnyChange,
    MemberRecord,
    Revoke,
    RevokeCard,
)
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.claims import decide_claim, lead_of
from paris_p2p.rules.taken_back import MAX_PAST
from paris_p2p.rules.tips import MAX_EPOCHS_AHEAD, refuse_card
from paris_p2p.spec import GateSpec, RunSpec
from paris_p2p.store.ledger import Ledger
from tests.rules.made import PEERS, SLOT, A, B, C, D
from tests.rules.made import attest as made_attestation
from tests.rules.made import card as made_card
from tests.rules.made import claim as made_claim
from tests.rules.made_notices import OWNER, certificate, chain_of, made_run

NOW = time.time() - 1000.0
OPEN = made_run(created_at=NOW - 1e6, gate=GateSpec(members_attest=False, attestors=(C.peer_id, D.peer_id)))
CLOSED = made_run(created_at=NOW - 1e6, members_only=True)
TRAIN = ("train", "attest")
Card = Envelope[CardRecord]


@dataclass
class Slot:
    """One slot's life on one board, told by hand."""

    folder: Path
    run: Envelope[RunSpec] = OPEN
    changes: list[AnyChange] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = self.opened()

    def opened(self, folder: str = "ledger") -> Board:
        """Another board on the same disk, as after a restart; or a new peer's."""
        return Board(self.run.id, self.run.record, Ledger(self.folder / folder))

    def head(self, **more: Any) -> dict[str, Any]:
        return {"run": self.run.id, "issued_at": NOW, "expires_at": NOW + 9000.0} | more

    def card(self, after: Card | None = None, by: Identity = A, **more: Any) -> Card:
        return made_card(by, after, **self.head(**more))

    def grow(self, count: int, *, by: Identity = A, boards: tuple[Board, ...] = ()) -> None:
        """So many cards become the tip, one after the other."""
        for _ in range(count):
            one = self.card(self.cards[-1] if self.cards else None, by)
            self.cards.append(one)
            for board in boards or (self.board,):
                board.add(one, NOW)
                board.add(self.attest(D, one), NOW)

    def attest(self, by: Identity, one: Card, **more: Any) -> Envelope[Any]:
        return made_attestation(by, one, **self.head(**more))

    def claim(self, by: Identity, epoch: int, **more: Any) -> Envelope[Any]:
        return made_claim(by, epoch, claimed_at=NOW, run=self.run.id, **more)

    def say(self, *changes: AnyChange, boards: tuple[Board, ...] = ()) -> None:
        """The owner says one thing more; the boards hear of it."""
        self.changes += changes
        chain = chain_of(self.run.id, self.changes, at_s=NOW + 1)
        for board in boards or (self.board,):
            for notice in chain:
                board.add(notice, NOW)

    def take_back(self, one: Card, *, floor: int | None = None, boards: tuple[Board, ...] = ()) -> None:
        above = one.record.epoch + 1 if floor is None else floor
        self.say(RevokeCard(slot=SLOT, card=one.id, place=one.record.seq, floor=above), boards=boards)


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(tmp_path)


def tip_id(board: Board) -> str:
    tip = board.tip(SLOT)
    return tip.card.id if tip else ""


# revoke-card


@pytest.mark.parametrize("back", [1, 2, 7])
def test_a_tip_falls_back_to_the_card_before_the_one_that_was_taken_back(slot: Slot, back: int) -> None:
    slot.grow(8)
    slot.take_back(slot.cards[-back])
    assert tip_id(slot.board) == slot.cards[-back - 1].id
    assert not slot.board.pending(SLOT)


def test_a_slot_whose_first_card_was_taken_back_begins_anew(slot: Slot) -> None:
    slot.grow(3)
    slot.take_back(slot.cards[0])
    assert tip_id(slot.board) == ""
    again = slot.opened()
    assert tip_id(again) == ""
    fresh = slot.card(epoch=2, by=B)
    for board in (slot.board, again):
        board.add(fresh, NOW)
        board.add(slot.attest(C, fresh), NOW)
        assert tip_id(board) == fresh.id


def test_two_boards_that_hear_in_another_order_stand_at_the_same_tip(slot: Slot) -> None:
    other = slot.opened("other")
    slot.grow(6, boards=(slot.board, other))
    slot.take_back(slot.cards[3], boards=(slot.board,))
    goes_on = slot.card(slot.cards[2], by=B, epoch=2)
    for record in (goes_on, slot.attest(C, goes_on)):
        slot.board.add(record, NOW)
        other.add(record, NOW)
    assert tip_id(slot.board) == goes_on.id
    slot.say(boards=(other,))  # the notice comes last
    assert tip_id(other) == goes_on.id


def test_a_card_that_was_taken_back_cannot_be_told_again(slot: Slot) -> None:
    slot.grow(3)
    slot.take_back(slot.cards[2])
    for one in slot.cards:
        slot.board.add(one, NOW)
        slot.board.add(slot.attest(D, one), NOW)
        slot.board.add(slot.attest(C, one), NOW)
    assert tip_id(slot.board) == slot.cards[1].id


def test_a_restart_right_after_a_card_was_taken_back_stands_at_the_old_tip(slot: Slot) -> None:
    slot.grow(5)
    slot.take_back(slot.cards[3])
    assert tip_id(slot.opened()) == slot.cards[2].id


def test_a_board_that_slept_falls_back_when_it_hears(slot: Slot) -> None:
    slot.grow(5)
    asleep = slot.opened()  # it reads its disk, and was away when the notice was told
    assert tip_id(asleep) == slot.cards[-1].id
    slot.take_back(slot.cards[3], boards=(asleep,))
    assert tip_id(asleep) == slot.cards[2].id
    assert tip_id(slot.opened()) == slot.cards[2].id


def test_a_crash_between_the_notice_and_the_new_tip_loses_neither(
    slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot.grow(5)
    put = Ledger.put

    def only_notices(self: Ledger, key: str, data: bytes, *, durable: bool = True) -> None:
        if not key.startswith("notice/"):
            raise KeyboardInterrupt
        put(self, key, data)

    monkeypatch.setattr(Ledger, "put", only_notices)
    with pytest.raises(KeyboardInterrupt):
        slot.take_back(slot.cards[3])
    monkeypatch.setattr(Ledger, "put", put)
    assert tip_id(slot.opened()) == slot.cards[2].id


def test_several_revoked_cards_take_the_slot_back_one_after_the_other(slot: Slot) -> None:
    slot.grow(6)
    slot.take_back(slot.cards[4], floor=2)
    slot.take_back(slot.cards[2], floor=3)
    assert tip_id(slot.board) == slot.cards[1].id
    assert slot.board.view(SLOT).floor == 3


def test_tips_that_were_are_remembered_within_a_bound_also_on_disk(slot: Slot) -> None:
    slot.grow(MAX_PAST + 10)
    kept = [key for key, _ in slot.board.ledger.items("past/")]
    assert len(kept) == len(slot.board.slots[SLOT].past) == MAX_PAST
    slot.take_back(slot.cards[-MAX_PAST])
    assert tip_id(slot.board) == slot.cards[-MAX_PAST - 1].id
    assert len(slot.board.slots[SLOT].past) == 0  # none is left before it
    assert len(list(slot.board.ledger.items("past/"))) <= 1


def test_a_slot_that_goes_back_further_than_it_remembers_stands_at_nothing_until_it_hears(slot: Slot) -> None:
    other = slot.opened("other")
    slot.grow(3, boards=(slot.board, other))
    slot.grow(MAX_PAST + 3)
    slot.board = slot.opened()  # only what is on the disk
    slot.take_back(slot.cards[2], boards=(slot.board, other))
    assert tip_id(slot.board) == ""
    for data in other.records_under(f"paris/1/{slot.run.id}/tips/{SLOT}"):
        slot.board.add(slot.board.word.open(data, ("card", "attestation")), NOW)
    assert tip_id(slot.board) == slot.cards[1].id


@pytest.mark.parametrize("damage", [b"", b"\xc1", msgpack.packb([]), msgpack.packb([b"x"]), msgpack.packb(7)])
def test_a_damaged_tip_of_before_is_deleted_and_the_others_are_known(slot: Slot, damage: bytes) -> None:
    slot.grow(4)
    keys = [key for key, _ in slot.board.ledger.items("past/")]
    slot.board.ledger.put(keys[1], damage)
    again = slot.opened()
    assert len(again.slots[SLOT].past) == len(keys) - 1
    assert slot.board.ledger.get(keys[1]) is None


def test_claims_below_the_floor_count_no_more_and_the_next_is_made_above_it(slot: Slot) -> None:
    slot.grow(3)
    slot.board.add(slot.claim(A, 1), NOW)
    slot.take_back(slot.cards[2], floor=7)
    assert not slot.board.claims(SLOT)
    assert not slot.board.add(slot.claim(B, 6), NOW)
    decision = decide_claim(slot.board.view(SLOT), B.peer_id, NOW)
    assert (decision.action, decision.epoch) == ("claim", 7)
    assert slot.board.add(slot.claim(B, 7), NOW)


def test_a_lead_that_raised_epochs_as_far_as_it_could_leaves_a_slot_that_goes_on(slot: Slot) -> None:
    slot.grow(1)
    for number in range(1, 6):
        slot.cards.append(slot.card(slot.cards[-1], epoch=1 + number * MAX_EPOCHS_AHEAD))
        slot.board.add(slot.cards[-1], NOW)
        slot.board.add(slot.attest(D, slot.cards[-1]), NOW)
    assert tip_id(slot.board) == slot.cards[-1].id
    floor = slot.cards[-1].record.epoch + 1
    slot.take_back(slot.cards[1], floor=floor)
    assert tip_id(slot.board) == slot.cards[0].id
    for board in (slot.board, slot.opened()):
        decision = decide_claim(board.view(SLOT), B.peer_id, NOW)
        assert (decision.action, decision.epoch) == ("claim", floor)
        assert board.add(slot.claim(B, floor), NOW)
        view = board.view(SLOT)
        lead = lead_of(view.claims, view.tip, NOW, view.timing, view.heard, view.floor)
        assert lead is not None
        following = slot.card(slot.cards[0], by=B, epoch=floor)
        assert refuse_card(following, view.tip, B.peer_id, None, D.peer_id, view.floor) is None
        board.add(following, NOW)
        board.add(slot.attest(D, following), NOW)
        assert tip_id(board) == following.id
    assert tip_id(slot.opened()) == following.id


# revoke


def test_a_revoked_peers_backdated_card_and_attestation_make_no_tip(slot: Slot) -> None:
    slot.grow(2)
    slot.say(Revoke(peer=A.peer_id, since=NOW - 50), Revoke(peer=D.peer_id, since=NOW + 5))
    assert tip_id(slot.board) == ""  # all of A's fell
    mine = slot.card(by=B, issued_at=NOW + 50)
    slot.board.add(
        slot.attest(D, mine, issued_at=NOW), NOW + 50
    )  # it dates its word back, before the card came
    slot.board.add(mine, NOW + 50)
    slot.board.add(slot.attest(D, mine, issued_at=NOW + 1), NOW + 50)
    assert tip_id(slot.board) == ""
    assert not slot.board.epochs_used(SLOT)
    slot.board.add(slot.attest(C, mine, issued_at=NOW + 50), NOW + 50)
    assert tip_id(slot.board) == mine.id


def test_a_tip_stays_when_its_maker_is_revoked_after_it(slot: Slot) -> None:
    slot.grow(2)
    slot.say(Revoke(peer=A.peer_id), Revoke(peer=D.peer_id))
    assert tip_id(slot.board) == slot.cards[-1].id == tip_id(slot.opened())
    assert not slot.board.has_part(A.peer_id)
    assert not slot.board.has_part(D.peer_id)
    assert slot.board.has_part(C.peer_id)


# members


def shown(peer: Identity, by: Identity, run: str, *rights: str, **how: Any) -> Envelope[MemberRecord]:
    held = certificate(by, run, peer.peer_id, rights or TRAIN, at_s=NOW, **how)  # type: ignore[arg-type]
    return showing(peer, held)


def showing(peer: Identity, held: Envelope[Any]) -> Envelope[MemberRecord]:
    at = {"issued_at": NOW, "expires_at": NOW + SIGNED_LIFETIME_S["member"]}
    return seal(peer, MemberRecord(run=held.record.run, seq=1, certificate=held.data, **at))


def test_only_members_words_count_and_those_that_came_early_count_when_the_certificate_is_known(
    tmp_path: Path,
) -> None:
    slot = Slot(tmp_path, CLOSED)
    one = slot.card()
    for record in (slot.claim(A, 1), slot.attest(B, one), one):
        assert not slot.board.add(record, NOW)
    assert slot.board.add(shown(A, OWNER, CLOSED.id), NOW)
    assert [card.id for card in slot.board.pending(SLOT)] == [one.id]
    assert len(slot.board.claims(SLOT)) == 1
    assert tip_id(slot.board) == ""
    assert slot.board.add(shown(B, OWNER, CLOSED.id), NOW)
    assert tip_id(slot.board) == one.id


def test_a_notice_that_admits_makes_what_came_before_it_count(tmp_path: Path) -> None:
    slot = Slot(tmp_path, CLOSED)
    one = slot.card()
    for record in (slot.attest(B, one), one):
        slot.board.add(record, NOW)
    slot.say(*(Admit(peer=peer.peer_id, rights=TRAIN) for peer in (A, B)))  # type: ignore[arg-type]
    assert tip_id(slot.board) == one.id


def test_strangers_fill_a_bounded_place_and_no_more(tmp_path: Path) -> None:
    slot = Slot(tmp_path, CLOSED)
    known = slot.card(by=B)
    slot.board.add(known, NOW)
    for number in range(MAX_OF_A_SIGNER + 5):
        slot.board.add(slot.card(by=A, steps=number + 1), NOW)
    assert len(slot.board.not_yet) == MAX_OF_A_SIGNER + 1
    keys = [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1, MAX_RECORDS + 9)]
    for key in keys:
        slot.board.add(slot.claim(key, 1), NOW)
    assert len(slot.board.not_yet) == MAX_RECORDS


def test_a_member_that_shows_anothers_certificate_gains_nothing(tmp_path: Path) -> None:
    slot = Slot(tmp_path, CLOSED)
    held = certificate(OWNER, CLOSED.id, A.peer_id, TRAIN, at_s=NOW)
    assert not slot.board.add(showing(B, held), NOW)
    assert not slot.board.state.is_member(B.peer_id)
    assert slot.board.add(showing(A, held), NOW)
    assert not slot.board.add(showing(A, held), NOW)  # nothing new


def test_strangers_that_admit_one_another_shut_nobody_out(tmp_path: Path) -> None:
    slot = Slot(tmp_path, CLOSED)
    keys = [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1, MAX_UNPROVEN + 9)]
    assert not any(slot.board.add(shown(key, key, CLOSED.id), NOW) for key in keys)
    assert len(list(slot.board.word.certificates)) == 0
    assert slot.board.add(shown(A, OWNER, CLOSED.id), NOW)
    late = shown(B, C, CLOSED.id)  # its signer may admit, and that is not known yet
    assert not slot.board.add(late, NOW)
    slot.say(Admit(peer=C.peer_id, rights=("admit",)))
    assert slot.board.state.is_member(B.peer_id)
    assert not slot.board.state.is_member(keys[0].peer_id)


def test_what_a_member_made_counts_when_its_certificate_has_ended_also_for_newcomers(tmp_path: Path) -> None:
    slot = Slot(tmp_path, CLOSED)
    ended = [shown(peer, OWNER, CLOSED.id, lasts_s=60.0) for peer in (A, B)]  # NOW is a while ago
    for member in ended:
        assert slot.board.add(member, NOW)
    one, late = slot.card(), slot.card(issued_at=NOW + 61)
    for record in (one, slot.attest(B, one), late, slot.attest(B, late, issued_at=NOW + 61)):
        slot.board.add(record, NOW + 62)
    assert tip_id(slot.board) == one.id
    assert not slot.board.state.is_member(A.peer_id)
    assert slot.board.behind_tips() == {A.peer_id, B.peer_id}


def test_a_delegate_that_admits_a_thousand_shuts_out_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.certificates.MAX_OF_A_DELEGATE", 20)
    assert MAX_OF_A_DELEGATE >= 1000
    slot = Slot(tmp_path, CLOSED)
    slot.say(Admit(peer=C.peer_id, rights=("admit",)))
    keys = [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1, 41)]
    taken = [slot.board.add(shown(key, C, CLOSED.id), NOW) for key in keys]
    assert taken == [True] * 20 + [False] * 20
    assert slot.board.add(shown(A, OWNER, CLOSED.id), NOW)
    slot.say(Revoke(peer=C.peer_id))
    assert not any(slot.board.state.is_member(key.peer_id) for key in keys)
    assert slot.board.state.is_member(A.peer_id)


def test_certificates_that_ended_make_place_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.certificates.MAX_OF_A_DELEGATE", 1)
    slot = Slot(tmp_path, CLOSED)
    slot.say(Admit(peer=C.peer_id, rights=("admit",)))
    clock = {"now": NOW}
    monkeypatch.setattr(time, "time", lambda: clock["now"])
    assert slot.board.add(shown(A, C, CLOSED.id, lasts_s=50.0), NOW)
    assert not slot.board.add(shown(B, C, CLOSED.id), NOW)
    clock["now"] = NOW + 60
    assert slot.board.add(shown(B, C, CLOSED.id), NOW)
    assert not slot.board.add(shown(A, C, CLOSED.id, lasts_s=50.0), NOW)  # it ended


def test_a_later_certificate_of_the_same_signer_adds_and_takes_nothing_away(tmp_path: Path) -> None:
    slot = Slot(tmp_path, CLOSED)
    assert slot.board.add(shown(A, OWNER, CLOSED.id, "train"), NOW)
    assert not slot.board.add(shown(A, OWNER, CLOSED.id, "generate"), NOW)
    assert not slot.board.add(shown(A, OWNER, CLOSED.id, "train", lasts_s=3600.0), NOW)
    assert slot.board.add(shown(A, OWNER, CLOSED.id, "train", "attest"), NOW)
    assert slot.board.state.rights(A.peer_id) == {"train", "attest"}


# in any order


class Story:
    """Cards, what attests them, claims, and the owner's word: all that there is to be told."""

    def __init__(self, slot: Slot, plan: list[tuple[int, int, int]], revoked: int, back: int):
        self.slot, last = slot, None
        self.records: list[Envelope[Any]] = []
        for who, ahead, votes in plan:
            one = slot.card(last, by=PEERS[who % 2], epoch=(last.record.epoch if last else 1) + ahead)
            self.records += [one, slot.claim(PEERS[who % 2], one.record.epoch)]
            self.records += [slot.attest(by, one) for by in (C, D)[:votes]]
            last = one if votes else last
            slot.cards.append(one)
        taken = slot.cards[back % len(slot.cards)].record
        changes = [
            Revoke(peer=PEERS[revoked].peer_id, since=NOW + 5),
            RevokeCard(slot=SLOT, card="ab" * 32, place=taken.seq, floor=taken.epoch + 1),
        ]
        self.records += chain_of(slot.run.id, changes, at_s=NOW + 1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=7),
    st.integers(0, 5),
    st.integers(0, 6),
    st.randoms(use_true_random=False),
)
def test_who_heard_the_same_stands_at_the_same_tip_whatever_came_first(
    tmp_path_factory: pytest.TempPathFactory,
    plan: list[tuple[int, int, int]],
    revoked: int,
    back: int,
    chance: Random,
) -> None:
    slot = Slot(tmp_path_factory.mktemp("slot"))
    story = Story(slot, plan, revoked, back)
    found = set()
    for number in range(3):
        board = slot.opened(f"{number}")
        told = chance.sample(story.records, len(story.records))
        for record in [*told, *told]:  # what came too early comes again
            board.add(record, NOW + 10)
        found.add((tip_id(board), frozenset(board.view(SLOT).used), len(board.claims(SLOT))))
        assert tip_id(slot.opened(f"{number}")) == tip_id(board)
    assert len(found) == 1


# growth


def test_a_slot_that_the_owner_adds_is_there_at_once_and_a_restart_knows_its_tip(slot: Slot) -> None:
    def part(cluster: int, split: str, name: str) -> AddedShard:
        return AddedShard(split=split, cluster=cluster, blob=BlobRef(id=name * 32, size_bytes=1), clips=1)  # type: ignore[arg-type]

    shards = tuple(part(k, split, f"{k}{n}") for k in (0, 2) for n, split in enumerate(("train", "gate"), 1))
    slot.say(AddExpert(parent=0, child=2, parts=1), AddClips(shards=shards))
    assert "expert-2" in slot.board.spec.slots
    one = slot.card(slot="expert-2")
    slot.board.add(one, NOW)
    slot.board.add(slot.attest(D, one), NOW)
    found = slot.opened().tip("expert-2")
    assert found is not None
    assert found.card.id == one.id


# what is told


def test_a_board_tells_its_notices_from_a_number_on(slot: Slot) -> None:
    slot.say(*(Revoke(peer=peer.peer_id) for peer in PEERS))
    told = slot.board.records_under(notices_key(slot.run.id, 3))
    numbers = [slot.board.word.open(data, ("notice",)).record.seq for data in told]
    assert numbers == list(range(3, len(PEERS) + 1))
    for odd in ("0", "x", "-1", "1e3", "", "9" * 50, "٣"):
        slot.board.records_under(f"paris/1/{slot.run.id}/notices/{odd}")
    assert slot.board.records_under(notices_key(slot.run.id, 99)) == []
