"""Signed updates, rounds and crews' cards for tests of the rules, with everything that does not matter filled
in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paris_p2p.crew_records import Counted, CrewRound, CrewSpec, MergedUpdate, RefusedUpdate, UpdateRecord
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.round_checks import CrewRules, OpenedRound, StateBefore, state_before
from paris_p2p.rules.rounds import lateness
from tests.rules.made import NOW, RUN, SLOT, card

BATCH = 10
CREW = CrewSpec(peers=4)
RULES = CrewRules(CREW, BATCH)


def update(peer: Identity, base: str, first_clip: int = 0, /, **changes: Any) -> Envelope[UpdateRecord]:
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": 1,
        "issued_at": NOW,
        "expires_at": NOW + 3600.0,
        "base": base,
        "blob": BlobRef(id="03" * 32, size_bytes=10),
        "steps": 5,
        "clips": 50,
        "first_clip": first_clip,
        "train_loss": 1.0,
    }
    return seal(peer, UpdateRecord(**(fields | changes)))


def opened_round(
    before: StateBefore,
    updates: Sequence[Envelope[UpdateRecord]],
    refused: Sequence[tuple[str, str, str]] = (),
    **changes: Any,
) -> OpenedRound:
    """Returns the honest round of these updates, but for the changes; `refused`: (update, peer, reason)."""
    ordered = sorted(updates, key=lambda one: one.signer)
    lineage = (before.card, *before.older)[:3]
    counted = dict(before.counted or {})
    counted |= {one.signer: one.record.first_clip + one.record.clips for one in ordered}
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "lineage": lineage,
        "steps_before": before.steps,
        "clips_before": before.clips,
        "steps": before.steps + sum(one.record.steps for one in ordered),
        "clips": before.clips + sum(one.record.clips for one in ordered),
        "merged_before": before.merged,
        "merged": f"{before.steps:064x}",
        "updates": tuple(
            MergedUpdate(envelope=one.data, late=lateness(one.record.base, lineage) or 0, scale=1 << 16)
            for one in ordered
        ),
        "refused": tuple(RefusedUpdate(update=u, peer=p, reason=r) for u, p, r in refused),
        "counted": tuple(Counted(peer=peer, next=counted[peer]) for peer in sorted(counted)),
    }
    return OpenedRound(CrewRound(**(fields | changes)), tuple(ordered))


def ref(number: int) -> BlobRef:
    return BlobRef(id=f"{number:064x}", size_bytes=100)


def light_card(
    peer: Identity, parent: Envelope[CardRecord], rounds: Sequence[OpenedRound], **changes: Any
) -> Envelope[CardRecord]:
    """Returns the honest light card after `rounds`, but for the changes."""
    before, made = parent.record, rounds[-1].made
    refs = before.rounds if before.is_light else ()
    fields: dict[str, Any] = {
        "rounds": (*refs, *(ref(1000 + made.steps + i) for i in range(len(rounds)))),
        "full": before.full if before.is_light else parent.id,
        "merged": made.merged,
        "steps": made.steps,
        "clips": made.clips,
        "weights": before.weights,
        "resume": before.resume,
    }
    return card(peer, parent, **(fields | changes))


def chain(peers: Sequence[Identity], lead: Identity, count: int) -> list[tuple[Any, Any]]:
    """Returns (card, its newest round) of a solo card and `count` light ones in which all peers have part."""
    made: list[tuple[Any, Any]] = [(card(lead), None)]
    for number in range(count):
        before = state_before(*made[-1])
        one = opened_round(before, [update(peer, before.card, 50 * number) for peer in peers])
        made.append((light_card(lead, made[-1][0], [one]), one))
    return made
