"""What a run is by its notices: who may do what, since when, and what still counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.owner_records import (
    MAX_SHARDS,
    RIGHTS,
    AddClips,
    AddedShard,
    Admit,
    AnyChange,
    End,
    Extend,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
)
from paris_p2p.records import BlobRef, RefusalRecord
from paris_p2p.rules.run_state import run_state
from paris_p2p.spec import GateSpec

from .made import NOW, SLOT, A, B, C, D, attest, card, claim
from .made_notices import OWNER, certificate, chain_of, made_run, state_of

CLOSED = made_run(members_only=True, owner_node=D.peer_id)
OPEN = made_run(gate=GateSpec(members_attest=False, attestors=(C.peer_id,)), owner_node=D.peer_id)
TRAIN = ("train", "attest", "generate")


def admit(peer: str, *rights: str, until: float = 4e9) -> Admit:
    return Admit(peer=peer, rights=rights or TRAIN, until=until)  # type: ignore[arg-type]


# rights


def test_without_notices_an_open_run_is_what_its_runspec_says() -> None:
    state = state_of(OPEN)
    assert state.spec is OPEN.record
    assert (state.number, state.head, state.paused, state.ended) == (0, OPEN.id, None, None)
    assert state.rights(A.peer_id) == {"train", "generate", "store"}
    assert state.may_attest(C.peer_id)
    assert not state.may_attest(A.peer_id)
    # peers of the first version do not count it either
    assert not state.may_attest(D.peer_id)


def test_in_an_open_run_where_everybody_attests_everybody_does() -> None:
    state = state_of(made_run(gate=GateSpec()))
    assert state.may_attest(A.peer_id)
    assert not state_of(made_run(gate=GateSpec(members_attest=False))).may_attest(A.peer_id)


def test_in_a_members_only_run_nobody_has_a_right_that_was_not_given() -> None:
    state = state_of(CLOSED, admit(A.peer_id), admit(B.peer_id, "store"))
    assert state.rights(A.peer_id) == set(TRAIN)
    assert state.rights(B.peer_id) == {"store"}
    assert state.rights(C.peer_id) == frozenset()
    assert state.rights(D.peer_id) == set(RIGHTS)  # the owner's node
    assert not state.is_member(C.peer_id)


def test_a_right_ends_on_its_date_and_what_was_made_before_counts_on() -> None:
    state = state_of(CLOSED, admit(A.peer_id, until=NOW + 500))
    assert not state.may(A.peer_id, "train")
    assert state.counts(claim(A, issued_at=NOW + 499))
    assert not state.counts(claim(A, issued_at=NOW + 500))


def test_the_next_date_at_which_the_clock_changes_a_state_is_known() -> None:
    assert state_of(CLOSED, admit(A.peer_id, until=NOW + 5000)).next_date_s() == NOW + 5000
    assert state_of(CLOSED, admit(A.peer_id, until=NOW + 10)).next_date_s() == float("inf")


# revocation


def test_a_revoked_peers_records_since_then_are_void_and_those_before_stay() -> None:
    state = state_of(CLOSED, admit(A.peer_id), Revoke(peer=A.peer_id))  # revoked at NOW + 10
    assert state.rights(A.peer_id) == frozenset()
    assert state.counts(card(A, issued_at=NOW + 9))
    assert not state.counts(card(A, issued_at=NOW + 10))


def test_a_revocation_may_reach_back() -> None:
    state = state_of(CLOSED, admit(A.peer_id), Revoke(peer=A.peer_id, since=NOW + 3))
    assert state.counts(card(A, issued_at=NOW + 2))
    assert not state.counts(card(A, issued_at=NOW + 3))


def test_a_revoked_attestors_backdated_word_on_a_later_card_is_void() -> None:
    state = state_of(CLOSED, admit(A.peer_id), admit(B.peer_id), Revoke(peer=A.peer_id))  # at NOW + 20
    before, after = card(B, issued_at=NOW + 19), card(B, issued_at=NOW + 21)
    assert state.attests(attest(A, before, issued_at=NOW + 19), before)
    assert not state.attests(attest(A, after, issued_at=NOW + 19), after)


def test_one_that_is_admitted_anew_has_the_new_rights_and_not_the_old_ones() -> None:
    state = state_of(CLOSED, admit(A.peer_id), Revoke(peer=A.peer_id), admit(A.peer_id, "generate"))
    assert state.rights(A.peer_id) == {"generate"}
    assert state.counts(card(A, issued_at=NOW + 9))  # made under the first admission
    assert not state.counts(card(A, issued_at=NOW + 15))
    assert not state.counts(card(A, issued_at=NOW + 25))


def test_an_old_certificate_gives_a_peer_that_was_admitted_anew_nothing() -> None:
    old = certificate(D, CLOSED.id, A.peer_id, TRAIN, at_s=NOW - 100)
    changes = (admit(B.peer_id), Revoke(peer=A.peer_id), admit(A.peer_id, "generate"))
    assert state_of(CLOSED, *changes, certificates=[old]).rights(A.peer_id) == {"generate"}


def test_a_certificate_of_a_time_when_its_subject_was_revoked_is_worth_nothing() -> None:
    late = certificate(D, CLOSED.id, A.peer_id, TRAIN, at_s=NOW + 50)
    assert state_of(CLOSED, Revoke(peer=A.peer_id), certificates=[late]).rights(A.peer_id) == frozenset()


@pytest.mark.parametrize("kind", ["claim", "card", "attestation", "refusal"])
def test_a_stranger_whose_right_may_come_is_told_from_one_whose_word_is_void(kind: str) -> None:
    def made(peer: Identity) -> Envelope[Any]:
        one, at = card(A), {"issued_at": NOW + 30}
        head = {"run": one.record.run, "slot": SLOT, "seq": 1, "expires_at": NOW + 99} | at
        makers: dict[str, Callable[[], Envelope[Any]]] = {
            "claim": lambda: claim(peer, **at),
            "card": lambda: card(peer, **at),
            "attestation": lambda: attest(peer, one, **at),
            "refusal": lambda: seal(peer, RefusalRecord(**head, epoch=1, card=one.id, reason="loss")),
        }
        return makers[kind]()

    state = state_of(CLOSED, Revoke(peer=B.peer_id))
    assert state.lacks_right(made(A))
    assert not state.lacks_right(made(B))
    assert not state.counts(made(A))
    assert state.counts(made(D))


# certificates


def test_a_delegates_certificate_counts_and_gives_no_right_to_admit() -> None:
    given = certificate(B, CLOSED.id, A.peer_id, (*TRAIN, "admit"))
    state = state_of(CLOSED, admit(B.peer_id, "admit"), certificates=[given])
    assert state.rights(A.peer_id) == set(TRAIN)


def test_the_owners_own_certificate_makes_a_delegate_and_a_delegates_does_not() -> None:
    first = certificate(OWNER, CLOSED.id, B.peer_id, ("admit",))
    second = certificate(B, CLOSED.id, C.peer_id, ("admit", "train"))
    third = certificate(C, CLOSED.id, A.peer_id, ("train",))
    state = state_of(CLOSED, certificates=[third, second, first])
    assert (state.rights(B.peer_id), state.rights(C.peer_id)) == ({"admit"}, {"train"})
    assert state.rights(A.peer_id) == frozenset()


def test_a_revoked_delegate_takes_its_admissions_with_it_but_for_those_that_are_kept() -> None:
    given = [certificate(B, CLOSED.id, one.peer_id, TRAIN, at_s=NOW - 50) for one in (A, C)]
    changes = (admit(B.peer_id, "admit"), Revoke(peer=B.peer_id, keeps=(A.peer_id,)))
    state = state_of(CLOSED, *changes, certificates=given)
    assert state.rights(A.peer_id) == set(TRAIN)
    assert state.rights(C.peer_id) == frozenset()


def test_a_revoked_delegate_lets_in_nobody_by_calling_it_a_companion_of_one_that_stays() -> None:
    kept = certificate(B, CLOSED.id, A.peer_id, TRAIN, at_s=NOW - 50)
    changes = (admit(B.peer_id, "admit"), Revoke(peer=B.peer_id, keeps=(A.peer_id,)))
    back = {"peer": C.peer_id, "companion_of": A.peer_id}
    dated_back = seal(B, kept.record.model_copy(update=back))
    state = state_of(CLOSED, *changes, certificates=[kept, dated_back])
    assert state.rights(A.peer_id) == set(TRAIN)
    assert state.rights(C.peer_id) == frozenset()


def test_a_delegate_gives_no_time_that_it_does_not_have_itself() -> None:
    let = admit(B.peer_id, "admit", until=NOW + 500)
    given = certificate(B, CLOSED.id, A.peer_id, TRAIN, at_s=NOW + 5)
    before, after = (state_of(CLOSED, let, now_s=NOW + at, certificates=[given]) for at in (400, 600))
    assert before.rights(A.peer_id) == set(TRAIN)
    # somebody who has the delegate's key by then may have made it, and dated it back
    assert after.rights(A.peer_id) == frozenset()
    assert after.counts(claim(A, 1, NOW + 100))
    assert not after.counts(claim(A, 1, NOW + 550))


def test_a_delegate_that_was_admitted_anew_signs_anew_and_its_old_word_stays_void() -> None:
    old, new = (
        certificate(B, CLOSED.id, one.peer_id, TRAIN, at_s=at) for one, at in ((A, NOW + 5), (C, NOW + 30))
    )
    changes = (admit(B.peer_id, "admit"), Revoke(peer=B.peer_id), admit(B.peer_id, "admit"))
    state = state_of(CLOSED, *changes, certificates=[old, new])
    assert state.rights(A.peer_id) == frozenset()
    assert state.rights(C.peer_id) == set(TRAIN)


@given(st.permutations(range(4)))
def test_the_order_in_which_certificates_came_changes_nothing(order: list[int]) -> None:
    given_ones = [
        certificate(OWNER, CLOSED.id, B.peer_id, ("admit",)),
        certificate(B, CLOSED.id, A.peer_id, ("train",)),
        certificate(B, CLOSED.id, A.peer_id, ("attest",), at_s=NOW + 1),
        certificate(D, CLOSED.id, C.peer_id, TRAIN),
    ]
    state = state_of(CLOSED, certificates=[given_ones[i] for i in order])
    assert state.rights(A.peer_id) == {"train", "attest"}
    assert state.rights(C.peer_id) == set(TRAIN)


# cards and numbers


def test_a_revoked_card_takes_what_stands_on_it_and_leaves_what_is_above_its_floor() -> None:
    state = state_of(OPEN, RevokeCard(slot=SLOT, card="ab" * 32, place=5, floor=9))
    assert state.counts(card(A, seq=4, epoch=3))
    assert not state.counts(card(A, seq=5, epoch=3))
    assert not state.counts(card(A, seq=50, epoch=8))
    assert state.counts(card(A, seq=5, epoch=9))
    assert state.counts(card(A, seq=5, epoch=3, slot="expert-1"))
    assert not state.counts(claim(A, epoch=8))
    assert state.counts(claim(A, epoch=9))
    assert not state.counts(attest(C, card(A, seq=5, epoch=3)))
    assert state.floor_epoch(SLOT) == 9
    assert state.floor_epoch("router") == 0


def test_pause_resume_and_end_are_as_the_last_word_says() -> None:
    assert state_of(OPEN, Pause(reason="night")).paused is not None
    assert state_of(OPEN, Pause(), Resume()).paused is None
    ended = state_of(OPEN, End(), Resume(), End(reason="again")).ended
    assert ended is not None
    assert ended.record.seq == 1  # it ended once


def test_extend_changes_what_it_names_and_an_older_number_gives_the_older_runspec() -> None:
    changes = (Extend(total_steps=900, tolerance=0.5), Pause(), Extend(checkpoint_s=30.0))
    state = state_of(OPEN, *changes)
    numbers = [
        (one.training.total_steps, one.gate.tolerance, one.timing.checkpoint_s)
        for one in map(state.spec_at, range(4))
    ]
    before = OPEN.record
    first = (before.training.total_steps, before.gate.tolerance, before.timing.checkpoint_s)
    assert numbers == [first, (900, 0.5, first[2]), (900, 0.5, first[2]), (900, 0.5, 30.0)]
    assert state.signed is before


def test_a_run_that_grew_by_hundreds_of_notices_is_known_within_a_moment() -> None:
    def shards(number: int) -> tuple[AddedShard, ...]:
        blobs = (BlobRef(id=f"{number * MAX_SHARDS + k:064x}", size_bytes=9) for k in range(MAX_SHARDS))
        return tuple(
            AddedShard(split="train", cluster=k % 2, blob=blob, clips=4) for k, blob in enumerate(blobs)
        )

    chain = chain_of(OPEN.id, [AddClips(shards=shards(number)) for number in range(400)])
    began_s = time.thread_time()
    state = run_state(OPEN.id, OPEN.record, chain, NOW + 9999)
    for _ in range(100):
        before = state.spec_at(399)
    assert (
        time.thread_time() - began_s < 5.0
    )  # half a second; it took four when each notice walked all shards
    added = len(state.spec.train_shards) - len(OPEN.record.train_shards)
    assert added == 400 * MAX_SHARDS
    assert len(before.train_shards) == len(state.spec.train_shards) - MAX_SHARDS


def admissions() -> st.SearchStrategy[AnyChange]:
    peers = st.sampled_from([A.peer_id, B.peer_id])
    revoked: st.SearchStrategy[AnyChange] = st.builds(Revoke, peer=peers)
    return st.one_of(st.builds(Pause), st.builds(Resume), revoked, peers.map(lambda peer: admit(peer)))


@given(st.lists(admissions(), max_size=8))
def test_nobody_has_a_right_and_is_revoked_and_the_same_words_make_the_same_state(
    changes: list[AnyChange],
) -> None:
    one, two = (run_state(CLOSED.id, CLOSED.record, chain_of(CLOSED.id, changes), NOW + 999) for _ in "ab")
    assert one == two
    for peer in (A, B):
        assert not (one.is_revoked(peer.peer_id) and one.rights(peer.peer_id))
        last = next(
            (c for c in reversed(changes) if isinstance(c, Admit | Revoke) and c.peer == peer.peer_id), None
        )
        assert one.may(peer.peer_id, "train") == isinstance(last, Admit)
