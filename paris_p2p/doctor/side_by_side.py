"""Makes several checks side by side, each within its own time: one that hangs holds up nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from paris_p2p.doctor.finding import Finding
from paris_p2p.errors import ParisError

log = logging.getLogger(__name__)


class Check(NamedTuple):
    """A look at one thing, which may block; it returns a finding or several."""

    name: str
    look: Callable[[], Finding | Sequence[Finding]]
    limit_s: float


@dataclass
class _Look:
    check: Check
    findings: tuple[Finding, ...] = ()
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            found = self.check.look()
            self.findings = (found,) if isinstance(found, Finding) else tuple(found)
        except (ParisError, OSError) as error:
            self.findings = (unknown(self.check.name, str(error)[:300]),)
        except Exception as error:  # the outermost frame of this look: the others are told all the same
            log.exception("the check %s failed", self.check.name)
            self.findings = (unknown(self.check.name, f"{type(error).__name__}: {str(error)[:200]}"),)
        finally:
            self.done.set()


def look_side_by_side(checks: Sequence[Check]) -> list[Finding]:
    """Returns what all checks found, in their order; one that took longer than its limit is unknown.

    A look that hangs goes on in a thread that no process waits for.
    """
    looks = [_Look(check) for check in checks]
    began_s = time.monotonic()
    for look in looks:
        threading.Thread(target=look.run, name=f"doctor-{look.check.name}", daemon=True).start()
    for look in looks:
        look.done.wait(max(0.0, began_s + look.check.limit_s - time.monotonic()))
    return [finding for look in looks for finding in _findings_of(look)]


def unknown(check: str, why: str) -> Finding:
    """Returns the finding of a check that could not be made here."""
    return Finding(check=check, verdict="unknown", found=f"could not be looked at: {why}")


def _findings_of(look: _Look) -> tuple[Finding, ...]:
    if look.done.is_set():
        return look.findings
    return (unknown(look.check.name, f"no answer within {look.check.limit_s:g} s"),)
