"""What a node tells of a slot's past tips, page by page (docs/protocol.md, "History")."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from paris_p2p.envelope import decode, encode, parse
from paris_p2p.errors import BusyError, RecordError
from paris_p2p.history_records import MAX_PAGE_BYTES, MAX_PAGE_TIPS, HistoryPage, HistoryQuestion, ToldTip
from paris_p2p.node.board import Board
from paris_p2p.node.kept_history import KeptHistory, KeptTip, told_tip
from paris_p2p.swarm.limits import EventLimit

_HEAD_BYTES = 64  # of a record in a page, at most
# A question costs a look through a file of megabytes. A run of a thousand slots takes a thousand at once.
EACH_PER_S, EACH_AT_ONCE = 2.0, 1024
ALL_PER_S, ALL_AT_ONCE = 5.0, 1024
MAX_WAITING = 16  # questions, while another is answered


class HistoryDesk:
    """Answers one question after the other, of each peer so many: strangers' questions take a share of a
    core at most, and none of the threads that this node's own disk work needs but one.
    """

    def __init__(self, board: Board, clock: Callable[[], float] = time.monotonic):
        self.board, self._turn, self._waiting = board, asyncio.Lock(), 0
        self._each = EventLimit(EACH_PER_S, EACH_AT_ONCE, clock)
        self._all = EventLimit(ALL_PER_S, ALL_AT_ONCE, clock)

    async def answer(self, peer: str, body: bytes) -> bytes | None:
        """Returns what `history_answer` does; BusyError for who asks too often, or while many wait."""
        if self._waiting >= MAX_WAITING or not self._each.allow(peer):
            raise BusyError("the history is asked for too often; ask again in a while")
        # who has a part in the run does not wait behind strangers, whose ids cost nothing
        if not self.board.has_part(peer) and not self._all.allow(""):
            raise BusyError("strangers ask for the history too often; ask again in a while")
        self._waiting += 1
        try:
            async with self._turn:
                return await history_answer(self.board, body)
        finally:
            self._waiting -= 1


async def history_answer(board: Board, body: bytes) -> bytes | None:
    """Returns a page of a slot's tips or rounds, packed; None for no question."""
    try:
        question = parse(HistoryQuestion, decode(body))
    except RecordError:
        return None
    if question.slot not in board.slots:
        return None
    if question.rounds:
        page = await asyncio.to_thread(rounds_page, board.history, question)
    else:
        tip = board.tip(question.slot)
        newest = None if tip is None else KeptTip(tip.card.id, tip.card.record.seq, told_tip(tip))
        page = await asyncio.to_thread(tips_page, board.history, question, newest)
    return encode(page.model_dump())


def tips_page(history: KeptHistory, question: HistoryQuestion, newest: KeptTip | None) -> HistoryPage:
    """Returns the tips after `question.after` by rising `seq`, as many as a page takes; it reads the disk.

    Tips of one `seq` stand on one page, since the next question begins after it.
    """
    kept = history.kept(question.slot, question.after)
    if newest is not None and newest.seq > question.after:
        kept = [*(one for one in kept if one.id != newest.id), newest]
        kept.sort(key=lambda one: (one.seq, one.id))
    tips: list[ToldTip] = []
    left_bytes = MAX_PAGE_BYTES
    for one in kept:
        left_bytes -= len(one.told.card) + sum(len(part) + 8 for part in one.told.attestations) + _HEAD_BYTES
        if left_bytes < 0 or len(tips) == MAX_PAGE_TIPS:
            whole = [told for told, of in zip(tips, kept, strict=False) if of.seq < one.seq]
            return HistoryPage(tips=tuple(whole), more=bool(whole))
        tips.append(one.told)
    return HistoryPage(tips=tuple(tips))


def rounds_page(history: KeptHistory, question: HistoryQuestion) -> HistoryPage:
    """Returns those of the rounds that are here, as many as a page takes; it reads the disk."""
    told: list[bytes] = []
    left_bytes = MAX_PAGE_BYTES
    for _, data in history.rounds(question.slot, question.rounds):
        left_bytes -= len(data) + _HEAD_BYTES
        if left_bytes < 0:
            break
        told.append(data)
    return HistoryPage(rounds=tuple(told))
