"""What an owner types becomes what was meant, or a refusal that says what there is."""

from __future__ import annotations

import pytest

from paris_p2p.envelope import seal
from paris_p2p.errors import UsageError
from paris_p2p.handed_word import CardPlace, SlotPlaces
from paris_p2p.identity import Identity
from paris_p2p.key_box import is_key
from paris_p2p.owner_records import MAX_KEPT, Admit, End, Extend, Pause, Resume, Revoke, RevokeCard
from paris_p2p.preparation.what_to_say import (
    admission,
    admitted_by,
    card_revocation,
    check_sense,
    extension,
    find_peer,
    known_card,
    machines_in,
    made,
    revocation,
)
from tests.rules.made import NOW
from tests.rules.made_notices import certificate, made_run, state_of

MIA, LEO, EVE = (Identity.from_private_bytes(bytes([n]) * 32).peer_id for n in (1, 2, 3))
NAMES = {MIA: "Mia", LEO: "Leo"}


@pytest.mark.parametrize("word", [MIA, MIA[-6:], "Mia"])
def test_a_peer_is_found_by_its_id_the_end_of_it_or_its_name(word: str) -> None:
    assert find_peer(word, [MIA, LEO, EVE], NAMES) == MIA


def test_a_whole_id_needs_nobody_to_know_it() -> None:
    assert find_peer(EVE, [], {}) == EVE


@pytest.mark.parametrize("word", ["12D3KooW", MIA[:-1], MIA + "x", f"{MIA[:20]}0{MIA[21:]}"])
def test_a_malformed_peer_id_is_told_as_one(word: str) -> None:
    with pytest.raises(UsageError, match=f"is not a peer id: it has {len(word)} letters where 52 are due"):
        find_peer(word, [MIA], NAMES)


@pytest.mark.parametrize("word", ["Zoe", "", "x", MIA[-3:]])
def test_who_is_not_known_is_told_with_those_that_are(word: str) -> None:
    with pytest.raises(
        UsageError,
        match=rf"nor the end of one or a name that is known here.*; there are Mia {MIA}",
    ):
        find_peer(word, [MIA], NAMES)


def test_a_name_that_two_have_or_that_another_id_ends_in_means_nobody() -> None:
    with pytest.raises(UsageError, match="may mean 2 peers"):
        find_peer("Mia", [MIA, EVE], {MIA: "Mia", EVE: "Mia"})
    with pytest.raises(UsageError, match="may mean 2 peers"):
        find_peer(MIA[-8:], [MIA, EVE], {EVE: MIA[-8:]})  # Eve calls herself as Mia's id ends


def test_an_admission_must_not_be_over() -> None:
    assert admission(MIA, ("train",), NOW + 1, "Mia", NOW) == Admit(
        peer=MIA, rights=("train",), until=NOW + 1, name="Mia"
    )
    with pytest.raises(UsageError, match="--until names a date that is over"):
        admission(MIA, ("train",), NOW, "", NOW)
    with pytest.raises(UsageError, match="name 'MMMM"):
        admission(MIA, ("train",), NOW + 1, "M" * 65, NOW)


DELEGATE = Identity.generate()


def delegated(count: int) -> tuple[object, list[object], list[str]]:
    run = made_run(members_only=True, owner_node=LEO)
    peers = [Identity.generate().peer_id for _ in range(count)]
    signed = [certificate(DELEGATE, run.id, peer, ("train", "generate"), NOW + 20) for peer in peers]
    admit = Admit(peer=DELEGATE.peer_id, rights=("admit",))
    return state_of(run, admit, certificates=signed), signed, peers


def test_those_that_a_delegate_let_in_stay_unless_they_are_to_go() -> None:
    state, signed, peers = delegated(3)
    more = {"since_s": None, "next_key": ""}
    (kept,) = revocation(DELEGATE.peer_id, state, signed, with_admissions=False, **more)  # type: ignore[arg-type]
    assert isinstance(kept, Revoke)
    assert set(kept.keeps) == set(peers)
    (gone,) = revocation(DELEGATE.peer_id, state, signed, with_admissions=True, **more)  # type: ignore[arg-type]
    assert gone == Revoke(peer=DELEGATE.peer_id)


def test_more_than_a_notice_holds_are_admitted_by_the_owner_first() -> None:
    state, signed, peers = delegated(MAX_KEPT + 2)
    changes = revocation(
        DELEGATE.peer_id,
        state,
        signed,
        since_s=None,
        with_admissions=False,
        next_key="",  # type: ignore[arg-type]
    )
    assert [change.act for change in changes] == ["admit", "admit", "revoke"]
    after = state_of(
        made_run(members_only=True, owner_node=LEO),
        Admit(peer=DELEGATE.peer_id, rights=("admit",)),
        *changes,
        certificates=signed,  # type: ignore[arg-type]
    )
    assert all(after.rights(peer) == {"train", "generate"} for peer in peers)
    assert not after.rights(DELEGATE.peer_id)


def test_a_machine_that_stays_keeps_its_generator() -> None:
    run, generator = made_run(members_only=True, owner_node=LEO), Identity.generate().peer_id
    main = certificate(DELEGATE, run.id, MIA, ("train", "generate"), NOW + 20)
    changes = {"peer": generator, "rights": ("generate",), "companion_of": MIA}
    signed = [main, seal(DELEGATE, main.record.model_copy(update=changes))]
    admit = Admit(peer=DELEGATE.peer_id, rights=("admit",))
    state = state_of(run, admit, certificates=signed)
    (kept,) = revocation(DELEGATE.peer_id, state, signed, since_s=None, with_admissions=False, next_key="")
    assert isinstance(kept, Revoke)
    assert kept.keeps == (generator, MIA)
    after = state_of(run, admit, kept, certificates=signed)
    assert (after.rights(MIA), after.rights(generator)) == ({"train", "generate"}, {"generate"})


