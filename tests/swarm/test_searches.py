"""A search of the DHT that nobody waits for any more ends by itself: cancelled, it would leave hivemind's
tasks behind.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paris_p2p.swarm.dht import BulletinBoard
from paris_p2p.swarm.verified import RecordView


class Node:
    """A DHT node whose search ends when it is told to, and notes how."""

    is_alive = True

    def __init__(self) -> None:
        self.go_on, self.ended = asyncio.Event(), list[str]()

    async def get(self, key: str, latest: bool) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("by itself")


class Door:
    def close(self) -> None: ...


class Client:
    async def shutdown(self) -> None: ...


@pytest.mark.parametrize("how", ["too slow", "cancelled"])
async def test_a_search_that_is_given_up_ends_by_itself(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node: Any = Node()
    board = BulletinBoard(Client(), node, Door())  # type: ignore[arg-type]
    if how == "too slow":
        monkeypatch.setattr("paris_p2p.swarm.dht.OPERATION_LIMIT_S", 0.0)
        assert await board.read("key", "ab" * 32, RecordView()) == []
    else:
        reading = asyncio.create_task(board.read("key", "ab" * 32, RecordView()))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert node.ended == []
    node.go_on.set()
    await board.close()
    assert node.ended == ["by itself"]
