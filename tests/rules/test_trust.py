"""Trust: the one rule that handlers ask."""

from __future__ import annotations

import pytest

from paris_p2p.records import RequestKind
from paris_p2p.rules.trust import may
from paris_p2p.spec import RunSpec

from ..test_spec import spec
from .made import B

THING = "ab" * 32


def private() -> RunSpec:
    return spec(private=True, members_only=True, key_hash="ab" * 32)


@pytest.mark.parametrize("action", ["where", "spec", "records", "blobs"])
def test_a_public_run_is_open_and_a_private_one_closed_until_membership_exists(action: RequestKind) -> None:
    assert may(B.peer_id, action, [spec()], THING)
    assert not may(B.peer_id, action, [private()], THING)


def test_a_blob_of_two_runs_may_be_had_by_whoever_may_have_it_of_one() -> None:
    assert may(B.peer_id, "blobs", [private(), spec()], THING)
    assert not may(
        B.peer_id,
        "blobs",
        [private(), private()],
        THING,
    )


@pytest.mark.parametrize("action", ["where", "spec", "records", "blobs"])
def test_what_belongs_to_no_run_here_is_only_missing(action: RequestKind) -> None:
    assert may(B.peer_id, action, [], THING)


def test_the_time_is_told_to_whoever_asks() -> None:
    assert may(B.peer_id, "clock", [private()], "")
