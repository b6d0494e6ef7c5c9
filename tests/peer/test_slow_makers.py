"""A maker that sends next to nothing holds an attestor no longer than it leads, and never for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.identity import Identity
from paris_p2p.node.hearing import Hearing
from paris_p2p.rules.heard import Heard, Spell
from paris_p2p.rules.keeping import WAITING_KEPT
from paris_p2p.rules.placement import attest_limit_s
from paris_p2p.spec import GateSpec
from paris_p2p.training.messages import GateJob, GateResult
from tests.peer.world import CountingTrainer, Peer, World, good_gate

SLOT = "expert-0"


def drip_to(victim: Peer, drips: Callable[[str, str], bool]) -> None:
    """Chunks that (peer, blob) `drips` come to the victim a byte at a time: never silent, never done."""
    plain = victim.swarm.fetch_chunks

    async def forever() -> AsyncGenerator[tuple[int, bytes | memoryview], None]:
        await asyncio.Event().wait()
        yield 0, b""

    def fetch_chunks(
        peer: str, blob_id: str, indexes: Sequence[int], **more: Any
    ) -> AsyncGenerator[tuple[int, bytes | memoryview], None]:
        return forever() if drips(peer, blob_id) else plain(peer, blob_id, indexes, **more)

    victim.swarm.fetch_chunks = fetch_chunks  # type: ignore[method-assign]


class EvilTrainer(CountingTrainer):
    """Makes files of its own: the same ones as an honest maker's would come from that one."""

    maker = " of the evil one"


async def test_a_maker_that_drips_holds_the_attestor_no_longer_than_it_leads(tmp_path: Path) -> None:
    identity = Identity.generate()
    async with World(tmp_path, gate=GateSpec(members_attest=False, attestors=(identity.peer_id,))) as world:
        owner = await world.add("owner", role="owner", identity=identity)
        evil = await world.add("evil", slot=SLOT, trainer=EvilTrainer)
        drip_to(owner, lambda peer, _: peer == evil.node.peer_id)
        await world.until(lambda: bool(owner.node.board.pending(SLOT)))
        evil.task.cancel()  # it trains no more and goes on dripping
        await asyncio.gather(evil.task, return_exceptions=True)
        honest = await world.add("honest", slot=SLOT)
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.signer == honest.node.peer_id  # type: ignore[union-attr]


async def test_a_check_without_an_end_is_let_go_and_other_cards_come_first_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.check.attest_limit_s", lambda *_: 5.0)
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")

        def first_card(_: str, blob_id: str) -> bool:
            first = owner.node.board.pending(SLOT)[0].record
            return blob_id in (first.weights.id, first.resume.id)

        drip_to(owner, first_card)
        await world.add("a", slot=SLOT)
        await world.until(lambda: bool(owner.node.board.pending(SLOT)))
        first = owner.node.board.pending(SLOT)[0]
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.id != first.id  # type: ignore[union-attr]
        assert any("its check was not over after 5 s" in line for line in owner.said)


async def test_a_maker_that_drips_and_goes_on_leading_holds_up_another_leads_card_for_one_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_places = Heard(patience_s=1000.0, slot=Spell(0.0, 0.0, 0.0, barren_s=1500.0))
    monkeypatch.setattr(Hearing, "heard", lambda *_: two_places)
    monkeypatch.setattr("paris_p2p.peer.check.turn_s", lambda *_: 0.5)
    identity = Identity.generate()
    async with World(tmp_path, gate=GateSpec(members_attest=False, attestors=(identity.peer_id,))) as world:
        owner = await world.add("owner", role="owner", identity=identity)
        evil = await world.add("evil", slot=SLOT, trainer=EvilTrainer)
        drip_to(owner, lambda peer, _: peer == evil.node.peer_id)
        await world.until(lambda: bool(owner.node.board.pending(SLOT)))
        honest = await world.add("honest", slot=SLOT)
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        assert owner.node.board.tip(SLOT).card.signer == honest.node.peer_id  # type: ignore[union-attr]
        assert any("another's card waits" in line for line in owner.said)


async def test_a_check_ends_when_others_made_the_card_the_tip(tmp_path: Path) -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def stuck(job: GateJob) -> GateResult:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise
        raise AssertionError

    async def after(job: GateJob) -> GateResult:
        await entered.wait()
        return await good_gate(job)

    async with World(tmp_path) as world:
        await world.add("x", role="owner", gate=after)
        y = await world.add("y", role="owner", gate=stuck)
        await world.add("a", slot=SLOT)
        await asyncio.wait_for(ended.wait(), 120)
        assert y.node.board.tip(SLOT) is not None


async def test_a_checkpoint_that_was_measured_stays_until_it_is_signed_whatever_its_maker_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.rules.next_card.attest_patience_s", lambda _: 0.1)
    monkeypatch.setattr("paris_p2p.peer.seeding._FIRST_LOOK_S", 0.0)
    monkeypatch.setattr("paris_p2p.peer.seeding._PAUSE_S", 0.0)
    go_on = asyncio.Event()

    async def slow(job: GateJob) -> GateResult:
        await go_on.wait()
        return await good_gate(job)

    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner", gate=slow)
        a = await world.add("a", slot=SLOT)
        await world.until(lambda: len(owner.node.board.pending(SLOT)) > WAITING_KEPT + 1)
        await a.die()  # and with it the only other copy
        go_on.set()
        await world.until(lambda: owner.node.board.tip(SLOT) is not None)
        card = owner.node.board.tip(SLOT).card.record  # type: ignore[union-attr]
        assert owner.node.host.store.has(card.weights.id)
        assert owner.node.host.store.has(card.resume.id)


def test_a_check_may_take_as_long_as_a_slow_uplink_needs_for_a_big_checkpoint() -> None:
    of_11b_parameters = 18 * 11 * 10**9
    assert attest_limit_s(of_11b_parameters, 600.0) > of_11b_parameters / (2.1e6 / 8)  # 2.1 Mbit/s
    assert attest_limit_s(10**8, 60.0) < 3 * 3600
    assert attest_limit_s(0, 86400.0) >= 4 * 86400
