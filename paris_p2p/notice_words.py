"""Says in a person's words what an owner's notices did, for status, views and refusals.

Names and reasons in it are what others wrote: the words go through shown.py before a person sees them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from paris_p2p.envelope import Envelope
from paris_p2p.owner_records import (
    FOREVER_S,
    AddClips,
    AddExpert,
    Admit,
    AnyChange,
    DropExpert,
    End,
    Extend,
    NoticeRecord,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
)

Names = Mapping[str, str]  # of peers, as the owner calls them, by peer id
_LAST_DATE_S = 253402300799.0  # the last second of the year 9999


def date_words(at_s: float) -> str:
    """Returns a date in this machine's time zone: 2026-11-26 10:00; "for ever" for one beyond all others."""
    if at_s >= FOREVER_S:
        return "for ever"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(min(max(0.0, at_s), _LAST_DATE_S)))


def peer_words(peer: str, names: Names) -> str:
    """Returns the end of a peer id, after the name that the owner gave the peer, where it gave one."""
    name = names.get(peer, "")
    return f"{name} (…{peer[-8:]})" if name else f"…{peer[-8:]}"


def notice_words(notice: Envelope[NoticeRecord], names: Names | None = None) -> str:
    """Returns who changed what: `notice 3, owner, 2026-11-26 10:00: paused: night`."""
    record = notice.record
    when = date_words(record.issued_at)
    return f"notice {record.seq}, owner, {when}: {change_words(record.change, names or {})}"


def change_words(change: AnyChange, names: Names) -> str:
    """Returns what one notice changes."""
    return _WORDS[type(change)](change, names)


def _admit(change: Admit, names: Names) -> str:
    known = {**names, change.peer: change.name} if change.name else names
    until = "" if change.until >= FOREVER_S else f", until {date_words(change.until)}"
    return f"admitted {peer_words(change.peer, known)}: may {', '.join(change.rights)}{until}"


def _revoke(change: Revoke, names: Names) -> str:
    words = f"revoked {peer_words(change.peer, names)}"
    if change.since is not None:
        words += f", and what it signed since {date_words(change.since)}"
    if change.keeps:
        words += f"; {len(change.keeps)} that it admitted stay"
    return words + ("; a new key is in force" if change.next_key else "")


def _revoke_card(change: RevokeCard, names: Names) -> str:
    return f"took back {change.slot} seq {change.place} ({change.card[:8]}…) and what stands on it"


def _pause(change: Pause, names: Names) -> str:
    return "paused" + (f": {change.reason}" if change.reason else "")


def _resume(change: Resume, names: Names) -> str:
    return "resumed"


def _end(change: End, names: Names) -> str:
    return "ended the run" + (f": {change.reason}" if change.reason else "")


def _extend(change: Extend, names: Names) -> str:
    figures = {
        "total steps": change.total_steps,
        "decay steps": change.decay_steps,
        "seconds to a checkpoint": change.checkpoint_s,
        "gate tolerance": change.tolerance,
    }
    named = [f"{name} {value:,g}" for name, value in figures.items() if value is not None]
    if change.previews is None:
        return f"changed the run's numbers: {', '.join(named) or 'none'}"
    shown = ", ".join(f'"{prompt}"' for prompt in change.previews) or "none"
    return "; ".join(
        [*([f"changed the run's numbers: {', '.join(named)}"] if named else []), f"previews: {shown}"]
    )


def _add_clips(change: AddClips, names: Names) -> str:
    clips = {
        split: sum(one.clips for one in change.shards if one.split == split) for split in ("train", "gate")
    }
    clusters = sorted({one.cluster for one in change.shards})
    where = f"expert{'s' if len(clusters) > 1 else ''} {', '.join(map(str, clusters))}"
    return f"added {clips['train']:,} clips and {clips['gate']:,} for the gate to {where}"


def _add_expert(change: AddExpert, names: Names) -> str:
    return f"split expert-{change.parent}: expert-{change.child} starts from it"


def _drop_expert(change: DropExpert, names: Names) -> str:
    return f"took expert-{change.expert} out of the mixture"


_WORDS: dict[type, Callable[..., str]] = {
    Admit: _admit,
    Revoke: _revoke,
    RevokeCard: _revoke_card,
    Pause: _pause,
    Resume: _resume,
    End: _end,
    Extend: _extend,
    AddClips: _add_clips,
    AddExpert: _add_expert,
    DropExpert: _drop_expert,
}
