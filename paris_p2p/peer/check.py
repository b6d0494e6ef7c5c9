"""A card's checkpoint is fetched and measured on this machine, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, SealError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.gate_process import GateProcess, gate_idle_s
from paris_p2p.peer.jobs import changed_by_notices, fewer_experts
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.checks import turn_s
from paris_p2p.rules.placement import attest_limit_s
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.rest import tolerance_after
from paris_p2p.rules.tips import Tip, refuse_loss
from paris_p2p.training.messages import GateJob, GateResult

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
        self._process = GateProcess(idle_s=gate_idle_s(node.spec.timing.checkpoint_s))
        self.gate = gate or self._process

    async def close(self) -> None:
        await self._process.close()

    def limit_s(self, card: CardRecord) -> float:
        """Returns seconds within which any honest maker's card is checked."""
        return attest_limit_s(self._download_bytes(card), self.node.spec.timing.checkpoint_s)

    def turn_s(self, card: CardRecord, failed: int) -> float:
        """Returns how long other makers' cards wait for this one's check."""
        return turn_s(self._download_bytes(card), self.node.spec.timing.checkpoint_s, failed)

    def _download_bytes(self, card: CardRecord) -> int:
        spec = self.node.state.spec_at(card.notices)
        shards_bytes = sum(shard.blob.size_bytes for shard in spec.shards_for(card.slot, "gate"))
        return card.weights.size_bytes + card.resume.size_bytes + shards_bytes

    async def measure(self, card: Envelope[CardRecord], tip: Tip | None) -> GateResult:
        """Fetches and measures a card. Cancelled, it keeps what was received.

        Raises MissingKeyError, before anything is fetched, where the gate's clips are sealed to others.
        """
        node, record = self.node, card.record
        if node.spec.gate.key_hash and node.keys.ring.gate is None and not await node.exchange.ask():
            node.keys.for_gate()
        purpose, ids = f"check/{card.id}", {record.weights.id, record.resume.id}
        best = self._best_card(record.slot, tip)
        # the tip may go on while we measure
        node.hold(purpose, ids | ({best.record.weights.id} if best else set()))
        try:
            async with self._job(card, best) as job:
                result = await self.gate(job) if isinstance(job, GateJob) else job
            if not all(node.host.store.has(blob_id) for blob_id in ids):
                # this disk's fault, not the card's
                raise MissingBlobError("its blobs went away while they were checked")
            return result
        finally:
            node.let_go(purpose)

    @asynccontextmanager
    async def _job(
        self, card: Envelope[CardRecord], best: Envelope[CardRecord] | None
    ) -> AsyncIterator[GateJob | GateResult]:
        """Fetches everything the gate needs, which can be read while the block lasts; yields the verdict
        where the card's blobs are not sealed as the run's must be.

        A card is judged by what the run was when it was made: by the notices that its training knew.
        """
        node, record = self.node, card.record
        known = min(record.notices, node.state.number)
        wanted = node.state.spec_at(known).shards_for(record.slot, "gate")
        async with AsyncExitStack() as files:

            async def read(refs: Sequence[BlobRef], what: str, use: str) -> list[Path]:
                opened = node.readable(refs, what, f"{use}/{card.id}", gate=use == "gate clips")
                return await files.enter_async_context(opened)

            try:
                weights, resume = await read([record.weights, record.resume], card.id, "gate")
            except SealError as error:
                yield GateResult(ok=False, reason=str(error), code="malformed")
                return
            shards = await read([shard.blob for shard in wanted], node.run, "gate clips")
            best_weights = await read([best.record.weights], best.id, "gate best") if best else [None]
            yield GateJob(
                run=node.run,
                slot=record.slot,
                spec_path=node.spec_file,
                **changed_by_notices(node, record.slot, known),
                card=card.id,
                weights_path=weights,
                resume_path=resume,
                best_weights_path=best_weights[0],
                best_experts=fewer_experts(node, record.slot, best.record.notices, known) if best else 0,
                shard_paths=tuple(shards),
                shard_clusters=tuple(shard.cluster for shard in wanted),
                clips=record.clips,
                steps=record.steps,
                device=self.device,
                threads=1,
            )

    def _best_card(self, slot: str, tip: Tip | None) -> Envelope[CardRecord] | None:
        """Returns the lineage's best attested card; the tip itself when the best one's weights are no longer
        to be had.
        """
        if tip is None:
            return None
        best = self.node.board.best(slot)
        return best if best is not None and self.node.host.store.has(best.record.weights.id) else tip.card
