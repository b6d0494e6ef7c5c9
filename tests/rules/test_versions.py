"""Versions that peers tell: the owner's node or two peers make this one behind, one peer does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.identity import Identity
from paris_p2p.rules.versions import MAX_NUMBER, compare_versions, version_number, version_words

OWNER = Identity.from_private_bytes(b"o" * 32).peer_id


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.2.0", 200), ("1.12.3", 11203), ("0.3.0.dev4", 300), ("2.0", 20000), ("7.0.0", 0), ("next", 0)],
)
def test_a_version_travels_as_a_number_or_not_at_all(text: str, number: int) -> None:
    assert version_number(text) == number


@given(st.integers(0, MAX_NUMBER).filter(lambda number: number // 100 % 100 < 100))
def test_words_and_numbers_are_of_one_version(number: int) -> None:
    assert version_number(version_words(number)) == number


@pytest.mark.parametrize(
    ("told", "newer"),
    [
        ({}, 0),
        ({"a": 200, "b": 200}, 0),
        ({"a": 65535}, 0),  # one alone may say anything
        ({"a": 300, "b": 300}, 300),
        ({"a": 65535, "b": 300}, 300),  # both are at 300 or above
        ({"a": 100, "b": 150}, 0),
        ({OWNER: 300}, 300),
        ({OWNER: 100, "a": 200}, 0),
        ({"a": 0, "b": 0}, 0),
    ],
)
def test_this_one_is_behind_what_the_owner_or_two_peers_have(told: dict[str, int], newer: int) -> None:
    versions = compare_versions(200, told, OWNER)
    assert versions.newer == newer
    assert versions.is_behind == bool(newer)
    assert any("this one is behind" in line for line in versions.lines()) == bool(newer)
    assert versions.silent == sum(1 for number in told.values() if not number)
