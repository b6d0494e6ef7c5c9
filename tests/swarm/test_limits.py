"""Rates and counts of what others may cause."""

from __future__ import annotations

import asyncio

import pytest

from paris_p2p.errors import UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.swarm import limits
from paris_p2p.swarm.gossip import MESSAGES_AT_ONCE, Gossip
from paris_p2p.swarm.limits import MAX_REASONS, OTHER_REASONS, EventLimit, Meter, RateLimit, Reasons
from paris_p2p.swarm.seam import MAX_GOSSIP_BYTES


async def test_many_streams_together_keep_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s = 0.0

    async def wait(duration_s: float) -> None:
        nonlocal waited_s
        waited_s = max(waited_s, duration_s)

    monkeypatch.setattr(limits.asyncio, "sleep", wait)
    limit = RateLimit(1e6)
    for _ in range(100):  # 10 MB at 1 MB/s, from as many streams
        await limit.take(100_000)
    assert waited_s == pytest.approx(10 - limits._BURST_S, abs=0.2)


async def test_no_limit_waits_for_nothing() -> None:
    await RateLimit(0).take(1 << 60)


def test_a_meter_counts_all_and_rates_only_what_is_recent() -> None:
    now = 1000.0
    meter = Meter(lambda: now)
    meter.add(5_000_000)
    assert meter.bytes_per_s() == pytest.approx(1_000_000)
    now += 6
    assert meter.bytes_per_s() == 0
    assert meter.total_bytes == 5_000_000


def test_a_meter_counts_once_the_seconds_in_which_one_or_more_fill_the_line() -> None:
    now = 1000.0
    meter = Meter(lambda: now)
    with meter.filling():
        now += 2
        assert meter.filled_s == 2
        with meter.filling():
            now += 3
        now += 1
    now += 100
    assert meter.filled_s == 6


def test_a_sender_may_burst_then_keeps_a_rate_and_others_are_not_touched() -> None:
    now = 0.0
    limit = EventLimit(per_s=1, burst=3, clock=lambda: now)
    assert [limit.allow("loud") for _ in range(5)] == [True] * 3 + [False] * 2
    assert limit.allow("quiet")
    now = 2.0
    assert [limit.allow("loud") for _ in range(3)] == [True, True, False]


async def test_gossip_of_a_loud_sender_is_dropped_and_a_failing_handler_does_not_stop_the_topic() -> None:
    gossip, heard = Gossip(Identity.generate().peer_id), []

    async def fail(sender: str, data: bytes) -> None:
        raise UnreachableError("as it happens")

    async def hear(sender: str, data: bytes) -> None:
        heard.append(data)

    gossip.subscribe("topic", fail)
    gossip.subscribe("topic", hear)
    for _ in range(MESSAGES_AT_ONCE + 50):
        await gossip._hand_over("topic", "loud", b"x")
    assert MESSAGES_AT_ONCE <= len(heard) < MESSAGES_AT_ONCE + 50
    await gossip._hand_over("topic", "other", bytes(MAX_GOSSIP_BYTES + 1))
    assert gossip.refused["gossip: too large"] == 1
    assert gossip.refused["gossip: handler failed"] == len(heard)


async def test_taking_is_served_in_the_order_of_asking() -> None:
    limit, order = RateLimit(1e9), []

    async def take(name: int) -> None:
        await limit.take(1_000_000)
        order.append(name)

    await asyncio.gather(*(take(name) for name in range(5)))
    assert order == sorted(order)


def test_reasons_of_refusal_are_counted_under_a_bounded_number_of_names() -> None:
    reasons = Reasons()
    for number in range(1000):
        reasons[f"the loss is {number}"] += 1
    reasons["the loss is 7"] += 1
    assert len(reasons) == MAX_REASONS + 1
    assert (reasons.total(), reasons["the loss is 7"]) == (1001, 2)
    assert reasons[OTHER_REASONS] == 1000 - MAX_REASONS
