"""Asks several peers one question side by side, so that no slow peer holds up the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from paris_p2p.errors import ParisError

T = TypeVar("T")
EXTRA_S = 0.5  # at least, for those who are a little slower than the first


@dataclass
class Answers(Generic[T]):
    """Holds what came in time, by peer; the tasks of `late` still run, for the caller to end or to keep."""

    good: dict[str, T] = field(default_factory=dict)
    failed: dict[str, ParisError] = field(default_factory=dict)
    late: dict[str, asyncio.Task[T]] = field(default_factory=dict)


async def ask_side_by_side(
    questions: Mapping[str, Callable[[], Awaitable[T]]], *, enough: int, limit_s: float, extra: float = 0.0
) -> Answers[T]:
    """Asks until all have answered or failed, or `limit_s` is over.

    Once `enough` gave a good answer, the others get `extra` times as long again. An error of the
    project's tree is a peer's failure; any other is raised, and ends all.
    """
    clock = asyncio.get_running_loop().time
    began_s, answers = clock(), Answers[T]()
    until_s = began_s + limit_s
    answers.late = {peer: asyncio.create_task(_asked(question)) for peer, question in questions.items()}
    try:
        while answers.late and (left_s := until_s - clock()) > 0:
            await asyncio.wait(answers.late.values(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            before = len(answers.good)
            _sort(answers)
            if before < enough <= len(answers.good):
                more_s = max(EXTRA_S, extra * (clock() - began_s)) if extra else 0.0
                until_s = min(until_s, clock() + more_s)
    except BaseException:
        await end_tasks(answers.late.values())
        raise
    return answers


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels the tasks that still run, and waits until each has let go of its stream."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _asked(question: Callable[[], Awaitable[T]]) -> T:
    return await question()


def _sort(answers: Answers[T]) -> None:
    for peer, task in list(answers.late.items()):
        if not task.done():
            continue
        del answers.late[peer]
        try:
            answers.good[peer] = task.result()
        except ParisError as error:
            answers.failed[peer] = error
