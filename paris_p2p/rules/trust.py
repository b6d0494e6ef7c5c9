"""Whose word counts, and who may ask for what (DESIGN: order and trust)."""

from __future__ import annotations

from typing import Literal

from paris_p2p.spec import RunSpec

Action = Literal["spec", "records", "blobs"]


def may_attest(spec: RunSpec, peer: str) -> bool:
    """Every peer in a members-only run; otherwise the owner's node and the delegates the RunSpec names."""
    return spec.gate.members_attest or peer in spec.gate.attestors


def may(peer: str, action: Action, spec: RunSpec) -> bool:
    """The one rule every handler asks. Runs are readable by whoever knows them until private runs exist; claims and
    cards need no permission, because the attestors' signatures are what counts."""
    return not spec.private
