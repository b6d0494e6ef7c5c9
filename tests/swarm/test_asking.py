"""Side by side: the first good answers suffice, the slow hold up nobody, and a fault of ours is not taken for
a peer's."""

from __future__ import annotations

import asyncio

import pytest

from paris_p2p.errors import UnreachableError
from paris_p2p.swarm import asking
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks


async def never() -> int:
    await asyncio.Event().wait()
    return 0


async def one() -> int:
    return 1


async def fails() -> int:
    raise UnreachableError("away")


async def test_the_first_good_answer_ends_it_and_whoever_drips_is_named_as_late() -> None:
    answers = await ask_side_by_side({"slow": never, "bad": fails, "good": one}, enough=1, limit_s=3600.0)
    assert answers.good == {"good": 1}
    assert list(answers.late) == ["slow"]
    assert list(answers.failed) == ["bad"]
    await end_tasks(answers.late.values())
    assert answers.late["slow"].cancelled()


async def test_who_is_a_little_slower_is_heard_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "EXTRA_S", 3600.0)
    go_on = asyncio.Event()

    async def slower() -> int:
        await go_on.wait()
        return 2

    async def first() -> int:
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        return 1

    answers = await ask_side_by_side({"slower": slower, "first": first}, enough=1, limit_s=3600.0, extra=1.0)
    assert answers.good == {"first": 1, "slower": 2}


async def test_when_all_fail_it_ends_and_when_none_answers_it_ends_in_time() -> None:
    assert set((await ask_side_by_side({"a": fails, "b": fails}, enough=1, limit_s=3600.0)).failed) == {
        "a",
        "b",
    }
    answers = await ask_side_by_side({"a": never}, enough=1, limit_s=0.01)
    assert list(answers.late) == ["a"]
    await end_tasks(answers.late.values())
    assert not (await ask_side_by_side({}, enough=1, limit_s=3600.0)).good


async def test_a_fault_of_ours_is_raised_and_leaves_no_question_running() -> None:
    left: list[str] = []

    async def waits() -> int:
        try:
            return await never()
        finally:
            left.append("ended")

    async def broken() -> int:
        await asyncio.sleep(0)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await ask_side_by_side({"a": waits, "b": broken}, enough=1, limit_s=3600.0)
    assert left == ["ended"]
