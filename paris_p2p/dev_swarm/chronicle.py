"""What the nodes of a dev-swarm said, in order: who trained what, and where each saw the tips."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

STEADY = ("training", "standby", "seeding", "looking", "cooling")  # phases of a peer that takes part


@dataclass(frozen=True)
class StepSeen:
    """Says that a peer had made so many steps of a slot; `at_s` is seconds since the dev-swarm began."""

    at_s: float
    peer: str
    slot: str
    epoch: int
    steps: int


@dataclass(frozen=True)
class TipSeen:
    """Says which tip of a slot a node saw."""

    at_s: float
    epoch: int
    seq: int
    steps: int
    clips: int
    card: str

    @property
    def place(self) -> tuple[int, int]:
        return self.epoch, self.seq


@dataclass
class Chronicle:
    """Takes statuses from several threads."""

    sightings: list[StepSeen] = field(default_factory=list)
    tips: dict[tuple[str, str], list[TipSeen]] = field(default_factory=dict)  # (node, slot) -> its tips
    went_back: list[str] = field(default_factory=list)  # in words
    last: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)  # node -> its last status
    leads: dict[str, str] = field(default_factory=dict)  # slot -> who was seen to take its last step
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, node: str, at_s: float, status: dict[str, Any]) -> None:
        """Takes a node's status."""
        with self._lock:
            self.last[node] = at_s, status
            training = status.get("training")
            if training and training.get("loss") is not None and not training.get("crew_lead"):
                self._note_steps(node, at_s, training)
            for slot in status["slots"]:
                if slot["tip"]:
                    self._note_tip(node, at_s, slot)

    def _note_steps(self, node: str, at_s: float, training: dict[str, Any]) -> None:
        slot = str(training["slot"])
        self.leads[slot] = node
        self.sightings.append(StepSeen(at_s, node, slot, int(training["epoch"]), int(training["steps"])))

    def _note_tip(self, node: str, at_s: float, slot: dict[str, Any]) -> None:
        seen = TipSeen(
            at_s, slot["tip_epoch"], slot["tip_seq"], slot["steps"], slot["clips"], str(slot["tip"])
        )
        known = self.tips.setdefault((node, slot["slot"]), [])
        if known and known[-1].card == seen.card:
            return
        if known and seen.place < known[-1].place:
            self.went_back.append(
                f"{node} saw {slot['slot']} go back from {known[-1].place} to {seen.place} at {at_s:.0f} s"
            )
        known.append(seen)

    def tip(self, node: str, slot: str, at_s: float | None = None) -> TipSeen | None:
        """Returns the newest tip of a slot that a node saw, or that it had seen by a moment."""
        with self._lock:
            known = self.tips.get((node, slot), [])
            return next((one for one in reversed(known) if at_s is None or one.at_s <= at_s), None)

    def over(self, node: str, now_s: float) -> dict[str, str]:
        """Returns which slots nobody is to train at a Unix time, by a node's last status, and why."""
        with self._lock:
            slots = self.last[node][1]["slots"] if node in self.last else []
        done = {slot["slot"]: "has all its steps" for slot in slots if slot.get("done")}
        rest = {
            slot["slot"]: "rests as converged" for slot in slots if slot.get("rests_until_s", 0.0) > now_s
        }
        return rest | done

    def leads_now(self, now_s: float, within_s: float) -> dict[str, str]:
        """Returns who trains which slot, by what was said lately."""
        with self._lock:
            return {one.slot: one.peer for one in self.sightings[-200:] if now_s - one.at_s <= within_s}

    def copy(self) -> tuple[StepSeen, ...]:
        """Returns all sightings so far."""
        with self._lock:
            return tuple(self.sightings)
