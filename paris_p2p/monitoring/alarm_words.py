"""An alarm as a webhook gets it: a small JSON object, with a line of text that chats show."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from paris_p2p.monitoring.peer_families import PRIVATE, run_label
from paris_p2p.rules.alarms import Alarm, AlarmKind
from paris_p2p.shown import FIELD_LETTERS, shown

_BEGINS: dict[AlarmKind, str] = {
    "tip late": "{slot} of {run} has no new checkpoint for {figure:.0f} minutes",
    "no lead": "nobody trains {slot} of {run}",
    "finished": "{run} is finished",
    "disk full": "the disk of this node is full: {figure:.0%} of what blobs may take",
}
_OVER: dict[AlarmKind, str] = {
    "tip late": "{slot} of {run} has a new checkpoint again",
    "no lead": "{slot} of {run} is trained again",
    "finished": "{run} goes on",
    "disk full": "the disk of this node has room again",
}


class RunName(BaseModel):
    """What a run may be called to others."""

    model_config = ConfigDict(frozen=True)

    label: str  # the start of its id, or `private`
    name: str = ""  # empty where it may not be told


class AlarmMessage(BaseModel):
    """What is posted; docs/monitoring.md, "Webhooks"."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    kind: AlarmKind
    state: str  # begins or over
    run: str = ""
    run_name: str = ""
    slot: str = ""
    figure: float = 0.0  # tip late: the tip's age in seconds; disk full: the share of the cap
    at: str  # UTC, like 2026-11-27T03:04:05Z
    text: str


def run_name(run: str, name: str, *, private: bool, names_told: bool) -> RunName:
    """Returns what a run is called to webhooks; a private one is not, unless `names_told`."""
    hidden = private and not names_told
    return RunName(label=run_label(run, private=hidden), name="" if hidden else shown(name, FIELD_LETTERS))


def alarm_message(alarm: Alarm, names: Mapping[str, RunName], at_s: float) -> AlarmMessage:
    """Returns the message of an alarm at `at_s` (Unix time)."""
    key = alarm.key
    known = names.get(key.run, RunName(label=PRIVATE))
    called = (
        f"run {known.name!r}" if known.name else "a private run" if known.label == PRIVATE else known.label
    )
    figure = alarm.figure / 60 if key.kind == "tip late" else alarm.figure
    words = (_BEGINS if alarm.begins else _OVER)[key.kind]
    return AlarmMessage(
        kind=key.kind,
        state="begins" if alarm.begins else "over",
        run=known.label if key.run else "",
        run_name=known.name if key.run else "",
        slot=key.slot,
        figure=round(alarm.figure, 4),
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s)),
        text="paris-p2p: " + words.format(slot=key.slot, run=called, figure=figure),
    )
