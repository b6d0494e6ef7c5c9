"""Attacks gossip with messages and subscriptions that p2pd takes before this program sees them."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

from bench.attacks.lab import Lab
from bench.attacks.victim import RUN
from paris_p2p.envelope import seal
from paris_p2p.errors import SwarmError
from paris_p2p.identity import Identity
from paris_p2p.kinds import cards_topic
from paris_p2p.records import ClaimRecord


async def large_messages(lab: Lab) -> None:
    """Sends 30 messages of 900 KB on a run's topic; the limit is 2 KiB."""
    control = await lab.stranger._keeper.control()
    for _ in range(30):
        await control.publish(cards_topic(RUN), os.urandom(900_000))
        await asyncio.sleep(0)


async def many_messages(lab: Lab) -> None:
    """Sends 4,000 validly signed claims on a run's topic, as fast as they go."""
    control, who, now = await lab.stranger._keeper.control(), Identity.generate(), time.time()
    times = {
        "run": RUN,
        "slot": "expert-0",
        "issued_at": now,
        "expires_at": now + 900,
        "epoch": 1,
        "claimed_at": now,
    }
    messages = [seal(who, ClaimRecord(seq=seq, **times)).data for seq in range(4000)]
    for start in range(0, len(messages), 50):
        await asyncio.gather(
            *(control.publish(cards_topic(RUN), data) for data in messages[start : start + 50])
        )


async def subscriptions(lab: Lab, count: int = 225_000) -> None:
    """Says 225,000 topics that nobody else has, in GossipSub's own protocol."""
    control = await lab.stranger._keeper.control()
    for start in range(0, count, 3000):  # p2pd ends such a stream soon, so that each has one message
        names = [
            f"made-up/{number:08d}/{os.urandom(4).hex()}".encode() for number in range(start, start + 3000)
        ]
        # RPC { repeated SubOpts subscriptions = 1 { bool subscribe = 1; string topicid = 2; } }
        options = [b"\x08\x01\x12" + _varint(len(name)) + name for name in names]
        message = b"".join(b"\x0a" + _varint(len(option)) + option for option in options)
        with suppress(SwarmError, ConnectionError):
            _, writer, _ = await control.open_stream(lab.victim.peer_id, "/meshsub/1.1.0", 10.0)
            writer.write(_varint(len(message)) + message)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()


def _varint(number: int) -> bytes:
    data = b""
    while number >= 0x80:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])
