"""The chain of an owner's notices: what comes late, twice, in any order, or from another's key."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, seal
from paris_p2p.errors import SignatureError
from paris_p2p.owner_records import NoticeRecord, Pause, Resume
from paris_p2p.rules.chain import MAX_WAITING, Chain, whose_fault

from .made import RUN, A
from .made_notices import OWNER, chain_of

FIVE = chain_of(RUN, [Pause(reason="night"), Resume(), Pause(), Resume(), Pause(reason="day")])


def chain(*notices: Envelope[NoticeRecord]) -> Chain:
    known = Chain(RUN, OWNER.peer_id)
    for notice in notices:
        known = known.add(notice)
    return known


def other(notice: Envelope[NoticeRecord], **changes: object) -> Envelope[NoticeRecord]:
    """The owner says something else in the same place."""
    record = notice.record.model_copy(update={"change": Pause(reason="something else"), **changes})
    return seal(OWNER, record)


@given(st.permutations(FIVE + FIVE[1:3]))
def test_notices_in_any_order_and_told_twice_make_one_chain(order: list[Envelope[NoticeRecord]]) -> None:
    known = chain(*order)
    assert [one.id for one in known.notices] == [one.id for one in FIVE]
    assert (known.number, known.head, known.fork, dict(known.waiting)) == (5, FIVE[-1].id, None, {})


def test_what_is_missing_before_a_known_notice_is_named() -> None:
    known = chain(FIVE[0], FIVE[3])
    assert (known.number, known.missing_below()) == (1, 2)
    assert chain(*FIVE).missing_below() == 0


@pytest.mark.parametrize("first_known", [0, 1, 2, 3, 4])
def test_two_notices_of_one_number_are_a_fork_and_the_chain_stays_as_it_was(first_known: int) -> None:
    rival = other(FIVE[first_known])
    known = chain(*FIVE[: first_known + 1], rival)
    assert known.number == first_known + 1
    assert known.fork is not None
    assert {one.id for one in known.fork} == {FIVE[first_known].id, rival.id}
    assert known.add(FIVE[-1]) is known  # nothing is added after a contradiction
    words = whose_fault(known.fork)
    assert FIVE[first_known].id[:16] in words
    assert rival.id[:16] in words
    assert f"notice {first_known + 1}" in words


def test_a_notice_that_names_another_as_the_one_before_is_a_fork() -> None:
    rival = other(FIVE[2], previous="cd" * 32)
    known = chain(FIVE[0], FIVE[1], rival)
    assert known.number == 2
    assert known.fork == (FIVE[1], rival)
    waited = chain(FIVE[0], rival, FIVE[1])  # it came before its time
    assert waited.fork == known.fork


def test_a_first_notice_of_another_run_is_ignored() -> None:
    assert chain(other(FIVE[0], previous="cd" * 32)).number == 0
    foreign = chain_of("cd" * 32, [Pause()])
    with pytest.raises(SignatureError, match="ignored"):
        chain(foreign[0])


def test_a_notice_by_another_key_is_refused_by_name() -> None:
    forged = chain_of(RUN, [Pause()], owner=A)
    with pytest.raises(SignatureError, match=A.peer_id):
        chain(forged[0])


def test_a_truncated_chain_grows_when_the_rest_comes_and_never_shrinks() -> None:
    known = chain(*FIVE[:4])
    for notice in FIVE[:2]:  # a peer that knows less tells what it knows
        assert known.add(notice) is known
    assert known.add(FIVE[4]).number == 5


def test_ten_thousand_forged_notices_cost_little_and_leave_nothing() -> None:
    forged = [seal(A, replace_number(FIVE[0], number)) for number in range(1, 101)]
    known = chain(*FIVE)
    began_s = time.thread_time()
    for notice in itertools.islice(itertools.cycle(forged), 10_000):
        with pytest.raises(SignatureError):
            known.add(notice)
    assert time.thread_time() - began_s < 5.0
    assert known == chain(*FIVE)


def test_what_waits_for_its_predecessor_is_bounded() -> None:
    last = [replace_number(FIVE[0], number) for number in range(2, 3000)]
    known = chain()
    for record in last:
        known = known.add(Envelope(record=record, signer=OWNER.peer_id, payload=b"", data=b""))
    assert len(known.waiting) == MAX_WAITING
    assert known.number == 0


def replace_number(notice: Envelope[NoticeRecord], number: int) -> NoticeRecord:
    return notice.record.model_copy(update={"seq": number})


def test_a_fork_is_told_in_the_same_words_whoever_heard_which_first() -> None:
    rival = other(FIVE[2])
    one, two = chain(*FIVE[:3], rival), chain(*FIVE[:2], rival, FIVE[2])
    assert one.fork is not None
    assert two.fork is not None
    assert whose_fault(one.fork) == whose_fault(two.fork)
    assert replace(one, fork=None).number == 3
