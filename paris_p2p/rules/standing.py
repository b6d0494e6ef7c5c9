"""What the owner's word leaves a peer to do in a run: a pure function of the run's state, and of whether its
notices contradict one another (docs/protocol.md, "Notices").

    the notices contradict one another:        rest, and publish nothing
    the owner revoked this peer:               leave
    the owner ended the run:                   train no more; attest for a while what was made before
    the owner paused the run:                  publish, release, rest; attest what waits
    this peer may not train, or soon no more:  publish, release, and say what to do
    otherwise:                                 work
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paris_p2p.notice_words import date_words
from paris_p2p.records import CardRecord
from paris_p2p.rules.chain import Notice, whose_fault
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.rules.run_state import RunState

ENDING_S = 60.0  # before its right ends, a lead publishes its last checkpoint, which counts by its date

Phase = Literal["works", "contradicted", "revoked", "ended", "paused", "not admitted"]


@dataclass(frozen=True)
class Standing:
    """What one peer may do now, and why it may do no more, in a person's words."""

    phase: Phase = "works"
    why: str = ""

    @property
    def works(self) -> bool:
        """Whether it may claim slots and train."""
        return self.phase == "works"

    @property
    def publishes(self) -> bool:
        """Whether a lead that stops publishes its last checkpoint."""
        return self.phase in ("works", "paused", "not admitted")

    @property
    def attests(self) -> bool:
        """Whether it looks at others' cards, where it has the right to."""
        return self.phase not in ("contradicted", "revoked")


def standing(state: RunState, me: str, fork: tuple[Notice, Notice] | None = None) -> Standing:
    """Returns what `me` may do in the run as of the state; a fork is of the chain of its notices."""
    if fork is not None:
        return Standing("contradicted", whose_fault(fork))
    if state.is_revoked(me):
        last = state.revocations[me][-1]
        return Standing(
            "revoked",
            f"the run's owner revoked this peer (notice {last.number}, {date_words(last.told_s)}): "
            "nobody serves it any more, and what it signs counts for nothing; "
            "if that is a mistake, ask the owner to admit it anew",
        )
    if state.ended is not None:
        return Standing("ended", f"ended {_by_owner(state.ended)}; what there is stays fetchable")
    if state.paused is not None:
        return Standing("paused", f"paused {_by_owner(state.paused)}")
    return _by_right(state, me)


def attests_after_end(card: CardRecord, state: RunState, patience_s: float) -> bool:
    """Tells whether an ended run leaves a card to attest: one made before the end, for one patience.

    Only how long ago the end was told bounds what a maker may say of its card's date.
    """
    if state.ended is None:
        return True
    ended_s = state.ended.record.issued_at
    return card.issued_at <= ended_s and state.now_s <= ended_s + patience_s + CLOCK_SLACK_S


def _by_owner(notice: Notice) -> str:
    change = notice.record.change
    reason = getattr(change, "reason", "")
    words = f": {reason}" if reason else ""
    return f"by the owner (notice {notice.record.seq}, {date_words(notice.record.issued_at)}{words})"


def _by_right(state: RunState, me: str) -> Standing:
    if "train" in state.rights_at(me, state.now_s + ENDING_S):
        return Standing()
    if state.may(me, "train"):
        return Standing("not admitted", "this peer's right to train ends now; ask the owner for a new invite")
    ended_s = max(
        (one.until_s for one in state.admissions.get(me, ()) if "train" in one.rights), default=None
    )
    if ended_s is None:
        rights = ", ".join(sorted(state.rights(me)))
        may = f"it may {rights}" if rights else "it is no member"
        return Standing(
            "not admitted",
            f"this peer was not admitted to train ({may}); ask the owner for an invite that admits it",
        )
    return Standing(
        "not admitted",
        f"this peer's right to train ended {date_words(ended_s)}; ask the owner for a new invite",
    )
