"""When a peer rests so that its machine stays its owner's: by the hour, for people, on battery, in heat, or
because a budget is used up. A pure function of what the person allows, what sensors told, and both clocks.

    observed:  from what is told now, and since when, which reasons to rest there are
    rest_now:  those reasons in words, and when training goes on

Each reason begins and ends with a patience and at levels of its own, so that nothing flaps around a limit:

    reason     begins when                                     ends when
    hours      the clock is outside of all windows             it is inside one
    battery    the machine runs on it                          it was plugged in for a minute
    people     somebody touched it within the idle time        nobody did for the idle time
    load       others use a quarter of it for half a minute    less than a seventh for two minutes
    heat       the GPU is 5 °C over its limit for 10 s,        it is 10 °C under it for two minutes
               or at it for a minute
    upload     what is left would not send a last checkpoint   the next period of the calendar begins
    download   the budget is used up                           the next period of the calendar begins

A rest lasts a minute at least. A gap between two looks (a machine that slept, a process that was stopped)
proves nothing about the time between: patience counts anew after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Literal

from paris_p2p.byte_budget import ByteBudget
from paris_p2p.rules.traffic import Traffic, Way, day_at, renewed_at_s
from paris_p2p.time_span import span_words
from paris_p2p.weekly_hours import Window, is_open, next_change_s

RestReason = Literal["hours", "battery", "people", "load", "heat", "upload", "download"]
Level = Literal["bad", "between", "good"]

MIN_REST_S = 60.0
MAX_GAP_S = 30.0  # between two looks
BUSY_SHARE, CALM_SHARE = 0.25, 0.15  # of all cores, used by others
OVER_C, UNDER_C = 5.0, 10.0
RESERVE_SHARE = 0.1  # of a budget, at most, that is kept for a last checkpoint
# Seconds for which a level has to last before a reason begins, and before it ends.
_PATIENCE_S: Mapping[RestReason, tuple[float, float]] = {
    "hours": (0.0, 0.0),
    "battery": (0.0, 60.0),
    "people": (0.0, 0.0),
    "load": (30.0, 120.0),
    "heat": (10.0, 120.0),
    "upload": (0.0, 0.0),
    "download": (0.0, 0.0),
}
_WARM_S = 60.0  # at the GPU's limit, before that is heat as well


@dataclass(frozen=True)
class CareRules:
    """What a person allows; a value of 0, no windows and no budget allow all."""

    hours: tuple[Window, ...] = ()
    zone: tzinfo = UTC
    only_idle_s: float = 0.0
    on_battery: bool = True
    max_gpu_temp_c: float = 0.0
    upload: ByteBudget | None = None
    download: ByteBudget | None = None


@dataclass(frozen=True)
class CareFacts:
    """What sensors and counters tell now; None is not told."""

    on_battery: bool | None = None
    idle_s: float | None = None
    why_idle_unknown: str = ""
    others_share: float | None = None  # of all cores, 0 to 1
    gpu_temp_c: float | None = None
    traffic: Traffic = field(default_factory=Traffic)
    last_checkpoint_bytes: int = 0  # what is still to be sent when training stops


@dataclass(frozen=True)
class CareClocks:
    """One moment by both clocks: that on the wall may jump, the monotonic one stands still in a sleep.

    `boot_s` counts the sleep, too; None where nothing tells it.
    """

    unix_s: float
    monotonic_s: float
    boot_s: float | None = None


@dataclass(frozen=True)
class CareHistory:
    """What earlier looks left: since when each reason's level has lasted, and which reasons hold."""

    at: CareClocks | None = None  # of the last look
    levels: Mapping[RestReason, tuple[Level, float]] = field(
        default_factory=dict
    )  # and since when, monotonic
    warm_since_s: float | None = None  # monotonic; the GPU at its limit
    reasons: tuple[RestReason, ...] = ()
    since: CareClocks | None = None  # of this rest


