"""What the owner's word leaves a peer to do: rest, leave, finish, or work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.owner_records import Admit, AnyChange, End, Pause, Resume, Revoke
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.rules.standing import ENDING_S, attests_after_end, standing

from .made import NOW, A, B, card
from .made_notices import OWNER, certificate, chain_of, made_run, state_of

OPEN, MEMBERS = made_run(), made_run(members_only=True)
ME = A.peer_id


def test_a_peer_works_in_an_open_run_where_nothing_was_said() -> None:
    found = standing(state_of(OPEN), ME)
    assert found.works
    assert found.publishes
    assert found.attests


def test_a_pause_says_who_when_and_why_and_a_resume_ends_it() -> None:
    paused = standing(state_of(OPEN, Pause(reason="night")), ME)
    assert (paused.phase, paused.works, paused.publishes, paused.attests) == ("paused", False, True, True)
    assert re.fullmatch(r"paused by the owner \(notice 1, \d{4}-\d\d-\d\d \d\d:\d\d: night\)", paused.why)
    assert standing(state_of(OPEN, Pause(), Resume()), ME).works
    assert not standing(state_of(OPEN, Pause(), Resume(), Pause()), ME).works


def test_after_the_end_nobody_trains_or_publishes_whatever_is_said_later() -> None:
    for later in ((), (Resume(),), (Admit(peer=ME, rights=("train",)),)):
        found = standing(state_of(OPEN, End(reason="done"), *later), ME)
        assert (found.phase, found.works, found.publishes) == ("ended", False, False)
        assert "notice 1" in found.why
        assert "done" in found.why


def test_a_revoked_peer_neither_publishes_nor_attests_and_is_told_what_to_do() -> None:
    found = standing(state_of(OPEN, Revoke(peer=ME)), ME)
    assert (found.phase, found.works, found.publishes, found.attests) == ("revoked", False, False, False)
    assert "ask the owner to admit it anew" in found.why
    assert standing(state_of(OPEN, Revoke(peer=ME)), B.peer_id).works
    assert standing(state_of(OPEN, Revoke(peer=ME), Admit(peer=ME, rights=("train",))), ME).works


def test_a_contradiction_goes_before_all_else_and_names_both_notices() -> None:
    one, other = chain_of(OPEN.id, [Pause()])[0], chain_of(OPEN.id, [End()])[0]
    found = standing(state_of(OPEN, Revoke(peer=ME)), ME, (one, other))
    assert (found.phase, found.publishes, found.attests) == ("contradicted", False, False)
    assert one.id[:16] in found.why
    assert other.id[:16] in found.why


def test_who_was_never_admitted_is_told_to_ask_for_an_invite() -> None:
    found = standing(state_of(MEMBERS), ME)
    assert (found.phase, found.works) == ("not admitted", False)
    assert "it is no member" in found.why
    generates = state_of(MEMBERS, Admit(peer=ME, rights=("generate",)))
    assert "it may generate" in standing(generates, ME).why


@pytest.mark.parametrize("before_s", [ENDING_S + 1, ENDING_S - 1, -1.0])
def test_a_right_that_ends_leaves_time_for_a_last_checkpoint(before_s: float) -> None:
    given_ = certificate(OWNER, MEMBERS.id, ME, ("train", "attest"), lasts_s=1000)
    found = standing(state_of(MEMBERS, now_s=NOW + 1000 - before_s, certificates=[given_]), ME)
    assert found.works == (before_s > ENDING_S)
    assert found.publishes  # its card counts by its date
    assert found.works or "ask the owner for a new invite" in found.why


def test_an_ended_run_leaves_to_attest_what_was_made_before_for_one_patience() -> None:
    before, after = card(B, issued_at=NOW - 1), card(B, issued_at=NOW + 1)
    in_time, late = state_of(OPEN, End(), now_s=NOW + 50), state_of(OPEN, End(), now_s=NOW + 61)
    assert attests_after_end(before.record, in_time, 50.0)
    assert not attests_after_end(after.record, in_time, 50.0)
    assert not attests_after_end(before.record, late, 61.0 - CLOCK_SLACK_S - 1)
    assert attests_after_end(after.record, state_of(OPEN, now_s=NOW + 1e6), 50.0)  # no end, no bound


some_changes = st.lists(
    st.sampled_from(
        [Pause(), Resume(), End(), Revoke(peer=ME), Revoke(peer=B.peer_id), Admit(peer=ME, rights=("train",))]
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(some_changes)
def test_whoever_works_may_publish_and_whoever_may_not_publish_is_told_why(changes: list[AnyChange]) -> None:
    found = standing(state_of(OPEN, *changes), ME)
    assert found.publishes or not found.works
    assert bool(found.why) != found.works
    assert found.works == (
        End() not in changes
        and _last(changes, (Pause(), Resume())) != Pause()
        and _last(changes, (Revoke(peer=ME), Admit(peer=ME, rights=("train",)))) != Revoke(peer=ME)
    )


def _last(changes: list[AnyChange], among: tuple[AnyChange, ...]) -> AnyChange | None:
    return next((change for change in reversed(changes) if change in among), None)
