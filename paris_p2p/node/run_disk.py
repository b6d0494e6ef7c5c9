"""What one run has on this host's disk: what each blob is to the run, which are served, and which stay."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from paris_p2p.envelope import Envelope
from paris_p2p.errors import BlobError
from paris_p2p.history_records import MAX_TOLD_ROUND_BYTES
from paris_p2p.node.board import Board
from paris_p2p.node.host import Host
from paris_p2p.node.kept_checkpoints import Keeping
from paris_p2p.node.open_copies import OPEN, OpenCopies, work_folder
from paris_p2p.node.opened_rounds import OpenedRounds
from paris_p2p.node.run_blobs import RunBlobs
from paris_p2p.node.run_records import RunRecords
from paris_p2p.node.update_copies import largest_update_bytes
from paris_p2p.owner_records import AddClips
from paris_p2p.records import CardRecord
from paris_p2p.rules.trust import Thing
from paris_p2p.spec import RunSpec

log = logging.getLogger(__name__)


class RunDisk(RunRecords):
    """Is the part of a RunNode that has to do with what lies on this disk."""

    def __init__(self, host: Host, run: Envelope[RunSpec]):
        super().__init__(host, run)
        self._data_of = -1  # the number of the notice that the next two are of
        self._data: frozenset[str] = frozenset()
        self._data_things: dict[str, set[Thing]] = {}  # of all that the owner ever gave
        self._held: dict[str, set[str]] = {}  # purpose -> blobs in use
        copies = OpenCopies(host.store, work_folder(host.settings.data_dir, run.id, OPEN))
        self.blobs = RunBlobs(host.store, self.keys, copies, lambda: self.spec, host.make_room)
        self.rounds = OpenedRounds(run.id, self.blobs, self.word.open, self.refused)
        self.keeping = Keeping(host.store, self.ledger, self.data_blobs, self.disk_news.set, self.rounds.refs)
        self._tips = TipThings(self.board, self.rounds)

    def data_blobs(self) -> frozenset[str]:
        """Returns the blobs that the owner gave, by the RunSpec of now."""
        self._know_data()
        return self._data

    def _know_data(self) -> None:
        """Notes what the owner's blobs are to this run, also of those that notices took out: cards of before
        are judged on them.
        """
        if self._data_of == self.chain.number:
            return
        things: dict[str, set[Thing]] = {ref.id: {"data"} for ref in self.signed_spec.data_blobs}
        for shard in self.signed_spec.gate_shards:
            things[shard.blob.id] = {"gate"}
        for shard in self.signed_spec.train_shards:
            things[shard.blob.id].add("data")
        for notice in self.chain.notices:
            change = notice.record.change
            for added in change.shards if isinstance(change, AddClips) else ():
                things.setdefault(added.blob.id, set()).add("gate" if added.split == "gate" else "data")
        self._data_of, self._data_things = self.chain.number, things
        self._data = frozenset(ref.id for ref in self.spec.data_blobs)

    def things(self, blob_id: str) -> set[Thing]:
        """Returns what a blob is to this run: rights differ (rules/trust.py)."""
        self._know_data()
        found = set(self._data_things.get(blob_id, ()))
        if blob_id in self.keeping.resumes or self._is_update(blob_id):
            found |= {"resume"}
        if blob_id in self.keeping.good - self.keeping.resumes:
            found |= {"weights"}
        return found | self._tips.of(blob_id)

    def serves(self, blob_id: str) -> bool:
        self._know_data()
        if blob_id in self._data_things or blob_id in self.keeping.good:
            return True
        return bool(self._tips.of(blob_id)) or self._is_update(blob_id)

    def _is_update(self, blob_id: str) -> bool:
        """Tells whether an update that a round may merge is in this blob, which came here as such: anybody
        can name a blob that lies here for another reason.
        """
        return self.keeping.holds(blob_id) and self.board.names_update(blob_id)

    def keep_good(self, card: CardRecord) -> None:
        """Lets this card's blobs be seeded: this peer made it, or checked it."""
        self.keeping.keep_good(card)

    def kept_blobs(self) -> set[str]:
        """Returns the blobs that must not be evicted: the data of the run, what the tips need, and what is in
        use.
        """
        held = tuple(self._held.values())
        return self._tips.blobs().union(self.data_blobs(), self.keeping.good, self._updates_here(), *held)

    def _updates_here(self) -> set[str]:
        """Returns the blobs here of updates that rounds may merge.

        Anybody can name a checkpoint in one, again and again, so that no disk would let it go: none counts
        that is larger than an update of its slot can be.
        """
        found = set[str]()
        for slot in tuple(self.board.slots):
            tip, crew = self.board.tip(slot), self.spec.crew
            if tip is None or crew is None:
                continue
            limit_bytes = largest_update_bytes(tip.card.record.weights.size_bytes, crew)
            named = self.board.update_blobs(slot)
            found |= {id for id in named if 0 < self.blobs.store.size_bytes(id) <= limit_bytes}
        return found

    def hold(self, purpose: str, blob_ids: set[str]) -> None:
        """Keeps blobs that `purpose` is using, whatever the tip does; a second call replaces them."""
        self._held[purpose] = blob_ids

    def let_go(self, purpose: str) -> None:
        """Lets blobs go that `purpose` was using."""
        self._held.pop(purpose, None)
        self.disk_news.set()

    async def forget_superseded(self) -> None:
        """Deletes checkpoints that were refused or overtaken, of those made, attested or copied here
        (rules/keeping.py). The tip's, the best's, those that wait for attestation and those in use stay.
        """
        self.note_crews()
        tips = [tip for slot in tuple(self.board.slots) if (tip := self.board.tip(slot))]
        if any(ref.id in self.rounds.locked for tip in tips for ref in tip.card.record.rounds):
            return  # what their updates are is not known until a key comes
        in_use = self._updates_here().union(*self._held.values())
        await self.keeping.forget(self.board.slots.values(), in_use)

    def note_crews(self) -> None:
        """Tells the board whose updates the rounds of the tips merged, as far as they are here: strangers'
        records displace none of these peers'.
        """
        for slot in self.board.slots:
            tip = self.board.tip(slot)
            if tip is not None and tip.card.record.rounds:
                self.board.note_contributors(slot, self.rounds.signers(tip.card.record))
                self._remember_rounds(tip.card.record)

    def _remember_rounds(self, card: CardRecord) -> None:
        """Keeps a card's rounds for the run's history: their blobs go with the card."""
        for ref in card.rounds:
            if ref.size_bytes > MAX_TOLD_ROUND_BYTES or self.board.history.has_round(card.slot, ref.id):
                continue
            if self.rounds.merged(ref, card.slot) is None:
                continue  # it is not here, or no key opens it yet
            try:
                data = self.host.store.path(ref.id).read_bytes()
            except (BlobError, OSError) as error:
                log.info("round %s… of %s is not kept: %s", ref.id[:16], card.slot, error)
                continue
            self.board.history.add_round(card.slot, ref, data)


