"""When a run's preview clips are made, and which sets of them are kept: pure functions of what was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

PREVIEW_SHARE: Final = 0.02  # of the machine, over time
MAX_SETS: Final = 48
_NEWEST: Final = 12  # that always stay


@dataclass(frozen=True)
class PreviewCost:
    """What the previews of a machine have cost so far."""

    begun_at_s: float = 0.0  # Unix time when the last ones were begun; 0: none were
    cost_s: float = 0.0  # of the whole machine, of the last ones
    total_cost_s: float = 0.0  # of all, since `since_s`
    since_s: float = 0.0


def machine_cost_s(processor_s: float, elapsed_s: float, processors: int, *, on_gpu: bool) -> float:
    """Returns the seconds of a whole machine that something took: its share of the processors, or all of the
    time where it held the GPU.
    """
    return elapsed_s if on_gpu else processor_s / max(1, processors)


def next_preview_s(cost: PreviewCost, least_s: float, now_s: float) -> float:
    """Returns the earliest Unix time of the next previews: `least_s` after the last were begun, and so late
    that what they cost is at most PREVIEW_SHARE of the time between. They may be made at once where the last
    were begun in the future: the clock was set back since, and that moment may be years away.
    """
    if not cost.begun_at_s or cost.begun_at_s > now_s:
        return 0.0
    return cost.begun_at_s + max(least_s, cost.cost_s / PREVIEW_SHARE)


def are_new(tips: Mapping[str, str], shown: Mapping[str, str], slots: Sequence[str]) -> bool:
    """Tells whether every slot has a tip, and each another one than in the last set (ids of cards by slot).

    A slot that is done or rests gets no other: one slot's new tip is enough once the others' are the same
    for good, so the caller names the `slots` that still train.
    """
    moving = [slot for slot in slots if slot in tips]
    return bool(moving) and all(tips[slot] != shown.get(slot) for slot in moving)


def sets_to_drop(made_at_s: Sequence[float], now_s: float, most: int = MAX_SETS) -> list[int]:
    """Returns the places of the sets that go where there are more than `most`, of sets from the oldest on.

    The first and the newest stay. Of the others the one goes whose neighbours are nearest to one another for
    their age, so that what is left thins out towards the past.
    """
    left = list(range(len(made_at_s)))
    gone: list[int] = []
    while len(left) > most:
        inner = range(1, max(2, len(left) - _NEWEST))

        def gap(place: int) -> float:
            before, after = made_at_s[left[place - 1]], made_at_s[left[place + 1]]
            return (after - before) / max(1.0, now_s - made_at_s[left[place]])

        gone.append(left.pop(min(inner, key=gap)))
    return sorted(gone)
