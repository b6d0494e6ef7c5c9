"""Which slot a peer should take, and how often a lead should publish: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from paris_p2p.identity import peer_id_to_bytes


@dataclass(frozen=True)
class SlotState:
    """A slot as the board shows it."""

    slot: str
    lead: str = ""  # peer id; empty: nobody
    clips: int = 0  # of the tip's lineage
    done: bool = False  # it made all the steps the run asks for


@dataclass(frozen=True)
class Choice:
    """A slot, why, and how long to wait first, in settle times, so that a crowd does not stampede."""

    slot: str
    why: str
    delay: float  # in [0, 1)


def choose_slot(slots: Sequence[SlotState], me: str, *, only: str = "") -> Choice | None:
    """The least trained slot without a lead; equals are shuffled by the peer's id, so that newcomers spread out."""
    free = [slot for slot in slots if not slot.lead and not slot.done and only in ("", slot.slot)]
    if not free:
        return None
    chosen = min(free, key=lambda slot: (slot.clips, _shuffle(me, slot.slot)))
    others = f"the least trained of {len(free)} slots without a lead" if len(free) > 1 else "the only slot without a lead"
    why = "chosen by hand" if only else others
    return Choice(chosen.slot, f"{why} ({chosen.clips:,} clips so far)", _shuffle(me, "delay") / 2**64)


def checkpoint_interval_s(configured_s: float, upload_s: float) -> float:
    """Seconds between published checkpoints: never so often that the upload takes more than a third of the time."""
    return max(configured_s, 3 * upload_s)


def _shuffle(me: str, what: str) -> int:
    return int.from_bytes(blake3(peer_id_to_bytes(me) + what.encode()).digest(8), "big")
