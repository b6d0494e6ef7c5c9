"""One run's past tips as other peers tell them: several are asked, what holds is merged, and who told less or
lied is named (docs/protocol.md, "History").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from paris_p2p.envelope import decode, encode, parse
from paris_p2p.errors import MissingKeyError, ParisError, RecordError
from paris_p2p.history_records import MAX_ROUNDS_ASKED, HistoryPage, HistoryQuestion
from paris_p2p.node.board import Board
from paris_p2p.node.kept_history import open_told, round_ref
from paris_p2p.node.run_swarm import RunSwarm
from paris_p2p.rules.history import TipLink, is_in_order, lineage, missing, proven
from paris_p2p.rules.tips import Tip
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
MAX_ASKED = 4  # peers
_MAX_PAGES = 64  # of one peer and slot; each brings some hundred tips
_MAX_BAD = 8  # records of one peer, before the rest of its answer is left
_ASKED_S = 120.0  # for all slots of one peer
FIRST_LOOK_S, LOOK_EVERY_S = 60.0, 3600.0  # of a node that lacks tips


@dataclass
class ToldHistory:
    """Counts what one peer told."""

    peer: str
    tips: int = 0  # that hold
    bad: int = 0  # that do not: no signature, or none that counts
    rounds: int = 0
    error: str = ""  # why it told no more


class HistoryReading:
    """Asks peers for the past tips of one run, and keeps what holds in its history."""

    def __init__(self, swarm: RunSwarm, board: Board, whole: Callable[[], Swarm]):
        self.swarm, self.board, self._whole = swarm, board, whole

    def tips(self, slot: str) -> list[Tip]:
        """Returns the slot's tips that are known here and count; it reads the disk."""
        return proven_tips(self.board, slot)

    async def links(self, slot: str) -> tuple[TipLink, ...]:
        """Returns the slot's lineage as far as it is known here."""
        return lineage(await asyncio.to_thread(self.tips, slot))

    async def ask(self, slots: Sequence[str] = (), *, rounds: bool = False) -> list[ToldHistory]:
        """Asks up to MAX_ASKED connected peers for all tips of the slots, those with a part in the run first,
        and returns what each told. Of a members-only run its members alone are asked.
        """
        slots = tuple(slots or self.board.slots)
        peers = [one.peer_id for one in await self.swarm.peers()]
        if self.board.word.signed.members_only:  # who only stores can read none of a private run's records
            peers = [peer for peer in peers if self.board.state.rights(peer) - {"store"}]
        peers.sort(key=lambda peer: not self.board.has_part(peer))
        told = {peer: ToldHistory(peer) for peer in peers[:MAX_ASKED]}
        asked = {peer: partial(self._ask_one, told[peer], slots, rounds) for peer in told}
        answers = await ask_side_by_side(asked, enough=len(asked), limit_s=_ASKED_S)
        await end_tasks(answers.late.values())
        for peer, error in answers.failed.items():
            told[peer].error = str(error)
        for peer in answers.late:
            told[peer].error = f"it did not tell all in {_ASKED_S:.0f} s"
        return list(told.values())

    async def keep_up(self) -> None:
        """Asks others, while tips are missing here, once an hour: who came later tells all the same. Where
        nobody told anything it asks again in a minute.
        """
        wait_s = FIRST_LOOK_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = LOOK_EVERY_S
            try:
                suspects = [slot for slot in tuple(self.board.slots) if self._may_lack(slot)]
                lacking = [slot for slot in suspects if missing(await self.links(slot))]
                if lacking:
                    told = await self.ask(lacking, rounds=True)
                    wait_s = LOOK_EVERY_S if any(map(_is_answer, told)) else FIRST_LOOK_S
                    log.info(
                        "past tips were asked for: %s", "; ".join(map(told_words, told)) or "nobody is here"
                    )
            except (ParisError, OSError) as error:
                log.info("past tips could not be asked for: %s", error)
                wait_s = FIRST_LOOK_S

    def _may_lack(self, slot: str) -> bool:
        """Tells whether a slot has more tips than are here: a count, before signatures are verified."""
        tip = self.board.tip(slot)
        return tip is not None and self.board.history.count(slot) + 1 < tip.card.record.seq

    async def _ask_one(self, told: ToldHistory, slots: Sequence[str], rounds: bool) -> None:
        for slot in slots:
            tips = await self._ask_tips(told, slot)
            if told.bad > _MAX_BAD:
                told.error = "it told too much that does not hold"
                return
            if rounds:
                await self._ask_rounds(told, slot, tips)

    async def _ask_tips(self, told: ToldHistory, slot: str) -> list[Tip]:
        after, found = 0, list[Tip]()
        for _ in range(_MAX_PAGES):
            page = await self._page(told.peer, HistoryQuestion(slot=slot, after=after))
            tips, bad = await asyncio.to_thread(self._opened, page, slot, after)
            told.tips, told.bad, found = told.tips + len(tips), told.bad + bad, [*found, *tips]
            await asyncio.to_thread(self._keep, tips)  # a full file is written anew
            if not page.more or not tips or told.bad > _MAX_BAD:
                break
            after = tips[-1].card.record.seq
        return found

    def _keep(self, tips: Sequence[Tip]) -> None:
        for tip in tips:
            self.board.history.add(tip)

    def _opened(self, page: HistoryPage, slot: str, after: int) -> tuple[list[Tip], int]:
        """Returns the tips of a page that hold, and how many do not."""
        opened, bad, now_s = list[Tip](), 0, time.time()
        for one in page.tips:
            try:
                tip = proven(open_told(one, self.board.word.open, slot), self.board.state, now_s)
            except MissingKeyError:
                continue  # of a private run: its key may come yet
            except RecordError as error:
                log.debug("a past tip of %s was refused: %s", slot, error)
                tip = None
            if tip is None or not is_in_order([*opened[-1:], tip], after):
                bad += 1
                if bad > _MAX_BAD:
                    break
                continue
            opened.append(tip)
        return opened, bad

    async def _ask_rounds(self, told: ToldHistory, slot: str, tips: Sequence[Tip]) -> None:
        """Asks for the rounds that these tips name, and that are not here."""
        history = self.board.history
        refs = {ref.id: ref for tip in tips for ref in tip.card.record.rounds}
        wanted = [id for id in refs if not history.has_round(slot, id)]
        while wanted:
            asked, wanted = wanted[:MAX_ROUNDS_ASKED], wanted[MAX_ROUNDS_ASKED:]
            page = await self._page(told.peer, HistoryQuestion(slot=slot, rounds=tuple(asked)))
            for data in page.rounds:
                ref = round_ref(data)
                if refs.get(ref.id) != ref:
                    told.bad += 1
                elif history.add_round(slot, ref, data):
                    told.rounds += 1

    async def _page(self, peer: str, question: HistoryQuestion) -> HistoryPage:
        body = encode(question.model_dump(exclude_defaults=True))
        answer = await self._whole().ask(peer, "history", self.swarm.public_id, body)
        return parse(HistoryPage, decode(answer))


def proven_tips(board: Board, slot: str) -> list[Tip]:
    """Returns a slot's tips that this node knows and that count by the owner's word; it reads the disk."""
    state, now_s = board.state, time.time()
    known = [*board.history.tips(slot), *board.tips(slot)]
    return [tip for one in known if (tip := proven(one, state, now_s)) is not None]


def told_words(told: ToldHistory) -> str:
    """Says in words what one peer told."""
    parts = [f"…{told.peer[-8:]} told {told.tips} tips"]
    parts += [f"{told.rounds} rounds"] if told.rounds else []
    parts += [f"{told.bad} that do not hold"] if told.bad else []
    parts += [told.error] if told.error else []
    return ", ".join(parts)


def _is_answer(told: ToldHistory) -> bool:
    """Tells whether a peer answered: asked again at once, it would tell the same."""
    return not told.error or told.tips + told.bad + told.rounds > 0
