"""Claims over time: peers with late news, clocks that disagree and sudden deaths; never two at work, never
long nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import ClaimView, Decision, decide_claim
from paris_p2p.rules.tips import Tip, refuse_card

from .made import NOW, PEERS, SLOT, TIMING, card, claim, kept, tip

NEWS_S = 2.0  # how long a record takes to the others; below the settle time less the clocks' disagreement
CARD_EVERY_S = 60
GRACE_S = TIMING.claim_s + TIMING.margin_s + TIMING.settle_s + 10


@dataclass
class Player:
    identity: Identity
    ahead_s: float  # of true time
    alive: bool = True
    last: Decision | None = None
    said: list[tuple[float, Envelope[ClaimRecord]]] = field(default_factory=list)


class Swarm:
    """A slot, its players and a hand-moved clock; the lead makes a card a minute, attested at once by
    somebody who stays.
    """

    def __init__(self, clocks_ahead_s: list[float]):
        self.players = [Player(peer, ahead) for peer, ahead in zip(PEERS, clocks_ahead_s, strict=False)]
        self.tip: Tip | None = None
        self.now = NOW

    def step(self) -> list[Player]:
        """One second; who is at work in it."""
        for player in self.players:
            if player.alive:
                self._decide(player)
        busy = [
            p for p in self.players if p.alive and p.last is not None and p.last.action in ("train", "hold")
        ]
        if busy and int(self.now) % CARD_EVERY_S == 0:
            self._publish(busy[0])
        self.now += 1.0
        return busy

    def _view(self, player: Player) -> ClaimView:
        seen = [
            c for other in self.players for at, c in other.said if other is player or at + NEWS_S <= self.now
        ]
        return ClaimView(SLOT, kept(seen), self.tip, TIMING)

    def _decide(self, player: Player) -> None:
        clock = self.now + player.ahead_s
        me = player.identity.peer_id
        decision = player.last = decide_claim(self._view(player), me, clock)
        own = player.said[-1][1].record if player.said else None
        if decision.action == "claim":
            player.said.append((self.now, claim(player.identity, decision.epoch, clock)))
        elif own is not None and decision.action in ("hold", "yield"):
            given_up = decision.action == "yield"
            player.said.append(
                (self.now, claim(player.identity, own.epoch, own.claimed_at, clock, released=given_up))
            )

    def _publish(self, player: Player) -> None:
        assert player.last is not None
        parent = self.tip.card if self.tip else None
        made = card(player.identity, parent, epoch=player.last.epoch, issued_at=self.now + player.ahead_s)
        assert refuse_card(made, self.tip, player.identity.peer_id, None, "an attestor") is None
        self.tip = tip(made)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 500), st.integers(0, 3), st.booleans()), max_size=6),
)
def test_never_two_at_work_and_never_long_nobody(
    clocks_ahead_s: list[float], fates: list[tuple[int, int, bool]]
) -> None:
    swarm = Swarm(clocks_ahead_s)
    idle_s = 0
    for second in range(700):
        for at, who, alive in fates:
            if at == second and who < len(swarm.players):
                swarm.players[who].alive = alive
        busy = swarm.step()
        assert len(busy) <= 1
        idle_s = 0 if busy or not any(p.alive for p in swarm.players) else idle_s + 1
        assert idle_s <= GRACE_S


def test_a_lead_that_was_dead_for_long_comes_back_as_a_standby() -> None:
    swarm = Swarm([0.0, 0.0])
    for _ in range(100):
        swarm.step()
    first = next(p for p in swarm.players if p.last is not None and p.last.action in ("train", "hold"))
    first.alive = False
    while not swarm.step():
        assert swarm.now < NOW + 400
    first.alive = True
    for _ in range(200):
        assert first not in swarm.step()
    assert swarm.tip is not None
    assert swarm.tip.card.record.epoch == 2
    assert swarm.tip.card.signer != first.identity.peer_id