@dataclass(frozen=True)
class Rest:
    """Why a peer rests, and when it goes on: at `until_s` (Unix time), where that is known."""

    reasons: tuple[RestReason, ...]
    why: str
    until_s: float | None
    goes_on: str  # in words

    @property
    def attests(self) -> bool:
        """Whether the peer looks at others' cards meanwhile: where only its GPU rests."""
        return set(self.reasons) <= {"heat"}

    def __str__(self) -> str:
        return f"{self.why}; goes on {self.goes_on}"


def observed(rules: CareRules, facts: CareFacts, history: CareHistory, now: CareClocks) -> CareHistory:
    """Returns the history with this look in it."""
    now_s, levels = now.monotonic_s, dict[RestReason, tuple[Level, float]]()
    is_gap = history.at is None or not _is_soon(history.at, now)
    warm_s = None if is_gap else history.warm_since_s
    warm_s = (now_s if warm_s is None else warm_s) if _is_warm(rules, facts) else None
    for reason, level in _levels(rules, facts, now):
        before, since_s = history.levels.get(reason, ("", now_s))
        levels[reason] = (level, now_s if is_gap or before != level else since_s)
    wanted = {reason for reason in levels if _holds(reason, levels[reason], history, now_s, warm_s)}
    reasons = tuple(reason for reason in _PATIENCE_S if reason in wanted)
    if not reasons and history.since is not None and _rests_still(rules, history, now):
        reasons = tuple(reason for reason in history.reasons if reason in levels)
    since = (history.since or now) if reasons else None
    return CareHistory(now, levels, warm_s, reasons, since)


def rest_now(rules: CareRules, facts: CareFacts, history: CareHistory, now: CareClocks) -> Rest | None:
    """Returns why the peer rests by a history that has `now` in it; None while it may work."""
    if not history.reasons:
        return None
    told = [_words(reason, rules, facts, now) for reason in history.reasons]
    ends = [until_s for _, _, until_s in told]
    known = [until_s for until_s in ends if until_s is not None]
    until_s = max(known) if len(known) == len(ends) else None
    if until_s is not None:
        goes_on = _date_words(until_s, rules.zone, now.unix_s)
    else:
        goes_on = " and ".join(
            when if end_s is None else _date_words(end_s, rules.zone, now.unix_s) for _, when, end_s in told
        )
    return Rest(history.reasons, ", and ".join(why for why, _, _ in told), until_s, goes_on)


def is_used_up(budget: ByteBudget | None, way: Way, facts: CareFacts, zone: tzinfo, now_s: float) -> bool:
    """Whether nothing of a budget is left, so that no more may go that way at all."""
    if budget is None:
        return False
    return facts.traffic.used_bytes(budget, way, day_at(now_s, zone)) >= budget.size_bytes


def _levels(rules: CareRules, facts: CareFacts, now: CareClocks) -> Iterator[tuple[RestReason, Level]]:
    """Yields how it stands with each reason that the rules ask about."""
    if rules.hours:
        yield "hours", "good" if is_open(rules.hours, now.unix_s, rules.zone) else "bad"
    if not rules.on_battery and facts.on_battery is not None:
        yield "battery", "bad" if facts.on_battery else "good"
    if rules.only_idle_s:
        idle_s = facts.idle_s
        yield "people", "good" if idle_s is not None and idle_s >= rules.only_idle_s else "bad"
        yield "load", _level(facts.others_share, BUSY_SHARE, CALM_SHARE)
    if rules.max_gpu_temp_c and facts.gpu_temp_c is not None:
        limit_c = rules.max_gpu_temp_c
        yield "heat", _level(facts.gpu_temp_c, limit_c + OVER_C, limit_c - UNDER_C)
    today = day_at(now.unix_s, rules.zone)
    if rules.upload is not None:
        size = rules.upload.size_bytes
        left = size - min(facts.last_checkpoint_bytes, RESERVE_SHARE * size)
        used = facts.traffic.used_bytes(rules.upload, "up", today)
        yield "upload", "bad" if used >= left else "good"
    if rules.download is not None:
        used = facts.traffic.used_bytes(rules.download, "down", today)
        yield "download", "bad" if used >= rules.download.size_bytes else "good"


