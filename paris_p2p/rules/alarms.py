"""What somebody who is away should hear of: pure functions of what a node sees, what was told, and the clock.

A state has to last before it is told, and its end, too; between what begins it and what ends it lies a gap:
so nothing is told twice because a figure trembles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

AlarmKind = Literal["tip late", "no lead", "finished", "disk full"]

LATE_INTERVALS, IN_TIME_INTERVALS = 3.0, 2.0  # checkpoint intervals, of a tip's age
LEADLESS_CLAIMS = 3.0  # lengths of a claim without a lead, but at least:
LEADLESS_LEAST_S = 300.0
FULL_SHARE, ROOMY_SHARE = 0.95, 0.9  # of what blobs may take
FULL_FREE_BYTES, ROOMY_FREE_BYTES = 1 << 30, 2 << 30  # of the disk
LASTS_S = 60.0
OVER_S = 120.0


@dataclass(frozen=True)
class WatchedSlot:
    """One slot as a node sees it."""

    slot: str
    tip_age_s: float | None
    has_lead: bool
    active: bool  # training is due: it is not done, and neither rests nor is paused
    done: bool


@dataclass(frozen=True)
class WatchedRun:
    """One run as a node sees it."""

    run: str
    checkpoint_s: float
    claim_s: float
    ended: bool
    slots: tuple[WatchedSlot, ...]


@dataclass(frozen=True)
class WatchedNode:
    """What is watched: runs, and the disk that blobs lie on; a limit of 0 is none."""

    runs: tuple[WatchedRun, ...]
    disk_bytes: int
    disk_limit_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True)
class AlarmKey:
    """What an alarm is about; a disk has neither run nor slot."""

    kind: AlarmKind
    run: str = ""
    slot: str = ""


@dataclass(frozen=True)
class Alarm:
    """Something that begins or is over; `figure` is the tip's age in seconds or the disk's share."""

    key: AlarmKey
    begins: bool
    figure: float = 0.0


@dataclass(frozen=True)
class AlarmsTold:
    """What was told and is not over, and since when each other state lasts."""

    told: frozenset[AlarmKey] = frozenset()
    since_s: Mapping[AlarmKey, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class _Reading:
    key: AlarmKey
    begun: bool  # what begins the alarm is so
    over: bool  # what ends it is so; between the two it stays as it was
    lasts_s: float = LASTS_S
    figure: float = 0.0


def alarms_due(state: WatchedNode, before: AlarmsTold, now_s: float) -> tuple[tuple[Alarm, ...], AlarmsTold]:
    """Returns what is to be told now, and what is known afterwards; `now_s` is of a clock without jumps."""
    due, told, since_s = list[Alarm](), set(before.told), dict[AlarmKey, float]()
    for one in _readings(state):
        was_told = one.key in told
        changes = one.over if was_told else one.begun
        if not changes:
            continue
        began_s = before.since_s.get(one.key, now_s)
        if now_s - began_s < (OVER_S if was_told else one.lasts_s):
            since_s[one.key] = began_s
            continue
        due.append(Alarm(one.key, begins=not was_told, figure=one.figure))
        told ^= {one.key}
    return tuple(due), replace(before, told=frozenset(told), since_s=MappingProxyType(since_s))


def _readings(state: WatchedNode) -> Iterator[_Reading]:
    yield _disk(state)
    for run in state.runs:
        if run.slots:
            finished = run.ended or all(slot.done for slot in run.slots)
            yield _Reading(AlarmKey("finished", run.run), finished, not finished)
        for slot in run.slots:
            yield from _slot(run, slot)


def _slot(run: WatchedRun, slot: WatchedSlot) -> Iterator[_Reading]:
    age_s, patience_s = slot.tip_age_s, run.checkpoint_s
    late = slot.active and age_s is not None and age_s > LATE_INTERVALS * patience_s
    in_time = not slot.active or (age_s is not None and age_s < IN_TIME_INTERVALS * patience_s)
    yield _Reading(AlarmKey("tip late", run.run, slot.slot), late, in_time, figure=age_s or 0.0)
    leadless_s = max(LEADLESS_LEAST_S, LEADLESS_CLAIMS * run.claim_s)
    alone = slot.active and not slot.has_lead
    yield _Reading(AlarmKey("no lead", run.run, slot.slot), alone, not alone, leadless_s)


def _disk(state: WatchedNode) -> _Reading:
    share = state.disk_bytes / state.disk_limit_bytes if state.disk_limit_bytes else 0.0
    full = share > FULL_SHARE or state.disk_free_bytes < FULL_FREE_BYTES
    roomy = share < ROOMY_SHARE and state.disk_free_bytes > ROOMY_FREE_BYTES
    return _Reading(AlarmKey("disk full"), full, roomy, figure=share)