class TipThings:
    """Knows what the tips' blobs are to their run, and looks anew when a tip moved or a round came."""

    def __init__(self, board: Board, rounds: OpenedRounds):
        self._board, self._rounds = board, rounds
        self._cards: tuple[str, ...] = ()
        self._missing: tuple[str, ...] = ()  # rounds that could not be opened then
        self._keys = 0  # that were here then
        self._things: dict[str, frozenset[Thing]] = {}

    def of(self, blob_id: str) -> frozenset[Thing]:
        """Returns what a blob is to a tip; nothing where no tip consists of it."""
        return self._look().get(blob_id, frozenset())

    def blobs(self) -> set[str]:
        """Returns the blobs that the tips consist of, as far as is known here."""
        return set(self._look())

    def _look(self) -> Mapping[str, frozenset[Thing]]:
        cards = [tip.card for slot in tuple(self._board.slots) if (tip := self._board.tip(slot))]
        ids, keys = tuple(card.id for card in cards), len(self._rounds.blobs.keys.ring.keys)
        may_open = any(self._rounds.blobs.store.has(id) for id in self._missing)
        if ids == self._cards and not (may_open and (keys != self._keys or not self._rounds.locked)):
            return self._things
        things: dict[str, frozenset[Thing]] = {}
        missing: list[str] = []
        for card in cards:
            for ref in self._rounds.refs(card.record):
                thing: Thing = "weights" if ref.id == card.record.weights.id else "resume"
                things[ref.id] = things.get(ref.id, frozenset()) | {thing}
            missing += self._rounds.missing(card.record)
        self._cards, self._missing, self._keys, self._things = ids, tuple(missing), keys, things
        return things