def test_only_admissions_that_hold_are_a_delegates() -> None:
    state, signed, peers = delegated(2)
    assert {one.record.peer for one in admitted_by(DELEGATE.peer_id, state, signed)} == {*peers}  # type: ignore[arg-type]
    assert admitted_by(MIA, state, signed) == []  # type: ignore[arg-type]


def test_the_runs_own_node_and_who_is_out_already_are_not_revoked() -> None:
    run = made_run(members_only=True, owner_node=LEO)
    state = state_of(run, Admit(peer=MIA, rights=("train",)), Revoke(peer=MIA))
    more = {"with_admissions": False, "next_key": ""}
    with pytest.raises(UsageError, match="the run's own node"):
        revocation(LEO, state, [], since_s=None, **more)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is revoked already"):
        revocation(MIA, state, [], since_s=None, **more)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--since names a date that has not come"):
        revocation(EVE, state, [], since_s=state.now_s + 60, **more)  # type: ignore[arg-type]
    (earlier,) = revocation(MIA, state, [], since_s=NOW, **more)  # type: ignore[arg-type]
    assert earlier == Revoke(peer=MIA, since=NOW)


CARDS = SlotPlaces(
    slot="expert-0",
    floor=9,
    cards=tuple(
        CardPlace(card=f"{seq:02}" * 32, seq=seq, epoch=seq // 4, maker=MIA) for seq in range(30, 20, -1)
    ),
)


@pytest.mark.parametrize(
    ("word", "back", "place"), [("", 0, 30), ("", 1, 30), ("", 3, 28), ("25", 0, 25), ("2525252", 0, 25)]
)
def test_a_card_is_named_by_its_place_its_id_or_how_far_back(word: str, back: int, place: int) -> None:
    expected = RevokeCard(slot="expert-0", card=f"{place:02}" * 32, place=place, floor=9)
    assert card_revocation(CARDS, word, back) == expected


@pytest.mark.parametrize(
    ("word", "back", "says"),
    [
        ("25", 2, "not both"),
        ("", 11, "--back 11: the newest 10"),
        ("7", 0, "'7' is no card of expert-0 that is known here; there are seq 30"),
        ("ffff", 0, "is no card of expert-0"),
        ("2", 0, "is no card"),
    ],
)
def test_a_card_that_is_not_known_is_told_with_those_that_are(word: str, back: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        card_revocation(CARDS, word, back)


def test_a_slot_without_cards_has_none_to_take_back() -> None:
    with pytest.raises(UsageError, match="no attested card"):
        card_revocation(SlotPlaces(slot="router", floor=1), "", 0)


def test_a_card_known_by_heart_must_be_whole() -> None:
    with pytest.raises(UsageError, match="card 'abcd'"):
        known_card("expert-0", "abcd", 1, 2)


def test_an_extension_names_numbers_that_the_run_has_not_and_can_have() -> None:
    state = state_of(made_run())
    assert extension(state, total_steps=100) == Extend(total_steps=100)
    with pytest.raises(UsageError, match=r"name what is to change: .*; they are total_steps 0"):
        extension(state)
    with pytest.raises(UsageError, match="has those numbers already"):
        extension(state, total_steps=0)
    with pytest.raises(UsageError, match=r"checkpoint_s 0\.5"):
        extension(state, checkpoint_s=0.5)


def test_what_changes_nothing_is_not_said() -> None:
    run = made_run()
    with pytest.raises(UsageError, match="is not paused"):
        check_sense(Resume(), state_of(run))
    check_sense(Resume(), state_of(run, Pause()))
    for change in (Pause(), End(), Extend(total_steps=5)):
        with pytest.raises(UsageError, match="was ended by notice 1, for good"):
            check_sense(change, state_of(run, End()))


def test_an_id_with_a_wrong_letter_that_is_nobodys_key_is_refused() -> None:
    letters = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    wrong = [one for letter in letters if not is_key(one := MIA[:30] + letter + MIA[31:])]
    assert wrong
    for word in wrong:
        with pytest.raises(UsageError, match="is nobody's peer id: one letter or more is wrong"):
            find_peer(word, [MIA], NAMES)


def test_what_is_too_long_is_shown_by_its_beginning() -> None:
    with pytest.raises(UsageError) as caught:
        made(Pause, reason="x" * 2000)
    assert str(caught.value).startswith(f"reason '{'x' * 40}…': ")


def test_a_name_that_a_machines_peer_and_its_generator_bear_means_the_peer() -> None:
    both = {MIA: "Mia", LEO: "Mia"}
    assert find_peer("Mia", [LEO, MIA], both, {LEO: MIA}) == MIA
    with pytest.raises(UsageError, match="may mean 2 peers"):
        find_peer("Mia", [LEO, MIA, EVE], {**both, EVE: "Mia"}, {LEO: MIA})  # Eve calls herself so, too
    with pytest.raises(UsageError, match="may mean 2 peers"):
        find_peer("Mia", [LEO, MIA], both)
    run = made_run(members_only=True, owner_node=DELEGATE.peer_id)
    peer = certificate(DELEGATE, run.id, LEO, ("generate",)).record
    generator = seal(DELEGATE, peer.model_copy(update={"companion_of": MIA}))
    assert machines_in(state_of(run, certificates=[generator])) == {LEO: MIA}
