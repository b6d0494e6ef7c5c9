"""Keeps what a member of a crew is ahead of its base: what it learned and sent, and what it has not sent yet.

    Δ = base - weights                     an update is made: e <- β e + Δ, Q = the largest of e, e <- e - Q
    reference = weights                    on the chunks that Q holds: what is sent is not new any more
    weights = new base + (weights - reference)          another base is adopted while training went on
    reference = new base                   and new base - Q, while this machine's update waits for its round

So nothing is counted twice, and nothing is lost but what came late for its round: of an update that was left
out, Q goes back to what is ahead, of a late one it does not. A round with nothing but this machine's own
update (a lead alone) changes none of its weights: the base came nearer to them.
Legend: n parameters, e what updates did not say (error feedback), Q an update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paris_p2p.disk import explained, replacing
from paris_p2p.rules.crew_steps import Fate
from paris_p2p.training.crew_messages import RoundFiles
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.layout import CHUNK_ENTRIES, Vector
from paris_p2p.updates.outer_step import OuterState, add_scaled
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader

ClipSpan = tuple[int, int]  # first clip of this machine's own stream, and the one after the last


@dataclass(frozen=True)
class Work:
    """Counts optimizer steps: on the clips [first_clip, first_clip + clips) of this machine's own stream.

    `loss_sum` is over the `loss_steps` of them whose loss is known.
    """

    first_clip: int = 0
    steps: int = 0
    clips: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0

    @property
    def span(self) -> ClipSpan:
        return self.first_clip, self.first_clip + self.clips

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / max(1, self.loss_steps)

    def plus(self, other: Work) -> Work:
        """Returns this work and the one that came after it."""
        if not self.steps:
            return other
        return Work(
            self.first_clip,
            self.steps + other.steps,
            self.clips + other.clips,
            self.loss_sum + other.loss_sum,
            self.loss_steps + other.loss_steps,
        )

    def beyond(self, other: Work) -> Work:
        """Returns what is left of this work without the `other` that it began with."""
        return Work(
            other.span[1],
            self.steps - other.steps,
            self.clips - other.clips,
            self.loss_sum - other.loss_sum,
            self.loss_steps - other.loss_steps,
        )


@dataclass(frozen=True)
class Sent:
    """Is an update of this machine that no base of its holds yet.

    `earlier` are those whose work it holds too, the oldest first.
    """

    work: Work
    path: Path
    update: Update
    earlier: tuple[Sent, ...] = ()


class CrewProgress:
    """Is what one machine is ahead of its base, as flat vectors in main memory: 20 bytes a parameter.

    The weights themselves lie in the network; who calls hands them in as a vector [n], which is changed where
    it says so.
    """

    def __init__(self, base: OuterState, peer: str):
        self.base, self.peer = base, peer
        self.reference = base.weights.copy()
        self.error = np.full_like(base.weights, 0)
        self.waiting: tuple[Sent, ...] = ()  # the oldest first
        self.unsent = Work()
        self._apart = False  # e holds what the weights themselves lack

    @property
    def ahead(self) -> Work:
        """Returns the work that is in the weights and not in the base."""
        total = Work()
        for one in self.waiting:
            total = total.plus(one.work)
        return total.plus(self.unsent)

    def note(self, work: Work) -> None:
        """Counts a step, or others that were made before."""
        self.unsent = self.unsent.plus(work)

    def settle(self, weights: Vector) -> bool:
        """Takes waiting updates as they were sent, so that another one may hold their work too; returns
        whether that changed the weights.
        """
        if not self.waiting:
            return False
        self._stand_on(weights, self.waiting, frozenset())
        return True

    def is_unchanged(self, weights: Vector) -> bool:
        """Tells whether no step changed a weight, as of a router of one expert: an update would be zeros."""
        first, base = slice(CHUNK_ENTRIES), self.base.weights  # which tells nearly always
        same = np.array_equal(weights[first], base[first]) and np.array_equal(weights, base)
        return same and not self.error.any()

    def publish(self, weights: Vector, header: UpdateHeader, precision: Precision, path: Path) -> Sent:
        """Writes an update of all that is ahead on the header's chunks, and returns it.

        Waiting updates of the same chunks are part of it: the weights must have been settled. DivergedError
        where something is not finite, after which only `restart` helps; DiskFullError, ReadOnlyError.
        """
        same = tuple(one for one in self.waiting if one.update.header.part == header.part)
        work = self.unsent
        for one in reversed(same):
            work = one.work.plus(work)
        self._apart = bool(self.error.any())
        with explained(path), replacing(path, durable=False) as file:
            compress(self.error, self.base.weights, weights, header, precision, file)
        earlier = tuple(each for one in same for each in (*one.earlier, one))
        sent = Sent(work, path, Update.open(path, header.parameters), earlier)
        self.waiting = (*(one for one in self.waiting if one not in same), sent)
        self.unsent = Work(first_clip=work.span[1])
        _copy_chunks(self.reference, weights, header)
        return sent

    def adopt(self, weights: Vector, base: OuterState, rounds: Sequence[RoundFiles], own: Fate) -> bool:
        """Goes on from another base; changes the weights to what training goes on with, and returns whether
        it did.

        `base` may be the arrays of the base before, changed by now. `rounds` are those in between, where they
        are known; `own` is what became of the last update where they do not tell.
        """
        merged = self._merged(rounds, own)
        self.base = base
        if own == "lost" and not merged:
            self.restart(weights)
            return True
        if self.waiting and rounds and all(self._is_mine_alone(made) for made in rounds):
            return self._go_on_alone(weights)
        last = max((end for _, end in merged), default=0)
        # Those whose clips come after all that were merged may still be.
        self._stand_on(weights, tuple(one for one in self.waiting if one.work.first_clip >= last), merged)
        return True

    def restart(self, weights: Vector) -> None:
        """Gives up all that is ahead: the weights become the base's."""
        weights[...] = self.base.weights
        self.reference[...] = self.base.weights
        self.error.fill(0)
        self._apart = False
        self.unsent = Work(first_clip=self.ahead.span[1])
        self.waiting = ()

    def _merged(self, rounds: Sequence[RoundFiles], own: Fate) -> frozenset[ClipSpan]:
        """Returns the clips of the own updates that went into the new base, or are given up as late."""
        if own == "late" or (own == "merged" and not rounds):
            return frozenset(one.work.span for one in self.waiting)
        updates = (one for made in rounds for one in made.updates if one.signer == self.peer)
        return frozenset((one.first_clip, one.first_clip + one.clips) for one in updates)

    def _is_mine_alone(self, made: RoundFiles) -> bool:
        """Tells whether a round merged the one update that waits here, and nothing else."""
        spans = [(one.first_clip, one.first_clip + one.clips) for one in made.updates]
        mine = all(one.signer == self.peer for one in made.updates)
        return mine and spans == [one.work.span for one in self.waiting]

    def _go_on_alone(self, weights: Vector) -> bool:
        """Leaves the weights where they are: what a plain round did not take is ahead still.

        What updates before did not say comes back to the weights where they lack it.
        """
        changed = self._apart
        if changed:
            weights -= self.reference
            weights -= self.error
            weights += self.base.weights
        self.reference[...] = self.base.weights
        self.error.fill(0)
        self.waiting = ()
        self._apart = False
        return changed

    def _stand_on(self, weights: Vector, waiting: tuple[Sent, ...], merged: frozenset[ClipSpan]) -> None:
        """Moves weights and reference to the base, with the updates that still wait for their round."""
        weights -= self.reference
        self.reference[...] = self.base.weights
        for one in self.waiting:
            if one in waiting:
                add_scaled(self.reference, one.update, -1)
            elif one.work.span not in merged:
                self._take_back(weights, one, merged)
        weights += self.reference
        self.waiting, self._apart = waiting, True

    def _take_back(self, weights: Vector, one: Sent, merged: frozenset[ClipSpan]) -> None:
        """Puts the work of an update that will not be merged back to what is ahead, but for the part that an
        earlier one held too, which was.
        """
        add_scaled(weights, one.update, -1)
        for part in reversed(one.earlier):
            if part.work.span in merged:
                add_scaled(weights, part.update, 1)
                self.unsent = one.work.beyond(part.work).plus(self.unsent)
                return


def _copy_chunks(target: Vector, source: Vector, header: UpdateHeader) -> None:
    """Copies the chunks that an update holds."""
    end = target.size // CHUNK_ENTRIES * CHUNK_ENTRIES
    rows = slice(header.part, None, header.parts)
    target[:end].reshape(-1, CHUNK_ENTRIES)[rows] = source[:end].reshape(-1, CHUNK_ENTRIES)[rows]
    if header.last_length:
        target[end:] = source[end:]
