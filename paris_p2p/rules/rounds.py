"""How a crew's rounds go: how long they are, which updates count, and with which weight (docs/protocol.md,
"Crews"). Pure functions, in floating point that is the same on every machine: sums by `math.fsum`, roots and
quotients as IEEE 754 rounds them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low
from typing import Final, Literal

from paris_p2p.crew_records import (
    MAX_COUNTED,
    MAX_LATE,
    SCALE_ONE,
    STREAM_CLIPS_END,
    Counted,
    CrewSpec,
    UpdateRecord,
)
from paris_p2p.spec import TimingSpec

MAX_GRACE_S: Final = 30.0  # after a round's end
MAX_NORM: Final = 3.0  # of an update, in medians
MAX_STEPS_OF_MEDIAN: Final = 8  # an update holds at most so many times `most_steps`
_MAX_STEPS_PER_S: Final = 1e4  # as for cards: more than any machine makes
MOST_WEIGHT: Final = 4  # of an update, in median clips of its round
LATER: Final = 8  # times less that an update counts for each round that it is late
LEAST_ROUNDS: Final = 4  # between two cards with full weights, unless somebody needs them
ALONE_ROUNDS: Final = 3  # without another's update, after which a lead trains alone again

REASONS_FOR_UPDATES: Final[Mapping[str, str]] = {
    "format": "its file is not a well-formed update of this slot",
    "stale": "it started from a card that is not among the last ones",
    "counted": "its clips were merged already, or another update of its maker's comes before it",
    "rate": "it counts more steps than its maker can have made, or other clips than its steps use",
    "norm": "it is more than three times as long as the others",
    "copy": "it repeats another peer's update",
    "loss": "a step along it makes the held-out loss worse",
    "data": "it learned nothing from the clips that it says it was trained on",
    "late": "it came after the round was merged, and not again in time",
    "full": "more peers contributed than one slot can count",
}
UpdateReason = Literal["format", "stale", "counted", "rate", "norm", "copy", "loss", "data", "late", "full"]


@dataclass(frozen=True)
class HeardUpdate:
    """An update that may count in a round, from its verified record."""

    id: str
    signer: str
    record: UpdateRecord
    heard_s: float  # Unix time at which it was heard of here


def lateness(base: str, lineage: Sequence[str]) -> int | None:
    """Returns by how many rounds an update is late that started from `base`, where `lineage` are the card
    that is merged into and those before it, the newest first; None when it is older than all of them.
    """
    recent = list(lineage[: MAX_LATE + 1])
    return recent.index(base) if base in recent else None


def next_counts(before: Mapping[str, int], merged: Mapping[str, int]) -> tuple[Counted, ...]:
    """Returns what a round counts: up to where each peer's stream was merged before it, and where `merged`
    says how far those go whose updates it merged.
    """
    return tuple(Counted(peer=peer, next=count) for peer, count in sorted({**before, **merged}.items()))


def refuse_update(
    update: UpdateRecord, lineage: Sequence[str], counted: int | None, batch_clips: int, crew: CrewSpec
) -> UpdateReason | None:
    """Returns why an update cannot count, from its record alone; None when nothing speaks against it.

    `counted` is up to where its maker's stream was merged along the lineage; None: never, and the slot
    counts as many peers as it can.
    """
    if lateness(update.base, lineage) is None:
        return "stale"
    if counted is None:
        return "full"
    if update.first_clip < counted:
        return "counted"
    if update.steps == 0 or update.clips != update.steps * batch_clips:
        return "rate"
    if update.first_clip + update.clips >= STREAM_CLIPS_END:
        return "rate"  # no round could say up to where it was merged
    return "rate" if update.steps > MAX_STEPS_OF_MEDIAN * crew.most_steps else None


def too_many_steps(update: UpdateRecord, base_issued_s: float) -> bool:
    """Tells whether no machine can have made an update's steps since its base was signed."""
    return update.steps > _MAX_STEPS_PER_S * max(1.0, update.issued_at - base_issued_s)


def counted_of(counts: Mapping[str, int], peer: str) -> int | None:
    """Returns up to where a peer's stream was merged; None when no more peers can be counted."""
    if peer in counts:
        return counts[peer]
    return 0 if len(counts) < MAX_COUNTED else None


def choose_updates(
    candidates: Sequence[HeardUpdate],
    contributed: Collection[str],
    most: int,
    members: Sequence[str] = (),
    lineage: Sequence[str] = (),
) -> tuple[HeardUpdate, ...]:
    """Returns the updates that a round merges of those that may count: of each signer the one whose base is
    the newest of the `lineage`, at most `most` of them, ascending by signer.

    A fresh update is worth more than a late one of the same maker, which is passed over then. Of two of one
    base the one counts that comes first in the stream of clips, and of two that begin alike the later, which
    holds the work of both. Where there are more,
    those who contributed to the slot before come first, then the `members` of its crew in their order, then
    those heard first: keys cost nothing, and a crowd of new ones keeps nobody out who has worked, nor for
    long who would.
    """
    places = {peer: place for place, peer in enumerate(members)}
    first: dict[str, HeardUpdate] = {}
    for one in candidates:
        known = first.get(one.signer)
        if known is None or _place(one, lineage) < _place(known, lineage):
            first[one.signer] = one

    def rank(one: HeardUpdate) -> tuple[bool, int, float, str]:
        place = places.get(one.signer, len(places))
        return one.signer not in contributed, place, one.heard_s, one.signer

    return tuple(sorted(sorted(first.values(), key=rank)[:most], key=lambda one: one.signer))


