"""An attestor remembers a slot's cards until it is started anew, no more of them than fit a bounded place."""

from __future__ import annotations

import math
from collections import Counter

from paris_p2p.rules.tips import Tip, tip_id

_MAX_CARDS = 4096


class SlotMemory:
    """One slot's cards: the attestor's task changes this, and rules/next_check.py reads it."""

    def __init__(self) -> None:
        self.read_s = -math.inf  # when the board was last read for waiting cards
        self.led_cards: dict[str, None] = {}  # ids: their makers held the slot when they came, or later
        self._put_off: set[str] = set()  # ids of cards that were counted as put off
        self._tip, self._failed = "", Counter[str]()

    def led(self, *card_ids: str) -> None:
        """Remembers that the makers of these cards hold the slot."""
        for card_id in card_ids:
            self.led_cards[card_id] = None
            if len(self.led_cards) > _MAX_CARDS:
                del self.led_cards[next(iter(self.led_cards))]

    def is_put_off(self, card_id: str) -> bool:
        """Tells whether the card was counted before, and counts it."""
        if card_id in self._put_off:
            return True
        if len(self._put_off) >= _MAX_CARDS:
            self._put_off.clear()
        self._put_off.add(card_id)
        return False

    def failed_after(self, tip: Tip | None) -> Counter[str]:
        """Returns the checks that came to no end after this tip, by card and by maker; with the next tip all
        begin anew.
        """
        head = tip_id(tip)
        if self._tip != head:
            self._tip, self._failed = head, Counter()
        return self._failed
