"""What an attestor signed and nobody could be told of is told again soon, not at its next start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import UnreachableError
from paris_p2p.peer.voting import Voter
from paris_p2p.records import CardRecord
from paris_p2p.rules.tips import Tip
from paris_p2p.store.ledger import Ledger
from paris_p2p.training.messages import GateResult
from tests.peer.world import TIMING, World

from ..rules.made import NOW, RUN, A, B, C, card, tip

SLOT = "expert-0"
GOOD = GateResult(ok=True, loss=1.0, reference_loss=1.0, gate_clips=4)


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


class Telling:
    """A voter whose network fails, or hangs at a card, as a test says."""

    def __init__(self, folder: Path) -> None:
        self.tips: dict[str, Tip] = {}
        self.fails, self.hangs_at = True, ""
        self.hung, self.goes_on = asyncio.Event(), asyncio.Event()
        self.told: list[str] = []
        node: Any = SimpleNamespace(
            ledger=Ledger(folder),
            swarm=SimpleNamespace(open=lambda data, kinds: open_envelope(data, run=RUN, kinds=kinds)),
            board=SimpleNamespace(tip=self.tips.get),
            state=SimpleNamespace(attests=lambda attestation, of: True),
            keep_good=lambda of: None,
            keep=lambda envelope: None,
            sign=lambda record: seal(C, record),
            header=lambda kind, slot: {
                "run": RUN,
                "slot": slot,
                "issued_at": NOW,
                "expires_at": NOW + 9.0,
            },
            tell=self._tell,
            announce_holding=self._announce,
        )
        self.voter = Voter(node, lambda line: None)

    async def sign(self, of: Envelope[CardRecord]) -> None:
        await self.voter.sign(of, GOOD, None)

    async def _tell(self, envelope: Envelope[Any]) -> None:
        fails = self.fails
        if envelope.record.card == self.hangs_at:
            self.hung.set()
            await self.goes_on.wait()
        if fails:
            raise UnreachableError("nobody is there")
        self.told.append(envelope.record.card)

    async def _announce(self, what: str) -> None:
        pass

    @asynccontextmanager
    async def keeps_telling(self, hangs_at: str) -> AsyncIterator[asyncio.Task[None]]:
        """Tells again while the block lasts, which begins when that hangs at a card."""
        self.hangs_at = hangs_at
        telling = asyncio.create_task(self.voter.keep_telling())
        try:
            await asyncio.wait_for(self.hung.wait(), 10)
            yield telling
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


@pytest.mark.parametrize("goes_through", [False, True])
async def test_a_newer_attestation_is_told_whatever_becomes_of_the_one_before_it(
    tmp_path: Path, goes_through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.voting._TELL_AGAIN_S", 0.01)
    swarm, older, newer = Telling(tmp_path), card(A), card(B, epoch=2)
    await swarm.sign(older)
    swarm.fails = not goes_through
    async with swarm.keeps_telling(older.id):
        swarm.fails = True
        await swarm.sign(newer)
        swarm.goes_on.set()
        await asyncio.sleep(0.1)
        swarm.fails = False
        async with asyncio.timeout(10):
            while newer.id not in swarm.told:
                await asyncio.sleep(0.01)


async def test_what_was_told_and_overtaken_while_another_slot_is_told_of_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.voting._TELL_AGAIN_S", 0.01)
    swarm, first, other = Telling(tmp_path), card(A), card(B, slot="expert-1")
    await swarm.sign(first)
    await swarm.sign(other)
    swarm.fails = False
    async with swarm.keeps_telling(first.id) as telling:
        after = card(B, other, slot="expert-1")
        swarm.tips["expert-1"] = tip(after)
        await swarm.sign(after)
        swarm.goes_on.set()
        await asyncio.sleep(0.1)
        assert not telling.done()
        assert swarm.told == [after.id, first.id]