def _place(one: HeardUpdate, lineage: Sequence[str]) -> tuple[int, int, int, str]:
    late = lateness(one.record.base, lineage)
    return MAX_LATE + 1 if late is None else late, one.record.first_clip, -one.record.seq, one.id


def weighed_clips(clips: Sequence[int]) -> tuple[int, ...]:
    """Returns how many clips of each of a round's updates its weight counts: at most MOST_WEIGHT times the
    lower median, since how many it made is its maker's word alone.

    Without that one peer that claims as many as a record may leaves the others next to nothing of the round.
    """
    limit = MOST_WEIGHT * median_low(clips) if clips else 0
    return tuple(min(one, limit) for one in clips)


def weight(clips: int, late: int) -> float:
    """Returns w = clips / LATER^late: what an update counts before its scale.

    A late one counts next to nothing, since the others learned the same meanwhile: with w = clips / sqrt(1 +
    late) a crew overshot (docs/science.md, "Crews"). It counts at all so that a lead cannot leave a peer
    out for ever and say that all it sends comes late.
    """
    return clips / float(LATER**late)


def length_for_steps(norm: float, steps: int) -> float:
    """Returns |Q| / sqrt(steps), by which updates of machines of different speed are compared.

    What AdamW moves grows somewhat faster than the root of its steps, and not as fast as they.
    """
    return norm / math.sqrt(max(1, steps))


def lengths_for_steps(norms: Sequence[float], steps: Sequence[int]) -> tuple[float, ...]:
    """Returns the lengths of a round's updates, of which none counts more steps than `weighed_clips` lets it:
    they are its maker's word alone. A machine five times faster than the others is not taken for a liar.
    """
    return tuple(length_for_steps(*one) for one in zip(norms, weighed_clips(steps), strict=True))


def update_scales(norms: Sequence[float]) -> tuple[int, ...]:
    """Returns each update's scale c = min(1, median l / l_i) in 1/65536, rounded down and at least one.

    `norms` are the lengths l_i >= 0 in the order of the updates (`length_for_steps`).
    """
    middle = median(norms) if norms else 0.0
    return tuple(
        SCALE_ONE if norm <= middle else max(1, math.floor(middle / norm * SCALE_ONE)) for norm in norms
    )


def too_long(norms: Sequence[float], usual: float = 0.0) -> tuple[int, ...]:
    """Returns the places of the updates whose length (`length_for_steps`) is over MAX_NORM medians.

    Of fewer than three updates the median says nothing: then it is compared with `usual`, the median of the
    rounds before; 0: not known, and nothing is refused. An update that is not finite is always too long.
    """
    middle = median(norms) if len(norms) >= 3 else usual
    limit = MAX_NORM * middle if middle > 0 else math.inf
    return tuple(place for place, norm in enumerate(norms) if not norm <= min(limit, 1e30))


def round_length_s(
    step_s: Sequence[float], upload_s: Sequence[float], crew: CrewSpec, timing: TimingSpec
) -> float:
    """Returns how long a round takes, in seconds.

    The median member makes between `least_steps` and `most_steps`: as many as twice its upload takes, so that
    uploads overlap the next round; a slower line sends coarser ones (`step_for_line`). `step_s` and
    `upload_s` are what members say that they measured, of one step and of one update's upload; 0: not known.
    Of two the lower one counts, so that neither a slow member nor one that lies makes the round of others
    longer. A run's cards come at least three and at most half as often as its checkpoint interval says,
    because numbers and patience are counted in it.
    """
    least_s, most_s = timing.checkpoint_s / 3, 2 * timing.checkpoint_s
    known = [one for one in step_s if one > 0]
    if not known:
        return min(most_s, max(least_s, timing.checkpoint_s))
    middle = median_low(known)
    wanted_s = max(crew.least_steps * middle, 2 * median_low(upload_s or (0.0,)))
    wanted_s = min(wanted_s, max(crew.most_steps, crew.least_steps) * middle)
    return min(most_s, max(least_s, wanted_s))


def grace_s(round_s: float) -> float:
    """Returns the seconds after a round's end within which updates still count in it."""
    return min(MAX_GRACE_S, round_s / 4)


def goes_full(
    rounds_since_full: int, full_upload_s: float, round_s: float, crew: CrewSpec, *, asked: bool = False
) -> bool:
    """Tells whether the next card publishes its weights in full.

    It does after as many rounds as keep the full upload within a third of the time, at least LEAST_ROUNDS and
    at most `full_rounds`, and as soon as somebody needs them (`asked`).
    """
    every = max(LEAST_ROUNDS, math.ceil(3 * full_upload_s / round_s)) if round_s > 0 else LEAST_ROUNDS
    return asked or rounds_since_full + 1 >= min(crew.full_rounds, every)


def light_way_pays(full_upload_s: float, timing: TimingSpec) -> bool:
    """Tells whether a lead alone sends compressed steps between its full checkpoints: where these take more
    than a third of the checkpoint interval to send.
    """
    return full_upload_s > timing.checkpoint_s / 3
