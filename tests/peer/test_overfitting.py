"""The real trainer and the real gate on ten clips, which are learnt by heart in seconds: the slot ends at
its best, at rest.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.peer.gate_process import GateProcess
from paris_p2p.peer.process import Worker
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.rest import rests
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, TrainingSpec, sign_run
from tests.made.tiny_run import TinyRun
from tests.peer.world import Peer, World

SLOT = "expert-1"
TIMING = TimingSpec(claim_s=5.0, settle_s=0.1, margin_s=0.5, checkpoint_s=1.0)
TRAINING = TrainingSpec(batch_clips=10, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9)


class RealWorld(World):
    """The tiny run of tests/made on the fake network, with trainers and gates in processes of their own."""

    def _make_run(self, experts: int, gate: GateSpec, timing: TimingSpec) -> Envelope[RunSpec]:
        tiny = TinyRun(self.root / "tiny", training=TRAINING, gate=gate)

        def in_store(split: str) -> tuple[object, ...]:
            refs = getattr(tiny.spec, f"{split}_shards")
            return tuple(
                ref.model_copy(update={"blob": self.shards.add_file(path)})
                for ref, path in zip(refs, tiny.shards[split], strict=True)
            )

        changes = {
            "train_shards": in_store("train"),
            "gate_shards": in_store("gate"),
            "timing": timing,
            "created_at": time.time(),
        }
        return sign_run(Identity.generate(), tiny.spec.model_copy(update=changes))


def losses(peer: Peer) -> list[float]:
    """The comparable gate losses of the tip."""
    tip = peer.node.board.tip(SLOT)
    return (
        [one.record.fixed_loss for one in tip.attestations if one.record.fixed_loss is not None]
        if tip
        else []
    )


# against hanging: trainers start five times, which takes long where others work too
@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_slot_that_learns_its_clips_by_heart_ends_at_its_best_checkpoint_and_its_trainer_is_gone(
    tmp_path: Path,
) -> None:
    seen: list[float] = []
    gate = GateProcess()  # one for both: torch is loaded once
    async with RealWorld(tmp_path, gate=GateSpec(clips=12), timing=TIMING) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        lead = await world.add("lead", slot=SLOT, gate=gate, trainer=Worker)

        def is_over() -> bool:
            seen.extend(loss for loss in losses(owner) if loss not in seen)
            tip = owner.node.board.tip(SLOT)
            return rests(tip, time.time(), TIMING) and lead.volunteer.lead is None

        await world.until(is_over, wait_s=800.0)
        tip = owner.node.board.tip(SLOT)
        assert tip is not None
        assert tip.card.record.lowered == RESTS
        # on the fixed draw: the best was chosen on other draws, each card's own
        assert losses(owner)[0] <= 1.1 * min(seen)
        await world.until(lambda: lead.volunteer.phase == "standby")
        await gate.close()
