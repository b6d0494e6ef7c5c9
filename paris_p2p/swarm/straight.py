"""Reads a stream straight into memory of the reader's choice, for bodies of many megabytes.

asyncio.StreamReader copies every byte three times into memory that is new each time: that costs more than
hashing a chunk.
"""

from __future__ import annotations

import asyncio

from paris_p2p.swarm.pace import Pace


class StraightReader(asyncio.BufferedProtocol):
    """Takes a stream over from its StreamReader, before anything is due on it.

    What nobody asked for yet stays with p2pd.
    """

    def __init__(self, transport: asyncio.Transport, *, relayed: bool = False):
        self.relayed = relayed  # it goes through a relay
        self._transport, self._before = transport, transport.get_protocol()
        self._room = memoryview(b"")  # what is still to be filled
        self._news = asyncio.Event()  # full, or ended
        self._ended, self._last_s = False, 0.0
        transport.pause_reading()
        transport.set_protocol(self)

    async def fill(self, room: memoryview, pace: Pace | None = None) -> None:
        """Fills all of `room`.

        TimeoutError when what comes does not keep the pace, IncompleteReadError when the stream
        ended.
        """
        clock = asyncio.get_running_loop().time
        began_s = self._last_s = clock()
        self._room = room
        self._news.clear()
        self._transport.resume_reading()
        try:
            while self._room and not self._ended:
                until_s = self._deadline_s(pace, began_s, len(room))
                try:
                    async with asyncio.timeout_at(until_s):
                        await self._news.wait()
                except TimeoutError:
                    until_s = self._deadline_s(pace, began_s, len(room))  # what came meanwhile moved it
                    if until_s is not None and clock() >= until_s:
                        raise
            if self._room:
                raise asyncio.IncompleteReadError(b"", len(self._room))
        finally:
            self._transport.pause_reading()
            if pace is not None:
                pace.spend(len(room) - len(self._room), clock() - began_s)
            # nobody but the caller touches it from now on: hashes are made of it
            self._room = memoryview(b"")

    def _deadline_s(self, pace: Pace | None, began_s: float, whole_bytes: int) -> float | None:
        """Returns when, by the loop's clock, it is too long: since the last byte, or for what came in all."""
        if pace is None:
            return None
        return min(self._last_s + pace.silence_s, began_s + pace.left_s(whole_bytes - len(self._room)))

    async def readexactly(self, count_bytes: int, pace: Pace | None = None) -> bytes:
        """Reads a few bytes, as StreamReader does."""
        data = bytearray(count_bytes)
        await self.fill(memoryview(data), pace)
        return bytes(data)

    def send(self, data: bytes) -> None:
        """Sends on the same stream; what the other side does not take yet is kept."""
        self._transport.write(data)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._room, self._last_s = self._room[nbytes:], asyncio.get_running_loop().time()
        if not self._room:
            self._transport.pause_reading()
            self._news.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._news.set()
        return True  # this side may still write

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._news.set()
        self._before.connection_lost(error)

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()
