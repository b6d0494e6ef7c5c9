"""One run's records as others tell them: from the bulletin board, from gossip, and from connected peers
(docs/protocol.md, "Gossip" and "Asking").
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from paris_p2p.envelope import Envelope
from paris_p2p.errors import (
    BlobError,
    MissingKeyError,
    RecordError,
    SignatureError,
    UnreachableError,
    VersionError,
)
from paris_p2p.kinds import refusals_key, slot_keys
from paris_p2p.node.board import Board
from paris_p2p.node.notice_reading import NoticeReading
from paris_p2p.node.run_swarm import RunSwarm
from paris_p2p.owner_records import NoticeRecord
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.swarm.limits import kind_of

log = logging.getLogger(__name__)
GOSSIPED = ("claim", "card", "attestation", "refusal", "notice", "member", "update", "worker")
OPENING_S = 10.0  # what a newcomer's first questions wait for answers; what comes later is heard all the same
_ASKED_S = 3.0  # the same, of a refresh
_MAX_PEERS_ASKED = 8  # connected ones, for what the bulletin board does not tell
_MAX_OWING = 32  # peers that have not answered yet
_ONE_PEER_LIMIT_S = 30.0  # for all that one peer is asked at once
_MAX_BAD_TOLD = 8  # records of one answer
_MAX_SLOTS_AT_ONCE = 4
_KEPT_AT_ONCE = 16  # records, between two turns of the event loop
_MAX_MISS_S = 60.0  # between two rounds of questions for attested cards that nobody had
T = TypeVar("T")


class Reading:
    """Reads the records of one run and hands them to `keep`, some at a time."""

    def __init__(
        self,
        swarm: RunSwarm,
        board: Board,
        keep: Callable[[Sequence[Envelope[Any]]], None],
        refused: Counter[str],
    ):
        self.swarm, self.run, self.board, self.keep, self.refused = swarm, board.run, board, keep, refused
        self.notices = NoticeReading(swarm, board, self._receive_all)
        self._asked: dict[str, asyncio.Task[None]] = {}  # connected peers that have not answered yet
        # slot -> tries for attested cards nobody had, and when the next is due
        self._misses: dict[str, tuple[int, float]] = {}

    async def refresh(self, slots: Sequence[str] = ()) -> None:
        """Reads claims, tips and crews of the slots (all, when none are named) and puts back tips that the
        bulletin board forgot.

        The owner's notices come first, since they say what counts. Several slots at once: where a read takes
        long, the last one must not wait for all others.
        """
        if not slots:
            await self.notices.refresh()
        turns = asyncio.Semaphore(_MAX_SLOTS_AT_ONCE)

        async def one(slot: str) -> None:
            async with turns:
                await self._refresh_slot(slot)

        await _together(one(slot) for slot in slots or tuple(self.board.slots))

    async def ask_connected(
        self,
        slots: Sequence[str] = (),
        *,
        first: Collection[str] = (),
        enough: int = 1,
        wait_s: float = _ASKED_S,
    ) -> None:
        """Asks connected peers side by side for what they know, those in `first` and those with a part in the
        run before others.

        Returns when `enough` told all and the others had as long again, at the latest after `wait_s`. A peer
        that has not answered by then is heard when it does, is not asked anew before, and is left after
        _ONE_PEER_LIMIT_S.
        """
        connected = [peer.peer_id for peer in await self.swarm.peers() if peer.peer_id not in self._asked]
        random.shuffle(connected)  # not the same ones each time, should they not know either
        connected.sort(key=lambda peer: (peer not in first, not self.board.has_part(peer)))
        questions = {
            peer: partial(self.catch_up, peer, slots)
            for peer in connected[: min(_MAX_PEERS_ASKED, _MAX_OWING - len(self._asked))]
        }
        answers = await ask_side_by_side(questions, enough=enough, limit_s=wait_s, extra=1.0)
        for peer, error in answers.failed.items():
            log.info("%s did not answer: %s", peer[-8:], error)
        for peer, task in answers.late.items():
            self._asked[peer] = task
            task.add_done_callback(partial(self._answered, peer))

    async def catch_up(self, peer: str, slots: Sequence[str] = ()) -> None:
        """Asks one peer directly for what it knows (of all slots, when none are named): tips whose DHT
        records have gone. Raises UnreachableError.
        """
        try:
            async with asyncio.timeout(_ONE_PEER_LIMIT_S):
                await self.notices.ask(peer)
                for slot in slots or tuple(self.board.slots):
                    for key in slot_keys(self.run, slot, crew=self._has_crews):
                        await self._receive_all(await self.swarm.ask_records(peer, key))
        except TimeoutError as error:
            raise UnreachableError(
                f"{peer[-8:]} did not tell its records in {_ONE_PEER_LIMIT_S:.0f} s"
            ) from error
        except (BlobError, RecordError) as error:
            # it refuses, or answers nonsense: no worse than not answering
            raise UnreachableError(f"{peer[-8:]} does not tell its records: {error}") from error

    async def read_refusals(self, slot: str) -> None:
        """Reads why this peer's newest cards were refused, beside what came by gossip: from the board, and
        from connected peers.
        """
        key = refusals_key(self.run, slot)
        await self._keep_all(await self.swarm.read(key))
        connected = [peer.peer_id for peer in await self.swarm.peers()]
        asked = {
            peer: partial(self.swarm.ask_records, peer, key)
            for peer in random.sample(connected, min(2, len(connected)))
        }
        answers = await ask_side_by_side(asked, enough=len(asked), limit_s=_ASKED_S)
        await end_tasks(answers.late.values())
        for peer, error in answers.failed.items():
            log.info("%s did not tell what it knows of refusals: %s", peer[-8:], error)
        for records in answers.good.values():
            await self._receive_all(records)

    async def on_gossip(self, sender: str, data: bytes) -> None:
        """Keeps what a gossip message brought; who told a notice has those before it, which are asked for."""
        self.receive(data)
        is_room = sender not in self._asked and len(self._asked) < _MAX_OWING
        if self.board.word.chain.missing_below() and is_room:
            self._asked[sender] = asyncio.create_task(self._ask_for_notices(sender))
            self._asked[sender].add_done_callback(partial(self._answered, sender))

    async def _ask_for_notices(self, peer: str) -> None:
        async with asyncio.timeout(_ONE_PEER_LIMIT_S):
            await self.notices.ask(peer)

    def receive(self, data: bytes) -> None:
        """Keeps one record, if it holds."""
        self.keep(self._open([data]))

    async def close(self) -> None:
        """Ends the questions that are still out."""
        await end_tasks(self._asked.values())

    async def _refresh_slot(self, slot: str) -> None:
        keys = slot_keys(self.run, slot, crew=self._has_crews)
        read = await _together(self.swarm.read(key) for key in keys)
        await self._keep_all([one for found in read for one in found])
        ids, now = {one.id for found in read for one in found}, time.time()
        for envelope in self.board.tip_envelopes(slot):
            if envelope.id not in ids and envelope.record.expires_at > now:
                # an older one is had from peers directly
                await self.swarm.store(envelope)
        await self._ask_for_attested(slot)

    async def _ask_for_attested(self, slot: str) -> None:
        """Asks connected peers for cards that were attested and are not to be had from the bulletin board.

        The board keeps one card of a maker: one that it made meanwhile hides the one that became the tip.
        Anybody can attest a card that nobody has: peers are asked side by side, once a slot and interval, and
        more rarely while they know nothing.
        """
        attestors, now_s = self.board.attestors_of_unknown(slot), time.monotonic()
        if not (attestors or self._went_back_to_nothing(slot)):
            self._misses.pop(slot, None)
            return
        tries, next_s = self._misses.get(slot, (0, 0.0))
        if now_s < next_s:
            return
        wait_s = min(_MAX_MISS_S, self.board.spec.timing.checkpoint_s / 2 * 2.0 ** min(tries, 20))
        self._misses[slot] = tries + 1, now_s + wait_s
        await self.ask_connected((slot,), first=attestors, enough=_MAX_PEERS_ASKED)
        if not (self.board.attestors_of_unknown(slot) or self._went_back_to_nothing(slot)):
            self._misses.pop(slot, None)

    @property
    def _has_crews(self) -> bool:
        """Tells whether there is more to read of a slot: other runs cost no question more."""
        return self.board.spec.crew is not None

    def _went_back_to_nothing(self, slot: str) -> bool:
        """Tells whether the owner took back all that this node knows of a slot: others may remember more."""
        return self.board.tip(slot) is None and bool(self.board.slots[slot].floor)

    def _answered(self, peer: str, task: asyncio.Task[None]) -> None:
        del self._asked[peer]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("%s did not answer: %s", peer[-8:], error)

    async def _receive_all(self, records: Sequence[bytes]) -> None:
        """Keeps what one peer answered, its signatures checked in a thread: five hundred take a tenth of a
        second.
        """
        await self._keep_all(await asyncio.to_thread(self._open, records))

    def _open(self, records: Sequence[bytes]) -> list[Envelope[Any]]:
        """Returns the records that hold; an honest peer sends no others, so that after a few bad ones the
        rest is left.
        """
        opened, bad = [], 0
        for data in records:
            try:
                opened.append(self._checked(self.board.word.open(data, GOSSIPED)))
            except RecordError as error:
                log.debug("a record was refused: %s", error)
                self.refused[f"record: {kind_of(error)}"] += 1
                bad += not isinstance(error, VersionError | MissingKeyError)
            if bad > _MAX_BAD_TOLD:
                self.refused["records: not looked at after too many bad ones"] += 1
                break
        return opened

    def _checked(self, envelope: Envelope[Any]) -> Envelope[Any]:
        """Returns a record; SignatureError for a notice that is not the owner's, which anybody can sign."""
        owner = self.board.word.chain.owner
        if isinstance(envelope.record, NoticeRecord) and envelope.signer != owner:
            raise SignatureError(
                f"notice {envelope.record.seq} is signed by {envelope.signer}, not by {owner}"
            )
        return envelope

    async def _keep_all(self, envelopes: Sequence[Envelope[Any]]) -> None:
        """Keeps records some at a time, notices first and all at once; others have turns in between: where a
        slot is full of strangers' records, one more takes a millisecond.
        """
        notices = [one for one in envelopes if isinstance(one.record, NoticeRecord)]
        rest = [one for one in envelopes if not isinstance(one.record, NoticeRecord)]
        if notices:
            self.keep(notices)
        for start in range(0, len(rest), _KEPT_AT_ONCE):
            await asyncio.sleep(0)
            self.keep(rest[start : start + _KEPT_AT_ONCE])


async def _together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Returns the results of works that run side by side; when one fails the others are ended before its
    error is raised, so that none is left behind.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
