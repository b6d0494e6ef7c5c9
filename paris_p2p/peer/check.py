"""A card's checkpoint is fetched and measured on this machine, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, SealError, TrainError
from paris_p2p.node.merged_states import STATES, MergedStates
from paris_p2p.node.open_copies import work_folder
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.update_copies import largest_update_bytes
from paris_p2p.peer.crew_check import crew_fields, refuse_counts
from paris_p2p.peer.gate_process import GateProcess
from paris_p2p.peer.jobs import changed_by_notices, fewer_experts
from paris_p2p.records import CardRecord
from paris_p2p.rules.checks import turn_s
from paris_p2p.rules.gate_life import card_gap_s, gate_idle_s
from paris_p2p.rules.placement import attest_limit_s
from paris_p2p.rules.refusals import REASONS, WORSE
from paris_p2p.rules.rest import goes_back, tolerance_after
from paris_p2p.rules.tips import Tip, refuse_loss
from paris_p2p.training.crew_messages import CrewGateJob
from paris_p2p.training.messages import GateJob, GateResult

_MAX_ROUNDS_WAITED = 2  # whose updates a check's turn has time for: what came is kept for the next try

Gate = Callable[[GateJob], Awaitable[GateResult]]


def refuse_measured(result: GateResult, tip: Tip | None, tolerance: float) -> str:
    """Returns why a card must not be attested after what was measured; empty when it may."""
    if not result.ok:
        return result.reason or REASONS["malformed"]
    reason = refuse_loss(
        result.loss, result.reference_loss, tolerance_after(tip, tolerance), first=tip is None
    )
    return reason or ""


class Checker:
    """Gets blobs from their holders, and the verdict from the gate in a process of its own; `close` ends
    that.
    """

    def __init__(self, node: RunNode, device: str, gate: Gate | None):
        self.node, self.device = node, device
        self._process = GateProcess(idle_s=self.gate_kept_s)
        self.gate = gate or self._process
        self.states = MergedStates(
            node.host.store, work_folder(node.host.settings.data_dir, node.run, STATES)
        )
        # by slot: a card, and the updates that a refused card merged into its state
        self._merged_in_vain: dict[str, tuple[str, frozenset[str]]] = {}

    async def close(self) -> None:
        await self._process.close()

    def gate_kept_s(self) -> float:
        """Returns how long the gate's process is kept, as the run and its attestors are now."""
        spec, attestors = self.node.state.spec, {*self.node.known_attestors(), self.node.peer_id}
        gap_s = card_gap_s(spec.timing.checkpoint_s, len(spec.slots), spec.gate.quorum, len(attestors))
        return gate_idle_s(gap_s)

    def limit_s(self, card: CardRecord) -> float:
        """Returns seconds within which any honest maker's card is checked."""
        return attest_limit_s(self._download_bytes(card), self.node.spec.timing.checkpoint_s)

    def turn_s(self, card: CardRecord, failed: int) -> float:
        """Returns how long other makers' cards wait for this one's check."""
        return turn_s(self._download_bytes(card), self.node.spec.timing.checkpoint_s, failed)

    def _download_bytes(self, card: CardRecord) -> int:
        spec = self.node.state.spec_at(card.notices)
        shards_bytes = sum(shard.blob.size_bytes for shard in spec.shards_for(card.slot, "gate"))
        files_bytes = card.weights.size_bytes + card.resume.size_bytes
        if spec.crew is None or not card.rounds:
            return files_bytes + shards_bytes
        missing = sum(not self.node.host.store.has(ref.id) for ref in card.rounds)
        update_bytes = spec.crew.peers * largest_update_bytes(card.weights.size_bytes, spec.crew)
        rounds_bytes = sum(ref.size_bytes for ref in card.rounds)
        return files_bytes + rounds_bytes + min(missing, _MAX_ROUNDS_WAITED) * update_bytes + shards_bytes

    async def measure(self, card: Envelope[CardRecord], tip: Tip | None, held: str = "") -> GateResult:
        """Fetches and measures a card. Cancelled, it keeps what was received.

        What the card consists of is held for `held` too, until the caller lets it go. Raises MissingKeyError,
        before anything is fetched, where the gate's clips are sealed to others.
        """
        node, record = self.node, card.record
        if node.spec.gate.key_hash and node.keys.ring.gate is None and not await node.exchange.ask():
            node.keys.for_gate()
        purpose, ids = f"check/{card.id}", {record.weights.id, record.resume.id}
        best = self._best_card(record.slot, tip)
        # the tip may go on while we measure
        node.hold(purpose, ids | ({best.record.weights.id} if best else set()))
        self._forget_states(record, tip, best)
        try:
            async with self._job(card, tip, best, held) as job:
                if not isinstance(job, GateJob):
                    return job
                result = await self._verdict(job)
                if isinstance(job, CrewGateJob) and result.code in WORSE:
                    self._note_harm(job)
            if not node.rounds.is_whole(record):
                # this disk's fault, not the card's
                raise MissingBlobError("its blobs went away while they were checked")
            return result
        finally:
            node.let_go(purpose)

    async def _verdict(self, job: GateJob) -> GateResult:
        """Asks the gate. Where it comes to none, states that were kept here are computed anew the next time:
        one of these files may be damaged.
        """
        try:
            return await self.gate(job)
        except TrainError:
            kept = [job.best_merged, job.basis.merged if isinstance(job, CrewGateJob) else ""]
            for merged in kept:
                self.states.forget(merged)
            raise

    def _note_harm(self, job: CrewGateJob) -> None:
        """Remembers which updates the last round of a card merged that the gate found worse: the lead may try
        without each of them.
        """
        merged = {one.update for made in job.rounds[-1:] for one in made.updates}
        parent, known = self._merged_in_vain.get(job.slot, ("", frozenset[str]()))
        known = known if parent == job.basis.card else frozenset[str]()
        self._merged_in_vain[job.slot] = job.basis.card, known | merged

    def _without_harm(self, fields: dict[str, Any], slot: str) -> dict[str, Any]:
        """Returns a crew job's fields without those disputed updates that the lead may leave out (`loss`),
        since with them a card on the same state was refused here.
        """
        parent, merged = self._merged_in_vain.get(slot, ("", frozenset[str]()))
        if "disputed" not in fields or parent != fields["basis"].card:
            return fields
        disputed = fields["disputed"]
        left = tuple(each for each in disputed if each[1] != "loss" or each[0].update not in merged)
        return fields | {"disputed": left}

    def _forget_states(self, record: CardRecord, tip: Tip | None, best: Envelope[CardRecord] | None) -> None:
        """Lets the states go that the tip left behind: kept are its own, the best's and the card's."""
        cards = [record, *([tip.card.record] if tip else []), *([best.record] if best else [])]
        self.states.keep_only(record.slot, {one.merged for one in cards if one.merged})

    @asynccontextmanager
    async def _job(
        self, card: Envelope[CardRecord], tip: Tip | None, best: Envelope[CardRecord] | None, held: str
    ) -> AsyncIterator[GateJob | GateResult]:
        """Fetches everything the gate needs, which can be read while the block lasts; yields the verdict
        where the card's records, or the sealing of its blobs, refuse it.

        A card is judged by what the run was when it was made: by the notices that its training knew.
        """
        node, record = self.node, card.record
        known = min(record.notices, node.state.number)
        async with AsyncExitStack() as files:
            if record.rounds and tip is not None:
                crew = crew_fields(node, card, tip, self.states, held)
                fields = await files.enter_async_context(crew)
            else:
                fields = await self._own_files(card, tip, files)
            if isinstance(fields, GateResult):
                yield fields
                return
            fields = self._without_harm(fields, record.slot)
            wanted = node.state.spec_at(known).shards_for(record.slot, "gate")
            clips = [shard.blob for shard in wanted]
            opened = node.readable(clips, node.run, f"gate clips/{card.id}", gate=True)
            shards = await files.enter_async_context(opened)
            common = {
                "run": node.run,
                "slot": record.slot,
                "spec_path": node.spec_file,
                **changed_by_notices(node, record.slot, known),
                "card": card.id,
                "shard_paths": tuple(shards),
                "shard_clusters": tuple(shard.cluster for shard in wanted),
                "clips": record.clips,
                "steps": record.steps,
                "device": self.device,
                "threads": 1,
            }
            reference = await self._reference(card, best, known, files)
            kind = CrewGateJob if "basis" in fields else GateJob
            yield kind(**(common | fields | reference))

    async def _own_files(
        self, card: Envelope[CardRecord], tip: Tip | None, files: AsyncExitStack
    ) -> dict[str, Any] | GateResult:
        """Returns the files of a card of one lead alone; the verdict where they are sealed otherwise than the
        run's must be, or count other clips of a crew's peers than the card before.
        """
        record = card.record
        opened = self.node.readable([record.weights, record.resume], card.id, f"gate/{card.id}")
        try:
            weights, resume = await files.enter_async_context(opened)
        except SealError as error:
            return GateResult(ok=False, reason=str(error), code="malformed")
        refused = None
        if not goes_back(record, tip):
            refused = await refuse_counts(self.node, card, resume, tip)
        return refused or {"weights_path": weights, "resume_path": resume}

    async def _reference(
        self, card: Envelope[CardRecord], best: Envelope[CardRecord] | None, known: int, files: AsyncExitStack
    ) -> dict[str, Any]:
        """Returns what the card is measured against: the best ancestor's weights, or its state where a crew
        made it and it is here. Without that state, a crew's card is measured against the tip's, from which it
        is merged anyway, and another against the newest full weights.
        """
        if best is None:
            return {}
        node, record = self.node, best.record
        experts = fewer_experts(node, record.slot, record.notices, known)
        if record.is_light:
            if (path := self.states.find(record.merged)) is not None:
                return {"best_state_path": path, "best_merged": record.merged, "best_experts": experts}
            if card.record.rounds:
                return {}
        opened = node.readable([record.weights], record.full or best.id, f"gate best/{card.id}")
        (path,) = await files.enter_async_context(opened)
        return {"best_weights_path": path, "best_experts": experts}

    def _best_card(self, slot: str, tip: Tip | None) -> Envelope[CardRecord] | None:
        """Returns the lineage's best attested card; the tip itself when the best one's weights are no longer
        to be had.
        """
        if tip is None:
            return None
        best = self.node.board.best(slot)
        return best if best is not None and self.node.host.store.has(best.record.weights.id) else tip.card
