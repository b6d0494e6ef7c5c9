"""A link opens the page once: what is written on a command line, where others can read it, opens nothing
later.
"""

from __future__ import annotations

import secrets

VALID_S = 600.0
_MOST = 16


class LoginCodes:
    """Gives codes out, and takes each once within VALID_S."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}  # code -> monotonic

    def give(self, now_s: float) -> str:
        """Returns a new code; of more than sixteen that wait, the oldest is worth nothing any more."""
        while len(self._until_s) >= _MOST:
            del self._until_s[next(iter(self._until_s))]
        code = secrets.token_urlsafe(18)
        self._until_s[code] = now_s + VALID_S
        return code

    def take(self, code: str, now_s: float) -> bool:
        """Tells whether a code is good, which it is once."""
        until_s = self._until_s.pop(code, None)
        return until_s is not None and now_s < until_s
