"""What a storage node knows of the owner's word in a private run: who takes part, and nothing else.

It reads the notices that say so and not those between them, so that it keeps no chain: each counts by its
signature and number alone. Members, who see all of them, notice a contradiction.
"""

from __future__ import annotations

import logging

from paris_p2p.errors import RecordError
from paris_p2p.keyring import DoorKey
from paris_p2p.node.owners_word import OwnersWord, notice_name
from paris_p2p.owner_records import StorageTicket
from paris_p2p.rules.chain import Chain, Notice
from paris_p2p.spec import (
    ClipShape,
    GateSpec,
    LatentShape,
    NetworkSpec,
    Pinned,
    RunSpec,
    TextShape,
    TimingSpec,
    TrainingSpec,
)

log = logging.getLogger(__name__)


def spec_of_ticket(ticket: StorageTicket) -> RunSpec:
    """Returns a RunSpec in the place of the one that is sealed to this node: its people are the run's own,
    all else says nothing.
    """
    secret, mark = ticket.doors[0]
    nothing = NetworkSpec(preset="sealed", config={})
    return RunSpec(
        oldest_reader=4,
        name="a private run",
        purpose="",
        data_licence="sealed",
        weights_licence="sealed",
        created_at=0.0,
        rng_seed=0,
        owner=ticket.owner,
        owner_node=ticket.owner_node,
        members_only=True,
        private=True,
        key_hash=DoorKey(secret, mark.hex()).hash,
        clip=ClipShape(frames=1, height=1, width=1, fps=1.0),
        latent=LatentShape(channels=1, frames=1, height=1, width=1),
        codec=Pinned(name="sealed"),
        text=Pinned(name="sealed"),
        text_shape=TextShape(tokens=1, dim=1, pooled_dim=1),
        experts=1,
        expert=nothing,
        router=nothing,
        training=TrainingSpec(batch_clips=1, learning_rate=1.0),
        gate=GateSpec(attestors=ticket.attestors),
        timing=TimingSpec(),
        train_shards=(),
        gate_shards=(),
    )


class DoorWord(OwnersWord):
    """Holds the notices that a storage node can read, and certificates; `state` says who takes part."""

    @property
    def newest(self) -> int:
        """Returns the highest number of a notice that was read; 0 for none."""
        return max((notice.record.seq for notice in self.chain.notices), default=0)

    def add_notice(self, notice: Notice) -> bool:
        """Takes a verified notice of the owner's; returns True when it is new. Of two with one number the
        first that came counts.
        """
        if not self._insert(notice):
            return False
        self.ledger.put(notice_name(notice.record.seq), notice.data)
        self._changed()
        return True

    def _insert(self, notice: Notice) -> bool:
        number, owner = notice.record.seq, self.signed.owner
        if notice.signer != owner or any(one.record.seq == number for one in self.chain.notices):
            return False
        notices = sorted((*self.chain.notices, notice), key=lambda one: one.record.seq)
        self.chain = Chain(self.run, owner, tuple(notices))
        self.certificates.note(notice)
        return True

    def _load(self) -> None:
        for key, data in self.ledger.items("notice/"):
            try:
                self._insert(self.open(data, ("notice",)))
            except RecordError as error:
                log.warning("%s in the ledger is damaged and deleted: %s", key, error)
                self.ledger.delete(key)
