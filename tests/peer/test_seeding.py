"""The owner's node copies tips: a holder that fell silent holds up neither the other slots nor the
clearing of the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paris_p2p.errors import DaemonError
from paris_p2p.node.copies import Copies
from paris_p2p.peer.seeding import _TELL_AGAIN_S, _copy, announce
from paris_p2p.records import BlobRef
from tests.peer.world import World


async def test_a_silent_holder_of_one_tip_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.peer.seeding._FIRST_LOOK_S", 0.1)
    monkeypatch.setattr("paris_p2p.peer.seeding._PAUSE_S", 0.1)
    copying: set[asyncio.Task[Any] | None] = set()
    want = Copies.want

    def noted(self: Copies, name: str, what: str, copy: Any) -> None:
        want(self, name, what, copy)
        copying.update(task for _, task in self._running.values())

    monkeypatch.setattr(Copies, "want", noted)
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        board, store, fetch = owner.node.board, owner.node.host.store, owner.node.fetch

        async def silent(refs: Sequence[BlobRef], what: str, *more: Any) -> list[Path]:
            """For expert-0's tips, and for this node's own attesting: it has only what it copies."""
            if what in board.slots["expert-0"].cards or asyncio.current_task() not in copying:
                await asyncio.Event().wait()
            return await fetch(refs, what, *more)

        monkeypatch.setattr(owner.node, "fetch", silent)
        await world.add("a", slot="expert-0")
        await world.add("b", slot="router")

        def is_copied(slot: str) -> bool:
            tip = board.tip(slot)
            return tip is not None and store.has(tip.card.record.weights.id)

        await world.until(lambda: board.tip("expert-0") is not None and is_copied("router"))
        assert not is_copied("expert-0")


async def test_what_is_wanted_anew_ends_the_copying_of_what_was_wanted_before() -> None:
    copies, began = Copies(), list[str]()

    def forever(what: str) -> Any:
        async def copy() -> None:
            began.append(what)
            await asyncio.Event().wait()

        return copy

    for what in ("old", "old", "new", "new"):
        copies.want("expert-0", what, forever(what))
        await asyncio.sleep(0)
    while began != ["old", "new"]:
        await asyncio.sleep(0)
    await copies.close()


async def test_the_end_of_a_copying_is_news_whatever_ended_it() -> None:
    ended = asyncio.Event()
    copies = Copies(ended.set)

    async def copied() -> None:
        pass

    async def broken() -> None:
        raise ZeroDivisionError

    for copy in (copied, broken):
        ended.clear()
        copies.want(copy.__name__, "card", copy)
        await asyncio.wait_for(ended.wait(), 30)
    await copies.close()


async def test_an_error_that_nobody_expected_is_raised_not_lost() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    ended = asyncio.Event()
    copies = Copies(ended.set)
    copies.want("expert-0", "card", broken)
    await ended.wait()
    with pytest.raises(ZeroDivisionError):
        copies.want("expert-0", "card", broken)


class Deaf:
    """A node whose first two announcements fail, as while p2pd is away; `heard` is set at the next one."""

    spec = SimpleNamespace(train_shards=())
    state = SimpleNamespace(slots_ever=())
    host, run = SimpleNamespace(), "a" * 64

    def __init__(self) -> None:
        self.tries, self.heard = 0, asyncio.Event()

    async def announce_peer(self, _: str) -> None:
        await self.announce_holding("")

    async def announce_holding(self, what: str) -> None:
        self.tries += what != self.run
        if self.tries <= 2:
            raise DaemonError("p2pd is being restarted")
        self.heard.set()

    async def fetch_card(self, _: Any) -> None: ...


async def test_a_failed_announcement_is_made_again_within_a_minute_and_not_when_the_next_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _TELL_AGAIN_S <= 60.0
    monkeypatch.setattr("paris_p2p.peer.seeding._TELL_AGAIN_S", 0.0)
    node, said = Deaf(), list[str]()
    telling = asyncio.create_task(announce(cast(Any, node), "peer", said.append))
    async with asyncio.timeout(30):
        await node.heard.wait()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert len(said) == 1  # however often it fails in a row


async def test_a_copy_is_announced_though_p2pd_was_away_when_it_had_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paris_p2p.peer.seeding._AGAIN_S", 0.0)
    node, tip = Deaf(), SimpleNamespace(card=SimpleNamespace(id="b" * 64))
    await _copy(cast(Any, node), "expert-0", cast(Any, tip))
    assert node.heard.is_set()
