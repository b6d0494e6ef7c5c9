"""What an attestor signed and nobody could be told of is told again soon, not at its next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.errors import UnreachableError
from tests.peer.world import TIMING, World

SLOT = "expert-0"


@pytest.mark.parametrize("kind", ["attestation", "holder"])
async def test_an_attestation_that_could_not_be_told_is_told_again(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.voting._TELL_AGAIN_S", 0.1)
    timing = TIMING.model_copy(update={"checkpoint_s": 600.0})  # no second card goes out
    tried: list[str] = []
    async with World(tmp_path, timing=timing) as world:
        owner = await world.add("owner", role="owner")
        tell = owner.node.tell

        async def failing(envelope: Envelope[Any]) -> None:
            if envelope.record.kind == kind and envelope.record.slot in ("", SLOT):
                tried.append(getattr(envelope.record, "card", ""))
                if owner.volunteer.attestor.voter.votes.newest(SLOT) and len(tried) < 4:
                    raise UnreachableError("nobody is there")
            await tell(envelope)

        monkeypatch.setattr(owner.node, "tell", failing)
        peer = await world.add("a", slot=SLOT)
        await world.until(lambda: owner.volunteer.attestor.attested == 1 and len(tried) >= 4, wait_s=60)
        await world.until(lambda: peer.node.board.tip(SLOT) is not None)
        assert len(set(tried)) == 1
        assert sum("could not tell what was attested" in said for said in owner.said) == 1
        assert not any("could not check" in said for said in owner.said)
