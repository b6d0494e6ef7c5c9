"""One run's notices as others tell them: from connected peers, and from the bulletin board
(docs/protocol.md, "Notices").

A peer that was away reads on from the first number that it lacks. The bytes are the owner's, so that any peer
may tell them and put them back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.kinds import notices_key
from paris_p2p.node.board import Board
from paris_p2p.node.board_answers import MAX_NOTICES_TOLD
from paris_p2p.node.run_swarm import RunSwarm
from paris_p2p.owner_records import MAX_NOTICES
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks

log = logging.getLogger(__name__)
_MAX_ANSWERS = 64  # of one peer in a row; each brings up to 512 notices
_MAX_AT_ONCE = 16  # numbers that are read from the bulletin board side by side
_MAX_ASKED = 4  # peers that say they know more
_ASKED_S = 10.0
_MAX_LIARS = 1024
_LEFT_ALONE_S = 300.0  # one that named a number and did not tell it, whatever it names then


class NoticeReading:
    """Reads the notices that this node lacks; `receive` takes the envelopes of an answer."""

    def __init__(self, swarm: RunSwarm, board: Board, receive: Callable[[Sequence[bytes]], Awaitable[None]]):
        self.swarm, self.run, self.board, self.receive = swarm, board.run, board, receive
        self._looked_at = 0  # the number of the notice whose place on the board was looked at last
        self._liars: dict[str, int] = {}  # peer -> a number that it named and did not know
        self._alone_until_s: dict[str, float] = {}  # peer that did not tell what it said it knows -> when

    async def ask(self, peer: str) -> None:
        """Asks one peer for all notices that this node lacks. Raises what asking raises.

        The newest that is known is asked for again: where the peer has another of its number, the owner
        contradicts itself.
        """
        for _ in range(_MAX_ANSWERS):
            before = self.board.word.chain
            key = notices_key(self.run, max(1, before.number))
            told = await self.swarm.ask_records(peer, key)
            await self.receive(told)
            if len(told) < MAX_NOTICES_TOLD or self.board.word.chain.number == before.number:
                return

    async def hear(self, known: Mapping[str, int]) -> None:
        """Takes how many notices each peer says that it knows, and asks those that know more, who have a part
        in the run first.
        """
        number, now_s = self.board.word.chain.number, time.monotonic()
        more = [
            peer
            for peer, named in known.items()
            if number < named <= MAX_NOTICES
            and self._liars.get(peer) != named
            and self._alone_until_s.get(peer, now_s) <= now_s
        ]
        more.sort(key=lambda peer: not self.board.has_part(peer))
        asked = {peer: partial(self.ask, peer) for peer in more[:_MAX_ASKED]}
        answers = await ask_side_by_side(asked, enough=len(asked), limit_s=_ASKED_S)
        await end_tasks(answers.late.values())
        for peer, error in answers.failed.items():
            log.info("%s did not tell the notices that it says it knows: %s", peer[-8:], error)
        for peer in answers.good:
            if self.board.word.chain.number < known[peer]:
                self._liars[peer] = known[peer]
        # One that answers nothing costs the whole wait: it is not asked anew before each other one was.
        told = self.board.word.chain.number
        silent = [peer for peer in asked if told < known[peer]]
        for peer in silent:
            self._alone_until_s.pop(peer, None)
        self._alone_until_s |= dict.fromkeys(silent, time.monotonic() + _LEFT_ALONE_S)
        for kept in (self._liars, self._alone_until_s):
            while len(kept) > _MAX_LIARS:
                del kept[next(iter(kept))]

    async def refresh(self) -> None:
        """Reads on from the bulletin board until a number is missing there, and puts back what it forgot."""
        at_once = 1
        while True:
            first = self.board.word.chain.number + 1
            numbers = range(first, min(first + at_once, MAX_NOTICES + 1))
            keys = [notices_key(self.run, number) for number in numbers]
            found = await asyncio.gather(*(self.swarm.read(key) for key in keys))
            await self._take([one for records in found for one in records])
            if self.board.word.chain.number < first + len(numbers) - 1 or not numbers:
                break
            at_once = min(2 * at_once, _MAX_AT_ONCE)
        await self._put_back()

    async def _take(self, envelopes: Sequence[Envelope[Any]]) -> None:
        if envelopes:
            await self.receive([envelope.data for envelope in envelopes])

    async def _put_back(self) -> None:
        """Looks whether the board has the newest notice, and one of the others in turn."""
        notices = self.board.word.chain.notices
        self._looked_at = self._looked_at % len(notices) + 1 if notices else 0
        for number in {len(notices), self._looked_at} - {0}:
            notice = notices[number - 1]
            if notice.record.expires_at <= time.time():
                continue  # older ones are had from peers directly
            found = await self.swarm.read(notices_key(self.run, number))
            if notice.id not in {one.id for one in found}:
                await self._take(found)  # another of this number, if any
                await self.swarm.store(notice)
