"""Gossip over the daemon's GossipSub: bounded messages, limited per sender, subscribed again after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import aclosing

from paris_p2p.errors import DaemonError, RecordError
from paris_p2p.swarm.control import Control
from paris_p2p.swarm.limits import EventLimit
from paris_p2p.swarm.seam import MAX_GOSSIP_BYTES, GossipHandler

log = logging.getLogger(__name__)
MESSAGES_PER_S = 10.0
MESSAGES_AT_ONCE = 100


class Gossip:
    """Topics and their handlers; `attach` binds them to a (new) daemon."""

    def __init__(self, peer_id: str) -> None:
        self.refused: Counter[str] = Counter()
        self._peer_id = peer_id
        self._handlers: dict[str, list[GossipHandler]] = {}
        self._limit = EventLimit(MESSAGES_PER_S, MESSAGES_AT_ONCE)
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._control: Control | None = None

    async def publish(self, control: Control, topic: str, data: bytes) -> None:
        if len(data) > MAX_GOSSIP_BYTES:
            raise RecordError(f"a gossip message of {len(data)} bytes is over the limit of {MAX_GOSSIP_BYTES}")
        await control.publish(topic, data)

    def subscribe(self, topic: str, handler: GossipHandler) -> None:
        self._handlers.setdefault(topic, []).append(handler)
        if self._control is not None:
            self._listen(topic, self._control)

    def unsubscribe(self, topic: str, handler: GossipHandler) -> None:
        """The last handler's topic is given up, at p2pd too."""
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
        """Stop listening, keep the handlers."""
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
        except DaemonError as error:  # the supervisor sees to the daemon and attaches again
            log.warning("gossip on %s stopped: %s", topic, error)

    async def _hand_over(self, topic: str, sender: str, data: bytes) -> None:
        if sender == self._peer_id:
            return
        if len(data) > MAX_GOSSIP_BYTES:
            self.refused["gossip: too large"] += 1
        elif not self._limit.allow(sender):
            self.refused["gossip: too many of one sender"] += 1
        else:
            for handler in list(self._handlers.get(topic, [])):
                try:
                    await handler(sender, data)
                except Exception:  # one handler's fault ends neither the topic nor the others
                    log.exception("a handler of %s failed", topic)
                    self.refused["gossip: handler failed"] += 1
