"""Certificates that a node knows: no delegate takes others' places, and one that is revoked keeps none."""

from __future__ import annotations

from contextlib import suppress

import pytest

from paris_p2p.errors import RecordError
from paris_p2p.identity import Identity
from paris_p2p.node import certificates as certificates_file
from paris_p2p.node.certificates import Certificates
from paris_p2p.owner_records import Admit, Revoke
from paris_p2p.rules.chain import Notice
from paris_p2p.rules.run_state import Certificate
from tests.rules.made import NOW
from tests.rules.made_notices import OWNER, certificate, chain_of, made_run

NODE, BAD, WORSE = (Identity.generate() for _ in range(3))
RUN = made_run(members_only=True, owner_node=NODE.peer_id)
LETS = [Admit(peer=one.peer_id, rights=("admit",)) for one in (BAD, WORSE)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates_file, "MAX_CERTIFICATES", 8)
    monkeypatch.setattr(certificates_file, "MAX_OF_A_DELEGATE", 4)
    monkeypatch.setattr(certificates_file, "OWNERS_ROOM", 2)


def known(*notices: Notice) -> Certificates:
    held = Certificates(RUN.record)
    for notice in notices:
        held.note(notice)
    return held


def some(by: Identity, count: int = 1, at_s: float = NOW) -> list[Certificate]:
    return [
        certificate(by, RUN.id, Identity.generate().peer_id, ("train",), at_s, 4e9 - at_s)
        for _ in range(count)
    ]


def fill(held: Certificates, *by: Identity) -> None:
    for signer in by:
        found_room = 0
        for one in some(signer, 9):
            with suppress(RecordError):
                found_room += held.add(one)
        assert 0 < found_room < 9


@pytest.mark.usefixtures("few")
def test_delegates_that_admit_without_end_leave_the_owner_room() -> None:
    held = known(*chain_of(RUN.id, LETS))
    fill(held, BAD, WORSE)
    assert all(held.add(one) for one in (*some(NODE), *some(OWNER)))


@pytest.mark.usefixtures("few")
def test_what_a_revoked_delegate_signed_keeps_no_place_and_finds_none() -> None:
    notices = chain_of(RUN.id, [*LETS, Revoke(peer=BAD.peer_id)])
    held = known(*notices[:2])
    fill(held, BAD, WORSE)
    held.note(notices[2])
    assert {one.signer for one in held} == {WORSE.peer_id}
    assert not any(held.add(one) for one in some(BAD, 3))
    assert all(held.add(one) for one in some(NODE, 4))


def test_who_stays_when_its_delegate_is_revoked_has_its_place_whenever_it_comes() -> None:
    stays, goes = some(BAD, 2, NOW - 50)
    notices = chain_of(RUN.id, [*LETS, Revoke(peer=BAD.peer_id, keeps=(stays.record.peer,))])
    before, after = known(*notices[:2]), known(*notices)
    assert before.add(stays)
    assert before.add(goes)
    before.note(notices[2])
    assert after.add(stays)
    assert not after.add(goes)
    assert list(before) == list(after) == [stays]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_delegate_that_is_admitted_anew_signs_anew_in_whatever_order_that_is_heard(
    order: tuple[int, ...],
) -> None:
    notices = chain_of(RUN.id, [LETS[0], Revoke(peer=BAD.peer_id), LETS[0]])
    held = known(*(notices[i] for i in order))
    (old,), (new,) = some(BAD, 1, NOW + 5), some(BAD, 1, NOW + 30)
    assert not held.add(old)
    assert held.add(new)


def test_a_certificate_that_says_the_same_later_is_nothing_new() -> None:
    held, peer = known(), Identity.generate().peer_id
    first, same = (certificate(NODE, RUN.id, peer, ("train",), at, NOW + 900 - at) for at in (NOW, NOW + 9))
    assert held.add(first)
    assert not held.add(same)
    assert held.add(certificate(NODE, RUN.id, peer, ("train",), NOW + 9))
    assert list(held) != [first]
