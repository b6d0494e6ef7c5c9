"""How old a slot's tip is: by its card's own date, and no less than the time for which it is known here."""

from __future__ import annotations

from paris_p2p.rules.tips import Tip


class TipAges:
    """Remembers since when (monotonic) each slot's tip is known here. Where this machine's clock was set
    back, a card's date alone would say for long that its tip is new, and nobody would hear that it is late.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}  # slot -> its tip's card, and since when

    def age_s(self, slot: str, tip: Tip, now_s: float, monotonic_s: float) -> float:
        """Returns the tip's age at a Unix time, at least 0."""
        known, since_s = self._known.get(slot, ("", 0.0))
        if known != tip.card.id:
            since_s = monotonic_s
            self._known[slot] = tip.card.id, since_s
        return max(0.0, now_s - tip.card.record.issued_at, monotonic_s - since_s)
