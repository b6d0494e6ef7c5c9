"""Which slot a peer should take, and how long leads and attestors wait for each other: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from paris_p2p.identity import peer_id_to_bytes

BUSY_GATE_S = 15.0  # what loading torch and a gate take on a busy machine
MAX_TURN_S = 60.0
MIN_CHECK_S = 7200.0  # for gates of other slots, and this one's
SLOWEST_BYTES_PER_S = 250e3  # an uplink below this is none
SIMILAR = 0.75  # slots with at least this share of the others' clips count as equally trained


@dataclass(frozen=True)
class SlotState:
    """A slot as the board shows it, and whether this machine is up to it."""

    slot: str
    lead: str = ""  # peer id; empty: nobody
    clips: int = 0  # of the tip's lineage
    done: bool = False  # it made all the steps the run asks for
    fits: bool = True  # this peer's memory and device are enough for its network
    rests: bool = False  # it got no better at any learning rate (rest.py)


@dataclass(frozen=True)
class Choice:
    """A slot, why, and how long to wait first, in settle times, so that a crowd does not stampede."""

    slot: str
    why: str
    delay: float  # in [0, 1)


def choose_slot(slots: Sequence[SlotState], me: str, *, only: str = "", holding: str = "") -> Choice | None:
    """Returns one of the least trained slots without a lead; those within SIMILAR of the least are shuffled
    by the peer's id.

    A peer that is `holding` a slot leaves it only for one trained less than SIMILAR of it: moving costs a
    download and a hand-over.
    """
    free = [slot for slot in slots if _is_free(slot) and slot.fits and only in ("", slot.slot)]
    if (held := _held(slots, holding)) is not None:
        free = [slot for slot in free if _is_worth(slot, held)]
    if not free:
        return None
    least = min(slot.clips for slot in free)
    weakest = [slot for slot in free if SIMILAR * slot.clips <= least]
    chosen = min(weakest, key=lambda slot: lot(me, slot.slot))
    return Choice(
        chosen.slot,
        f"{_why(only, len(free), len(weakest))} ({chosen.clips:,} clips so far)",
        lot(me, "delay") / 2**64,
    )


def turns_before(slots: Sequence[SlotState], holding: str) -> int:
    """Returns how often others may go first where a slot is free that the lead of `holding` would go to: the
    lead of the most trained slot comes first, with one beside it for each further free slot. Otherwise all
    leads would leave their slots for one, and all but one would come back.
    """
    held = _held(slots, holding)
    if held is None:
        return 0
    free = [slot for slot in slots if _is_free(slot) and _is_worth(slot, held)]
    if not free:
        return 0
    leads = [slot for slot in slots if slot.lead and not slot.done and not slot.rests]
    before = [slot for slot in leads if (-slot.clips, slot.slot) < (-held.clips, held.slot)]
    return len(before) // len(free)


def _held(slots: Sequence[SlotState], holding: str) -> SlotState | None:
    """Returns the slot that is held, where it is still to be trained."""
    return next((one for one in slots if one.slot == holding and not one.done and not one.rests), None)


def _is_worth(free: SlotState, held: SlotState) -> bool:
    return free.clips < SIMILAR * held.clips


def why_none(slots: Sequence[SlotState], only: str = "") -> str:
    """Returns why `choose_slot` found nothing, in a person's words."""
    asked = [slot for slot in slots if only in ("", slot.slot)]
    if only and not asked:
        return f"the run has no slot {only} any more"
    if only and asked and asked[0].rests:
        return f"{only} rests as converged"
    if only:
        return f"{only} has a lead"
    at_rest = sum(slot.rests and not slot.lead for slot in asked)
    taken = "every slot has a lead, or is done" if at_rest < len(asked) else "every slot rests"
    return f"{taken}; {at_rest} at rest as converged" if 0 < at_rest < len(asked) else taken


def checkpoint_interval_s(configured_s: float, upload_s: float) -> float:
    """Returns the seconds between published checkpoints: never so few that the upload takes more than a third
    of the time.
    """
    return max(configured_s, 3 * upload_s)


def card_cadence_s(configured_s: float, upload_s: float) -> float:
    """Returns the seconds from one card to the next, so that a lead's death costs at most one checkpoint
    interval of work.


    Work is safe when its card is attested, `upload_s` after the card went out: the next card goes out that
    much before the interval is over. Never less than two thirds of the interval.
    """
    interval_s = checkpoint_interval_s(configured_s, upload_s)
    return interval_s - min(upload_s, interval_s / 3)


def attest_turn_s(checkpoint_s: float) -> float:
    """Returns the seconds that an attestor gives each one before it in the order of turns."""
    return min(MAX_TURN_S, max(checkpoint_s / 2, min(BUSY_GATE_S, 2 * checkpoint_s)))


def attest_limit_s(download_bytes: int, checkpoint_s: float) -> float:
    """Returns the seconds after which an attestor lets go of a check: far beyond what an honest maker on a
    slow uplink needs.

    What came stays on the disk, so that the next try goes on from there. 176 GB (11 B parameters) get eight
    days.
    """
    return max(MIN_CHECK_S, 4 * checkpoint_s) + download_bytes / SLOWEST_BYTES_PER_S


def attest_patience_s(interval_s: float) -> float:
    """Returns the seconds after which a card without an attestation was refused, or nobody is there."""
    return max(2 * interval_s, min(BUSY_GATE_S, 4 * interval_s))


def _is_free(slot: SlotState) -> bool:
    return not (slot.lead or slot.done or slot.rests)


def _why(only: str, free: int, weakest: int) -> str:
    if only:
        return "chosen by hand"
    if free == 1:
        return "the only slot without a lead"
    return f"{'the' if weakest == 1 else 'one of the'} least trained of {free} slots without a lead"


def lot(peer: str, what: str) -> int:
    """Returns a peer's lot in [0, 2**64): the same on every machine, another for each `what`."""
    return int.from_bytes(blake3(peer_id_to_bytes(peer) + what.encode()).digest(8), "big")
