"""What is done to which peer and when: a pure function of the wishes and their seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

TroubleKind = Literal["kill", "pause", "cut"]
KINDS: tuple[TroubleKind, ...] = ("kill", "pause", "cut")
JITTER = 0.2  # of the time between two troubles of a kind
AWAY_S = (3.0, 12.0)  # a killed peer is away so long
# In claims: a paused peer loses its slot; a cut one loses it, or is back just before.
LASTS_CLAIMS: dict[str, tuple[float, float]] = {"pause": (1.25, 1.75), "cut": (0.75, 2.0)}
RECOVERY_S = 10.0  # after a trouble, within which the same peer has no other


@dataclass(frozen=True)
class SwarmWishes:
    """Holds what is to be broken, and for how long."""

    peers: int
    length_s: float
    claim_s: float
    seed: int = 0
    kill_every_s: float = 0.0  # 0: never
    pause_every_s: float = 0.0
    cut_every_s: float = 0.0
    slow_share: float = 0.0  # of the peers
    quiet_s: float = 0.0  # before the troubles, to compare with

    def every_s(self, kind: TroubleKind) -> float:
        """Returns the time between two troubles of a kind; 0 where there are none."""
        return {"kill": self.kill_every_s, "pause": self.pause_every_s, "cut": self.cut_every_s}[kind]


@dataclass(frozen=True)
class Trouble:
    """Says what happens to one peer; times are seconds since the troubles began."""

    at_s: float
    kind: TroubleKind
    peer: int  # 0 … peers - 1
    lasts_s: float  # until it is started, goes on, or has its link again

    @property
    def ends_s(self) -> float:
        return self.at_s + self.lasts_s


def trouble_plan(wishes: SwarmWishes) -> tuple[Trouble, ...]:
    """Returns all troubles in order; each is over by the end, and no peer has two at once.

    One for which no peer is free is left out.
    """
    rng = random.Random(f"{wishes.seed} troubles")
    moments = sorted(moment for kind in KINDS for moment in _moments(wishes, kind))
    troubles: list[Trouble] = []
    busy_until_s = [0.0] * wishes.peers
    for at_s, kind, lasts_s in moments:
        free = [peer for peer, until_s in enumerate(busy_until_s) if until_s <= at_s]
        draw = rng.random()  # drawn also where nobody is free: what comes later does not depend on it
        if free:
            trouble = Trouble(at_s, kind, free[int(draw * len(free))], lasts_s)
            busy_until_s[trouble.peer] = trouble.ends_s + RECOVERY_S
            troubles.append(trouble)
    return tuple(troubles)


def slow_peers(wishes: SwarmWishes) -> frozenset[int]:
    """Returns the peers that are slow all the time."""
    count = round(wishes.slow_share * wishes.peers)
    return frozenset(random.Random(f"{wishes.seed} slow").sample(range(wishes.peers), count))


def _moments(wishes: SwarmWishes, kind: TroubleKind) -> list[tuple[float, TroubleKind, float]]:
    """Returns when troubles of a kind begin and how long they last, those that end in time."""
    every_s = wishes.every_s(kind)
    if every_s <= 0:
        return []
    rng = random.Random(f"{wishes.seed} {kind}")
    low, high = AWAY_S if kind == "kill" else (wishes.claim_s * claims for claims in LASTS_CLAIMS[kind])
    found = []
    for number in range(1, int(wishes.length_s / every_s) + 1):
        at_s = every_s * (number + JITTER * rng.uniform(-1, 1))
        lasts_s = rng.uniform(low, high)
        if at_s + lasts_s <= wishes.length_s:
            found.append((at_s, kind, lasts_s))
    return found
