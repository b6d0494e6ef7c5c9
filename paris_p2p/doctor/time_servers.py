"""This machine's clock against time servers (NTP, RFC 5905): the DHT takes no record that is 3 s ahead."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ntplib

from paris_p2p.doctor.finding import Finding

SERVERS = ("pool.ntp.org", "time.cloudflare.com", "time.google.com")
ASK_S = 2.0  # a server's time to answer
POOR_S, MOST_S = 1.0, 3.0  # as other peers' clocks: swarm/clocks.py


@dataclass(frozen=True)
class ClockFacts:
    """Seconds by which each server that answered is ahead of this machine."""

    offsets_s: tuple[float, ...]
    asked: int


def read_clock(servers: Sequence[str] = SERVERS, ask: Callable[[str], float] | None = None) -> ClockFacts:
    """Returns what time servers say, which are asked side by side."""
    with ThreadPoolExecutor(len(servers)) as threads:
        answers = list(threads.map(_quietly(ask or _ask_server), servers))
    return ClockFacts(tuple(offset for offset in answers if offset is not None), len(servers))


def judge_clock(facts: ClockFacts) -> Finding:
    """Returns whether the clock is right, where a time server answered."""
    wanted = f"within {POOR_S:g} s; others take no record of a clock that is {MOST_S:g} s off"
    if not facts.offsets_s:
        found = (
            f"none of {facts.asked} time servers answered; an invite names peers to compare the clock with"
        )
        return Finding(check="clock", verdict="unknown", found=found, wanted=wanted)
    return judge_offset("clock", statistics.median(facts.offsets_s), _servers(len(facts.offsets_s)))


def _servers(count: int) -> str:
    return f"{count} time server{'s' * (count != 1)}"


def told_by_peers(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings, in which silent time servers are no question where peers told the time."""
    if not any(one.check == "clock-of-peers" for one in findings):
        return list(findings)
    return [
        one.model_copy(update={"verdict": "note", "found": "no time server answered; peers did, see below"})
        if one.check == "clock" and one.verdict == "unknown"
        else one
        for one in findings
    ]


def judge_offset(check: str, offset_s: float, by: str) -> Finding:
    """Returns what a difference of clocks means; `offset_s` is by how much the others are ahead."""
    size_s = abs(offset_s)
    verdict = "cannot" if size_s > MOST_S else "poor" if size_s > POOR_S else "good"
    return Finding(
        check=check,
        verdict=verdict,
        found=f"{size_s:.3f} s {'behind' if offset_s > 0 else 'ahead'}, by {by}",
        wanted=f"within {POOR_S:g} s; others take no record of a clock that is {MOST_S:g} s off",
        mend="" if verdict == "good" else "timedatectl set-ntp true",
        numbers={"offset_s": offset_s},
    )


def _ask_server(server: str) -> float:
    answer: Any = ntplib.NTPClient().request(server, version=3, timeout=ASK_S)
    return float(answer.offset)


def _quietly(ask: Callable[[str], float]) -> Callable[[str], float | None]:
    def asked(server: str) -> float | None:
        try:
            return ask(server)
        except (ntplib.NTPException, OSError):
            return None

    return asked
