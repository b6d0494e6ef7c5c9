"""Gossip from strangers: what is too large or too much is counted, and its sender shown the door."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

from paris_p2p.identity import Identity
from paris_p2p.kinds import cards_topic
from paris_p2p.swarm import daemon, gossip
from paris_p2p.swarm.gossip import LARGE_FORGIVEN, MESSAGES_AT_ONCE, Gossip
from tests.swarm.swarms import RUN, OnLoopback, claim
from tests.swarm.test_door import dictionary_request, store_request, stub_of

TOPIC = cards_topic(RUN)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """(a stranger, an honest peer that hears the run's gossip)."""
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path, stack)
        honest = await network.join()
        await honest.subscribe(TOPIC, _ignore)
        yield await network.join(), honest


async def _ignore(peer: str, data: bytes) -> None: ...


@pytest.mark.swarm
@pytest.mark.timeout(60)
async def test_a_sender_of_messages_over_the_size_is_disconnected(pair: tuple[Any, Any]) -> None:
    stranger, honest = pair
    control = await stranger._keeper.control()
    while not honest.refused.get("gossip: sender disconnected"):
        await control.publish(TOPIC, os.urandom(100_000))
        await asyncio.sleep(0.01)
    assert honest.refused["gossip: too large"] >= LARGE_FORGIVEN
    while any(peer.peer_id == stranger.peer_id for peer in await honest.peers()):
        await asyncio.sleep(0.01)


@pytest.mark.swarm
@pytest.mark.timeout(60)
async def test_a_p2pd_that_takes_too_much_memory_is_started_again(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, honest = pair
    before, limit_bytes = honest.daemon_pid, daemon.MAX_MEMORY_BYTES
    monkeypatch.setattr(daemon, "MAX_MEMORY_BYTES", 1 << 20)
    await honest._keeper._keep_once()
    monkeypatch.setattr(daemon, "MAX_MEMORY_BYTES", limit_bytes)
    await honest.mended.wait()
    assert honest.daemon_pid != before
    assert "MiB of memory, 1 MiB are the limit" in honest.last_words
    assert honest.refused["p2pd restarted: too much memory"] == 1
    assert honest._keeper.link.daemon.memory_bytes() > 1 << 20
    assert await honest.store_record(claim(Identity.generate(), 1))


@pytest.mark.swarm
@pytest.mark.timeout(60)
async def test_a_dht_message_over_p2pds_own_limit_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        network, limit_bytes = OnLoopback(tmp_path, stack), daemon.MAX_RPC_BYTES
        honest: Any = await network.join()
        # the stranger's own p2pd sends what it is given
        monkeypatch.setattr(daemon, "MAX_RPC_BYTES", 4 << 20)
        stub = stub_of(await network.join(), honest)
        for size_bytes in (limit_bytes - 1000, limit_bytes + 1000):
            with pytest.raises((P2PHandlerError, P2PDaemonError, asyncio.TimeoutError)):
                await stub.rpc_store(dictionary_request(bytes(size_bytes)), timeout=2)
        answer = await stub.rpc_store(store_request([claim(Identity.generate(), 1)]), timeout=20)
        assert list(answer.store_ok) == [True]
        assert honest.daemon_restarts == 0


class Told:
    """A daemon that brings these messages and notes whom it was told to disconnect."""

    def __init__(self, messages: list[tuple[str, bytes]]):
        self.brought = messages
        self.disconnected: list[str] = []

    async def messages(self, topic: str) -> AsyncGenerator[tuple[str, bytes], None]:
        for message in self.brought:
            yield message

    async def disconnect(self, peer: str) -> None:
        self.disconnected.append(peer)


async def delivered(control: Told) -> tuple[list[str], Gossip]:
    """The senders whose messages were handed over."""
    heard: list[str] = []

    async def hear(peer: str, data: bytes) -> None:
        heard.append(peer)

    told = Gossip("me")
    told.subscribe(TOPIC, hear)
    told.attach(control)  # type: ignore[arg-type]
    await told._listeners[TOPIC]
    return heard, told


async def test_a_sender_over_its_rate_is_disconnected_once_what_is_forgiven_is_used_up() -> None:
    count = MESSAGES_AT_ONCE + gossip.MANY_FORGIVEN + 30
    control = Told([("noisy", b"x")] * count + [("quiet", b"x")])
    heard, told = await delivered(control)
    assert MESSAGES_AT_ONCE <= heard.count("noisy") < count - gossip.MANY_FORGIVEN
    assert heard[-1] == "quiet"
    assert set(control.disconnected) == {"noisy"}
    assert told.refused["gossip: sender disconnected"] == len(control.disconnected)


async def test_made_up_senders_together_are_limited_too() -> None:
    heard, told = await delivered(Told([(f"sender {number}", b"x") for number in range(2000)]))
    assert gossip.ALL_AT_ONCE <= len(heard) < 1000
    assert told.refused["gossip: too many of all senders"] == 2000 - len(heard)


async def test_a_flood_that_has_come_already_leaves_the_event_loop_its_turns() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await delivered(Told([("a", b"x")] * 300))
    counting.cancel()
    assert turns >= 300


async def test_a_topic_without_handlers_is_no_longer_listened_to() -> None:
    told = Gossip("me")
    told.subscribe(TOPIC, _ignore)
    told.attach(Told([]))  # type: ignore[arg-type]
    listener = told._listeners[TOPIC]
    told.unsubscribe(TOPIC, _ignore)
    await asyncio.gather(listener, return_exceptions=True)
    assert not told._listeners
    told.attach(Told([]))  # type: ignore[arg-type]
    assert not told._listeners
