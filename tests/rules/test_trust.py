"""Trust: the one rule that handlers ask."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.identity import Identity
from paris_p2p.owner_records import RIGHTS, CertificateRecord, Right
from paris_p2p.records import RequestKind
from paris_p2p.rules.run_state import RunState, run_state
from paris_p2p.rules.trust import Thing, may
from paris_p2p.spec import GateSpec, sign_run

from ..test_spec import spec
from .made import A, B, C

OWNER, NOW_S = Identity.generate(), time.time()
ACTIONS: tuple[RequestKind, ...] = (
    "where",
    "dial",
    "take",
    "spec",
    "records",
    "blobs",
    "key",
    "stock",
    "history",
)
THINGS: tuple[Thing, ...] = ("data", "weights", "resume", "gate")


def state_of(*, rights: tuple[Right, ...] = (), **fields: object) -> RunState:
    """A run in which A holds a certificate of the owner's with these rights, and C is the owner's node."""
    run = sign_run(OWNER, spec(**{"owner_node": C.peer_id, **fields}))
    certificates = []
    if rights:
        from paris_p2p.envelope import seal

        made = CertificateRecord(
            run=run.id, seq=1, issued_at=NOW_S - 9, expires_at=NOW_S + 99, peer=A.peer_id, rights=rights
        )
        certificates.append(seal(OWNER, made))
    return run_state(run.id, run.record, [], NOW_S, certificates)


def members_only(*rights: Right) -> RunState:
    return state_of(rights=rights, members_only=True)


def private(*rights: Right) -> RunState:
    return state_of(rights=rights, members_only=True, private=True, key_hash="ab" * 32)


def things(action: RequestKind) -> tuple[Thing, ...]:
    return THINGS if action == "blobs" else ("",)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_open_run_shows_a_stranger_all_and_a_closed_one_nothing(action: RequestKind) -> None:
    for thing in things(action):
        assert may(B.peer_id, action, thing, state_of())
        for closed in (members_only("train"), private("train")):
            assert not may(B.peer_id, action, thing, closed)
            assert may(C.peer_id, action, thing, closed)


@pytest.mark.parametrize("action", ["clock", "join", "hello"])
def test_the_time_and_the_knock_at_the_door_are_anybodys(action: RequestKind) -> None:
    assert may(B.peer_id, action, "", private())


@pytest.mark.parametrize(
    ("right", "opened"),
    [
        ("train", {"data", "weights", "resume"}),
        ("attest", {"data", "weights", "resume", "gate"}),
        ("generate", {"data", "weights"}),
        ("store", {"data", "weights", "resume", "gate"}),
        ("admit", set()),
    ],
)
def test_each_right_opens_its_own_blobs(right: Right, opened: set[Thing]) -> None:
    state = members_only(right)
    assert {thing for thing in THINGS if may(A.peer_id, "blobs", thing, state)} == opened
    assert may(A.peer_id, "stock", "", state) == (right == "store")
    assert all(
        may(A.peer_id, action, "", state) for action in ("where", "dial", "take", "spec", "records", "key")
    )


@settings(max_examples=20)
@given(rights=st.sets(st.sampled_from(RIGHTS), min_size=1))
def test_more_rights_never_close_a_door(rights: set[Right]) -> None:
    whole = members_only(*rights)
    for right, action in itertools.product(rights, ACTIONS):
        for thing in things(action):
            if may(A.peer_id, action, thing, members_only(right)):
                assert may(A.peer_id, action, thing, whole)


def test_named_attestors_of_an_open_run_see_its_gate_clips() -> None:
    state = state_of(gate=GateSpec(members_attest=False, attestors=(A.peer_id,)))
    assert may(A.peer_id, "blobs", "gate", state)