def _level(value: float | None, bad: float, good: float) -> Level:
    if value is None:
        return "between"
    return "bad" if value >= bad else "good" if value <= good else "between"


def _is_warm(rules: CareRules, facts: CareFacts) -> bool:
    limit_c, now_c = rules.max_gpu_temp_c, facts.gpu_temp_c
    return bool(limit_c) and now_c is not None and now_c >= limit_c


def _holds(
    reason: RestReason, level: tuple[Level, float], history: CareHistory, now_s: float, warm_s: float | None
) -> bool:
    """Whether a reason to rest begins or goes on."""
    (kind, since_s), (begin_s, end_s) = level, _PATIENCE_S[reason]
    if reason in history.reasons:
        return kind != "good" or now_s - since_s < end_s
    if reason == "heat" and warm_s is not None and now_s - warm_s >= _WARM_S:
        return True
    return kind == "bad" and now_s - since_s >= begin_s


def _rests_still(rules: CareRules, history: CareHistory, now: CareClocks) -> bool:
    """Whether a rest is too young to end, by either clock."""
    began = history.since or now
    passed_s = max(now.monotonic_s - began.monotonic_s, now.unix_s - began.unix_s)
    return passed_s < MIN_REST_S


def _is_soon(before: CareClocks, now: CareClocks) -> bool:
    return all(
        0 <= passed_s <= MAX_GAP_S
        for passed_s in (now.monotonic_s - before.monotonic_s, now.unix_s - before.unix_s)
    )


def _words(
    reason: RestReason, rules: CareRules, facts: CareFacts, now: CareClocks
) -> tuple[str, str, float | None]:
    """Returns why in words, when it goes on in words, and the Unix time of that where it is known."""
    if reason == "hours":
        windows = ", ".join(map(str, rules.hours))
        until_s = next_change_s(rules.hours, now.unix_s, rules.zone)
        return f"outside of its hours ({windows})", "in its hours", until_s
    if reason == "battery":
        return "this machine runs on its battery", "a minute after it was plugged in", None
    if reason == "people":
        return _people_words(rules, facts, now)
    if reason == "load":
        share = facts.others_share or 0.0
        return f"other programs use {share:.0%} of the processors", "two minutes after they are done", None
    if reason == "heat":
        limit_c, now_c = rules.max_gpu_temp_c, facts.gpu_temp_c
        why = f"the GPU is at {now_c:.0f} °C, {limit_c:.0f} °C are allowed"
        return why, f"two minutes after it is at {limit_c - UNDER_C:.0f} °C", None
    way: Way = "up" if reason == "upload" else "down"
    budget = rules.upload if way == "up" else rules.download
    if budget is None:  # changed since the look
        return f"the {reason} budget is used up", "soon", None
    return (
        f"the {reason} budget of {budget} is used up",
        "with the next period",
        renewed_at_s(budget, now.unix_s, rules.zone),
    )


def _people_words(rules: CareRules, facts: CareFacts, now: CareClocks) -> tuple[str, str, float | None]:
    wanted = f"after {span_words(rules.only_idle_s)} without"
    if facts.idle_s is None:
        return f"it is not known whether somebody uses this machine: {facts.why_idle_unknown}", wanted, None
    return f"somebody used this machine {facts.idle_s:.0f} s ago", wanted, None


def _date_words(moment_s: float, zone: tzinfo, now_s: float) -> str:
    """Returns a date as the clock on the wall shows it; today's without its day."""
    wall, today = datetime.fromtimestamp(moment_s, zone), datetime.fromtimestamp(now_s, zone)
    if wall.date() == today.date():
        return f"at {wall:%H:%M}"
    return f"{wall:%a %Y-%m-%d at %H:%M}"
