"""A pure function of its claims, its tip and the clock says in a person's words what a slot waits for."""

from __future__ import annotations

from paris_p2p.envelope import Envelope
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import ClaimView
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.rest import WORDS_OF_REST, rests_until_s, words_after


def slot_news(
    view: ClaimView,
    lead: Envelope[ClaimRecord] | None,
    pending: int,
    now_s: float,
    *,
    done: bool = False,
    refused: str = "",
    woken_s: float = 0.0,
) -> str:
    """Returns what the slot waits for; nothing when somebody leads and there is a checkpoint. `refused` is
    why the newest one was, `woken_s` when the owner last asked for more training (Unix time).
    """
    if done:
        return ""
    tip, timing = view.tip, view.timing
    left_s = rests_until_s(tip, timing, woken_s) - now_s
    if left_s > 0:
        return f"{WORDS_OF_REST}; nobody trains it, one checkpoint is tried again in {left_s / 60:,.0f} min"
    if refused:
        return f"its newest checkpoint was refused: {refused}"
    if pending and tip is None:
        return "its first checkpoint was published and waits until an attestor has fetched and measured it"
    if lead is None:
        return "nobody leads it: it waits for a peer" + ("" if tip is None else "; its tip stays")
    if tip is not None and 0 < tip.card.record.lowered < RESTS:
        return f"went back to its best checkpoint, and {words_after(tip.card.record.lowered)}"
    if tip is None:
        since_s = max(0.0, now_s - lead.record.claimed_at)
        return (
            f"claimed {since_s:.0f} s ago; its first checkpoint comes once the lead has fetched the data "
            "and trained for "
            f"about {timing.checkpoint_s:.0f} s"
        )
    return ""
