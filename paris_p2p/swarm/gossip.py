"""Gossip over the daemon's GossipSub: bounded, limited per sender and in all, with an end for offenders.

p2pd takes messages of up to 1 MiB and passes them on before this program sees them, and has no option against
that. So a sender that keeps at it is disconnected: an honest one sends nothing of the kind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import aclosing

from paris_p2p.errors import DaemonError, RecordError
from paris_p2p.swarm.limits import EventLimit
from paris_p2p.swarm.p2pd import Control
from paris_p2p.swarm.seam import MAX_GOSSIP_BYTES, GossipHandler

log = logging.getLogger(__name__)
MESSAGES_PER_S = 10.0  # of one sender
MESSAGES_AT_ONCE = 100
ALL_PER_S = 100.0  # of all senders together; gossip is a hint, the bulletin board has it too
ALL_AT_ONCE = 400
LARGE_FORGIVEN = 3  # messages over the size, and one more every ten minutes
MANY_FORGIVEN = 100  # messages over the rate, and one more each second


class Gossip:
    """Keeps topics and their handlers; `attach` binds them to a (new) daemon."""

    def __init__(self, peer_id: str) -> None:
        self.refused: Counter[str] = Counter()
        self._peer_id = peer_id
        self._handlers: dict[str, list[GossipHandler]] = {}
        self._limit = EventLimit(MESSAGES_PER_S, MESSAGES_AT_ONCE)
        self._limit_of_all = EventLimit(ALL_PER_S, ALL_AT_ONCE)
        self._forgiven = {
            "large": EventLimit(1 / 600, LARGE_FORGIVEN),
            "many": EventLimit(1.0, MANY_FORGIVEN),
        }
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._control: Control | None = None

    async def publish(self, control: Control, topic: str, data: bytes) -> None:
        if len(data) > MAX_GOSSIP_BYTES:
            raise RecordError(
                f"a gossip message of {len(data)} bytes is over the limit of {MAX_GOSSIP_BYTES}"
            )
        await control.publish(topic, data)

    def subscribe(self, topic: str, handler: GossipHandler) -> None:
        self._handlers.setdefault(topic, []).append(handler)
        if self._control is not None:
            self._listen(topic, self._control)

    def unsubscribe(self, topic: str, handler: GossipHandler) -> None:
        """Removes a handler; with the last one the topic is given up, at p2pd too."""
        self._handlers[topic] = [other for other in self._handlers.get(topic, []) if other != handler]
        if not self._handlers[topic]:
            del self._handlers[topic]
            if (listener := self._listeners.pop(topic, None)) is not None:
                listener.cancel()

    def attach(self, control: Control) -> None:
        self._control = control
        for topic in self._handlers:
            self._listen(topic, control)

    async def detach(self) -> None:
        """Stops listening and keeps the handlers."""
        self._control = None
        tasks, self._listeners = list(self._listeners.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _listen(self, topic: str, control: Control) -> None:
        listener = self._listeners.get(topic)
        if listener is None or listener.done():
            self._listeners[topic] = asyncio.create_task(self._deliver(topic, control))

    async def _deliver(self, topic: str, control: Control) -> None:
        try:
            async with aclosing(control.messages(topic)) as messages:
                async for sender, data in messages:
                    await self._hand_over(topic, sender, data)
                    await asyncio.sleep(0)  # what has come already is read without a pause
        except DaemonError as error:  # the supervisor sees to the daemon and attaches again
            log.warning("gossip on %s stopped: %s", topic, error)

    async def _hand_over(self, topic: str, sender: str, data: bytes) -> None:
        if sender == self._peer_id:
            return
        if len(data) > MAX_GOSSIP_BYTES:
            self.refused["gossip: too large"] += 1
            await self._offended(sender, "large")
        elif not self._limit.allow(sender):
            self.refused["gossip: too many of one sender"] += 1
            await self._offended(sender, "many")
        elif not self._limit_of_all.allow(topic):
            self.refused["gossip: too many of all senders"] += 1
        else:
            for handler in list(self._handlers.get(topic, [])):
                try:
                    await handler(sender, data)
                except Exception:  # one handler's fault ends neither the topic nor the others
                    log.exception("a handler of %s failed", topic)
                    self.refused["gossip: handler failed"] += 1

    async def _offended(self, sender: str, how: str) -> None:
        """Disconnects a sender that has used up what is forgiven.

        It need not be connected: others pass its messages on.
        """
        if self._control is None or self._forgiven[how].allow(sender):
            return
        self.refused["gossip: sender disconnected"] += 1
        try:
            await self._control.disconnect(sender)
        except DaemonError as error:  # it is not connected to this peer, or has left
            log.debug("%s was not disconnected: %s", sender, error)
