"""The numbers and dates of what a node signs: they go on over restarts, and never back."""

from __future__ import annotations

import time
from typing import Any

from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.store.ledger import Ledger


class Numbering:
    """Counts for one run of one node."""

    def __init__(self, run: str, ledger: Ledger):
        self.run, self.ledger = run, ledger

    def header(self, kind: str, slot: str, lifetime_s: float | None = None) -> dict[str, Any]:
        """Returns the fields that every record repeats. `seq` is in milliseconds, and never goes back even
        when the clock does.
        """
        now, seq = time.time(), self.next_ms(f"seq/{kind}/{slot or 'run'}")
        lifetime = SIGNED_LIFETIME_S[kind] if lifetime_s is None else lifetime_s
        return {"run": self.run, "slot": slot, "seq": seq, "issued_at": now, "expires_at": now + lifetime}

    def next_ms(self, name: str) -> int:
        """Returns the clock in milliseconds, and more than it returned before for this name in the ledger."""
        kept = self.ledger.get(name) or b"0"
        last = int(kept) if kept.isdigit() and len(kept) <= 16 else 0  # damaged: the clock alone counts
        seq = max(last + 1, int(time.time() * 1000))
        self.ledger.put(name, str(seq).encode())
        return seq
