"""Whether p2pd hangs: it lives, and answers nothing to a cheap question that is asked again and again.

What counts is decided by pure functions of looks at the clock. Of p2pd's silence only time counts in which
this process ran itself: one that was halted, starved or asleep with its machine heard no answer either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

LOOK_S = 1.0  # between two looks while an answer is waited for
ASK_EVERY_S = 10.0  # from an answer to the next question
CHANCE_S = 30.0  # of silence that each question is given; on a busy machine an answer takes some seconds
CHANCES = 4  # questions in a row without an answer, after which p2pd hangs
HALT_S = 15.0  # a look so late says that this process stood still; a busy machine lets it wait for less


@dataclass(frozen=True)
class Silence:
    """What p2pd's silence amounts to: the seconds of the open question, and the questions missed before."""

    silent_s: float = 0.0
    missed: int = 0

    @property
    def is_missed(self) -> bool:
        """Whether the open question had its chance."""
        return self.silent_s >= CHANCE_S

    @property
    def hangs(self) -> bool:
        return self.missed >= CHANCES

    def looked(self, passed_s: float, meant_s: float) -> Silence:
        """Notes a look that found no answer, `passed_s` after the last one where `meant_s` were meant.

        What it came late is not p2pd's; after a halt p2pd, which may have been halted too, gets all its
        chances again.
        """
        if passed_s - meant_s >= HALT_S:
            return Silence()
        return replace(self, silent_s=self.silent_s + min(passed_s, meant_s))

    def given_up(self) -> Silence:
        """Notes that the open question is asked no longer."""
        return Silence(missed=self.missed + 1)


def seconds() -> float:
    """Reads a clock that counts the machine's sleep too, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


async def until_hung(
    until_answers: Callable[[], Awaitable[None]], clock: Callable[[], float] = seconds
) -> str:
    """Asks again and again, and says in words that p2pd hangs once it does; `until_answers` is one question,
    which ends when there is an answer.
    """
    silence = Silence()
    while not silence.hangs:
        question = asyncio.ensure_future(until_answers())
        try:
            silence = await _asked(question, silence, clock)
        finally:
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)
        if not silence.missed:
            await asyncio.sleep(ASK_EVERY_S)
    return f"it left {CHANCES} questions in a row without an answer, each for {CHANCE_S:.0f} s"


async def _asked(question: asyncio.Future[None], silence: Silence, clock: Callable[[], float]) -> Silence:
    """Waits for the answer to one question; returns what is known then."""
    while not silence.is_missed:
        before_s = clock()
        await asyncio.wait({question}, timeout=LOOK_S)
        if question.done():
            question.result()
            return Silence()
        silence = silence.looked(clock() - before_s, LOOK_S)
    return silence.given_up()
