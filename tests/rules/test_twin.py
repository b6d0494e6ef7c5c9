"""Another node with the same key is told from this node's own past, whatever its clock did."""

from __future__ import annotations

import pytest

from paris_p2p.rules.twin import _GRACE_S, _YOUNG_S, Twin, is_foreign, must_stop

from .made import NOW

BEFORE_MS = int((NOW - 50) * 1000)


def test_what_was_signed_after_the_start_and_not_here_is_anothers() -> None:
    assert is_foreign(NOW + 1, NOW, BEFORE_MS)


@pytest.mark.parametrize(
    ("issued_s", "before_ms"),
    [(NOW - 60, BEFORE_MS), (NOW - 10, BEFORE_MS), (NOW + 1800, int((NOW + 3600) * 1000))],
    ids=["an earlier life", "a folder put back from a copy", "an earlier life with a clock that was ahead"],
)
def test_a_nodes_own_past_is_nobody_elses(issued_s: float, before_ms: int) -> None:
    assert not is_foreign(issued_s, NOW, before_ms)


def test_the_younger_node_stops_at_once_and_the_older_one_only_when_the_other_goes_on() -> None:
    seen = Twin("a claim", NOW, NOW)
    assert must_stop(seen, 10)
    assert not must_stop(seen, _YOUNG_S + 600)
    assert must_stop(Twin("a claim", NOW + _GRACE_S + 1, NOW), _YOUNG_S + 600)
