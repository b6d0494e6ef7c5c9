"""Waiting for news: nobody misses any, nobody polls, and who stops a leadership first says why."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from paris_p2p.peer.notifier import Notifier, StopRequest
from tests.rules.made import A, card


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paris_p2p.peer.notifier._GATHER_S", 0.0)


async def test_one_notification_wakes_every_waiter_once() -> None:
    news, woken = Notifier(), list[int]()

    async def waiter(number: int) -> None:
        await news.wait()
        woken.append(number)

    waiters = [asyncio.create_task(waiter(number)) for number in range(3)]
    await asyncio.sleep(0)
    news.notify()
    await asyncio.gather(*waiters)
    assert sorted(woken) == [0, 1, 2]
    await news.wait(0.0)  # the next one waits for the next news, or its limit


async def test_until_asks_again_with_each_notification_and_gives_up_at_its_limit() -> None:
    news, asked = Notifier(), list[int]()

    def third_time() -> bool:
        asked.append(1)
        return len(asked) == 3

    waiting = asyncio.create_task(news.until(third_time))
    while not waiting.done():
        news.notify()
        await asyncio.sleep(0)
    assert await waiting
    assert len(asked) == 3
    assert not await news.until(lambda: False, limit_s=-math.inf)


async def test_what_happens_while_nobody_waits_is_seen_by_who_looks_before_waiting() -> None:
    news, done = Notifier(), asyncio.Event()
    done.set()
    news.notify()
    assert await news.until(done.is_set)


async def test_records_of_the_slot_notify_while_somebody_listens() -> None:
    node: Any = SimpleNamespace(listeners=[])
    news, heard = Notifier(), list[str]()
    news.notify = lambda: heard.append("news")  # type: ignore[method-assign]
    with news.listening(node, "expert-0"):
        for slot in ("expert-0", "router"):
            for listener in node.listeners:
                listener(card(A, slot=slot))
    assert heard == ["news"]
    assert node.listeners == []


async def test_the_first_reason_to_stop_counts_and_wakes_who_waits() -> None:
    news = Notifier()
    stop = StopRequest(news)
    waiting = asyncio.create_task(news.until(lambda: stop.made))
    await asyncio.sleep(0)
    stop.make("paused")
    stop.make("leaving")
    assert await waiting
    assert stop.reason == "paused"


async def test_work_ends_with_its_result_or_with_the_request_to_stop() -> None:
    stop, ended = StopRequest(Notifier()), list[str]()

    async def endless() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return ""

    async def short() -> str:
        return "done"

    assert await stop.unless_made(short()) == "done"
    working = asyncio.create_task(stop.unless_made(endless()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stop.make("leaving")
    assert await working is None
    assert ended == ["cancelled"]


async def test_an_error_of_the_work_is_its_callers() -> None:
    async def broken() -> None:
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="disk is full"):
        await StopRequest(Notifier()).unless_made(broken())
