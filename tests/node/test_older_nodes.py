"""A node of an older version, which knows no private runs, is named to the person who joined by it."""

from __future__ import annotations

import logging

import pytest

from paris_p2p.errors import MissingBlobError, OlderPeerError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.node.older_nodes import warn_of_older_nodes
from paris_p2p.records import RequestKind
from paris_p2p.swarm.fake import FakeNetwork, FakeSwarm
from paris_p2p.swarm.seam import Swarm

RUN = "ab" * 32


async def test_an_older_bootstrap_node_is_named_and_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    old, new, away = (Identity.generate().peer_id for _ in range(3))
    answers = {
        old: OlderPeerError("knows no such question"),
        new: MissingBlobError("no such run"),
        away: UnreachableError("away"),
    }

    class Member(FakeSwarm):
        @property
        def given_peers(self) -> frozenset[str]:
            return frozenset(answers)

        async def ask(self, peer: str, action: RequestKind, run: str, body: bytes) -> bytes:
            assert (action, run, body) == ("hello", RUN, b"")
            raise answers[peer]

    swarm: Swarm = Member(FakeNetwork(), Identity.generate().peer_id, None, 0.0)
    with caplog.at_level(logging.WARNING):
        assert await warn_of_older_nodes(swarm, RUN) == [old]
    assert old in caplog.text
    assert "older version" in caplog.text
    assert new not in caplog.text
