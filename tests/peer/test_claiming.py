"""A worker claims the slot of its crew only where nobody leads it (peer/claiming.py)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.claiming import Claimer
from paris_p2p.peer.room import Room
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import Decision
from paris_p2p.rules.placement import SlotState

SLOT, ME, OTHER = "expert-0", "12D3KooW" + "A" * 44, "12D3KooW" + "B" * 44


class Slots:
    """A node that only says claims; `leads` are who holds the slot once the board was read again."""

    def __init__(self, leads: list[str]):
        self.peer_id, self.leads, self.said = ME, leads, list[ClaimRecord]()
        self.spec = SimpleNamespace(timing=SimpleNamespace(claim_s=20.0, settle_s=0.0), slots=(SLOT,))

    async def refresh(self, slots: list[str]) -> None:
        """Reads nothing: who leads is known."""

    def header(self, kind: str, slot: str, lifetime_s: float) -> dict[str, Any]:
        return {
            "run": "ab" * 32,
            "slot": slot,
            "seq": 1,
            "issued_at": 2e9,
            "expires_at": 2e9 + lifetime_s,
        }

    async def say(self, record: ClaimRecord) -> ClaimRecord:
        self.said.append(record)
        return record


def claimer_of(node: Slots, monkeypatch: pytest.MonkeyPatch) -> Claimer:
    room, quiet = cast(Room, None), lambda *_: None
    claimer = Claimer(cast(RunNode, node), room, "", lambda: True, quiet, quiet)
    free = SlotState(slot=SLOT, lead="", clips=0, done=False)  # the tip is so old that there is room for two
    monkeypatch.setattr(claimer, "states", lambda: [free])
    monkeypatch.setattr(claimer, "_others", lambda slot, now_s: node.leads)
    monkeypatch.setattr(claimer, "_decide", lambda slot: Decision("claim", slot, 2, "there is room"))

    async def settled(claim: object) -> bool:
        return True

    monkeypatch.setattr(claimer, "_settled", settled)
    return claimer


async def test_a_worker_claims_a_slot_without_a_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Slots(leads=[])
    assert await claimer_of(node, monkeypatch).take_over(SLOT) is not None
    assert [one.epoch for one in node.said] == [2]


async def test_of_two_workers_the_second_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Slots(leads=[OTHER])
    assert await claimer_of(node, monkeypatch).take_over(SLOT) is None
    assert node.said == []


async def test_a_free_peer_may_lead_beside_one_that_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Slots(leads=[OTHER])
    assert await claimer_of(node, monkeypatch).claim() is not None
