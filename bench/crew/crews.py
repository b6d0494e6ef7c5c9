"""Plays one crew: peers that train, send what they learnt in rounds, and adopt what was merged.

Every peer is a row of a shared stack, so that many crews train side by side.
Legend: n parameters, P peers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.crew.checking import Checks, Counting, contribution, weighed
from bench.crew.clips_seen import Streams
from bench.crew.plans import EMA_DECAYS, JOINING_STEPS, SLOWER, STALE_ROUNDS, TRAINING, Plan, peer_name
from bench.crew.sending import Sent, dense, forged, told_weights, update_bytes
from bench.crew.stacked import Inner, Seen
from paris_p2p.training.schedule import ema_decay, learning_rate
from paris_p2p.updates.layout import CHUNK_ENTRIES, Vector
from paris_p2p.updates.outer_step import OuterRates, OuterState, outer_step

CLIPS = TRAINING.batch_clips


@dataclass
class Peer:
    """Holds what one peer has beside its row of weights."""

    name: str
    place: int
    error: Vector  # [n], what was learnt and not sent
    published: Vector  # [n], its weights when it sent its last update
    steps: int = 0  # of its own
    since: int = 0  # of its own since its last update
    slow: bool = False
    thin: bool = False
    open: Sent | None = None  # its update that came too late for its round


class Crew:
    """Holds the merged state of a crew and its peers; `rows` [P n] are its share of the stack."""

    def __init__(self, plan: Plan, rows: Tensor, inner: Inner, first_row: int, base: Vector, checks: Checks):
        self.plan, self.inner, self.first_row, self.checks = plan, inner, first_row, checks
        self.rows: Vector = rows.numpy()  # the same memory
        self.tensors = rows
        self.state = OuterState(base.copy(), np.zeros_like(base), base.copy(), 0, 0)
        self.others = [base.copy() for _ in EMA_DECAYS[1:]]  # averages that forget otherwise
        self.rng = np.random.default_rng([plan.seed, 12])
        self.joined = self.merges = 0
        self.sent_bytes: list[int] = []  # of the first peer's updates
        self.counted: Counter[str] = Counter()
        self.due: tuple[int, list[Sent]] | None = None  # the tick at which a merge arrives, and what is in it
        self.bases: list[Vector] = []  # the newest last
        self.peers = [self._join(place) for place in range(plan.peers)]
        for peer in self.peers:
            peer.slow, peer.thin = peer.place < plan.slow, peer.place < plan.thin

    def _join(self, place: int) -> Peer:
        """Returns a peer that begins from the merged weights in place `place`."""
        self.rows[place] = self.state.weights
        self.inner.forget(self.first_row + place)
        name, self.joined = peer_name(self.joined), self.joined + 1
        return Peer(name, place, np.zeros_like(self.state.weights), self.state.weights.copy())

    def seen(self, streams: Streams, place: int) -> Seen:
        """Returns the next batch of the peer in a place."""
        plan, peer = self.plan, self.peers[place]
        lies = plan.attack == "other-data" and place == plan.peers - 1
        other = "expert-1" if plan.slot == "expert-0" else "expert-0"
        return streams.batch(plan.run, plan.slot, peer.name, other if lies else plan.slot, peer.steps)

    def inner_step(self, tick: int, gradients: Tensor) -> None:
        """Moves every peer by its gradient [P n]; a slow one has time for every fourth only."""
        together = self.plan.way == "every-step"
        if together:
            gradients.copy_(gradients.mean(0, keepdim=True).expand_as(gradients))
        training = TRAINING.model_copy(update={"learning_rate": self.plan.learning_rate})
        for peer in self.peers:
            if peer.slow and tick % SLOWER:
                continue
            rate = learning_rate(
                training, self.plan.slot, tick if together else self.state.steps + peer.since
            )
            rate *= min(1.0, (peer.steps + 1) / JOINING_STEPS)
            row = self.first_row + peer.place
            self.inner.step(row, self.tensors[peer.place], gradients[peer.place], rate)
            peer.steps += 1
            peer.since += 1
        if together:
            self.state.weights[:] = self.rows[0]
            self._average(self.plan.peers)

    def after_step(self, done: int) -> None:
        """Sends and merges where it is time; `done` steps of the clock are done."""
        if self.plan.way == "every-step":
            return
        if self.due is not None and done >= self.due[0]:
            self._merge(self.due[1])
            self.due = None
        if done % self.plan.inner_steps == 0:
            sent = self._send()
            if self.plan.delay_steps:
                self.due = (done + self.plan.delay_steps, sent)
            else:
                self._merge(sent)

    def _send(self) -> list[Sent]:
        """Makes every peer's update; returns what reaches the lead in time."""
        in_time: list[Sent] = []
        self.bases = [*self.bases[-STALE_ROUNDS:], self.state.weights.copy()]
        for peer in self.peers:
            before, peer.open = peer.open, None
            if before is not None and self.plan.late_way == "held":
                in_time.append(before)  # and it goes on without a new one
                continue
            if before is not None and self.plan.late_way == "folded":
                peer.error += dense(before.data, len(peer.error))
                peer.since += before.steps
            if peer.since == 0:
                continue
            late = self.rng.random() < self.plan.late_share
            made = self._update(peer, in_time)
            if late:
                peer.open = made
            else:
                in_time.append(made)
            if late and before is not None and self.plan.late_way == "given up":
                in_time.append(before)  # its maker has nothing fresh: the lead takes what is there
        return in_time

    def _update(self, peer: Peer, others: list[Sent]) -> Sent:
        plan, number, base = self.plan, self.merges, self.state.weights
        attacker = plan.attack != "" and peer.place == plan.peers - 1
        if attacker and plan.attack == "stale":
            number, base = max(0, number - STALE_ROUNDS), self.bases[0]
        weights = self.rows[peer.place]
        told = told_weights(plan, base, weights, self.rng) if attacker else weights
        exact, data = None, b""
        if plan.exact:
            exact = base - told
        else:
            step = plan.thin_step if peer.thin else plan.step
            data = update_bytes(plan, peer.error, base, told, self.merges, step)
            data = forged(plan, data, others) if attacker else data
        made = Sent(peer.name, data, exact, peer.since, number, peer.steps - peer.since)
        if plan.eager:
            self._go_ahead(weights, dense(data, len(base)) if exact is None else exact)
        peer.published[:] = weights
        peer.since = 0
        if peer.place == 0:
            self.sent_bytes.append(made.size_bytes)
        return made

    def _moving(self) -> NDArray[np.bool_]:
        """Returns which entries this round moves: [n]."""
        parts = self.plan.parts
        found: NDArray[np.bool_] = (
            np.arange(self.rows.shape[1]) // CHUNK_ENTRIES % parts == self.merges % parts
        )
        return found

    def _go_ahead(self, weights: Vector, q: Vector) -> None:
        """Takes the outer step of a peer's own update alone, as if all others had learnt the same."""
        plan, momentum = self.plan, np.float32(self.plan.momentum)
        step = np.float32(plan.outer_rate) * (q + momentum * (momentum * self.state.momentum + q))
        np.copyto(weights, self.state.weights - step, where=self._moving())

    def _merge(self, sent: list[Sent]) -> None:
        """Takes the outer step over what counts, and lets every peer adopt it."""
        plan, state = self.plan, self.state
        counting = self.checks.sift(state.weights, sent, self.merges)
        self.counted.update(one.sent.maker for one in counting)
        steps = sum(one.sent.steps for one in counting)
        before = state.steps
        if counting:
            self._outer(counting)
            for average, limit in zip(self.others, EMA_DECAYS[1:], strict=True):
                average += np.float32(1 - ema_decay(limit, before) ** steps) * (state.weights - average)
            if plan.peers > 1:
                here = self._moving()
                for peer in self.peers:
                    row = self.rows[peer.place]
                    np.copyto(row, state.weights + (row - peer.published), where=here)
        self.merges += 1
        if plan.churn_rounds and self.merges % plan.churn_rounds == 0:
            place = (self.merges // plan.churn_rounds) % plan.peers
            self.peers[place] = self._join(place)

    def _outer(self, counting: list[Counting]) -> None:
        plan, state = self.plan, self.state
        parts = weighed(counting, self.merges, CLIPS)
        decay = ema_decay(EMA_DECAYS[0], state.steps)
        if not plan.exact:
            rates = OuterRates(plan.outer_rate, plan.momentum, decay)
            outer_step(state, [contribution(*part, CLIPS) for part in parts], rates)
            return
        total = sum(share for _, share, _ in parts)
        g = sum(np.float32(share * scale / total) * one.q for one, share, scale in parts)
        state.momentum *= np.float32(plan.momentum)
        state.momentum += g
        state.weights -= np.float32(plan.outer_rate) * (g + np.float32(plan.momentum) * state.momentum)
        steps = sum(one.sent.steps for one in counting)
        state.average += np.float32(1 - decay**steps) * (state.weights - state.average)
        state.steps += steps

    def _average(self, merged: int) -> None:
        for average, limit in zip((self.state.average, *self.others), EMA_DECAYS, strict=True):
            average += np.float32(1 - ema_decay(limit, self.state.steps) ** merged) * (
                self.state.weights - average
            )
        self.state.steps += merged
