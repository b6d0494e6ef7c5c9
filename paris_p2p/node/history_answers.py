"""What a node tells of a slot's past tips, page by page (docs/protocol.md, "History")."""

from __future__ import annotations

import asyncio

from paris_p2p.envelope import decode, encode, parse
from paris_p2p.errors import RecordError
from paris_p2p.history_records import MAX_PAGE_BYTES, MAX_PAGE_TIPS, HistoryPage, HistoryQuestion, ToldTip
from paris_p2p.node.board import Board
from paris_p2p.node.kept_history import KeptHistory, KeptTip, told_tip

_HEAD_BYTES = 64  # of a record in a page, at most


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
