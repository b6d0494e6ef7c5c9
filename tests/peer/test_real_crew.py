"""A crew with the real trainer and the real gate: what they say to one another fits, and every state is the
same on all machines.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.crew_records import CrewSpec
from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.peer.gate_process import GateProcess
from paris_p2p.peer.process import Worker
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, TrainingSpec, sign_run
from tests.made.tiny_run import TinyRun
from tests.peer.test_crews import counted_once, lead_among, signers, tip_card, tip_steps
from tests.peer.world import World

SLOT = "expert-0"
TIMING = TimingSpec(claim_s=12.0, settle_s=0.2, margin_s=2.0, checkpoint_s=6.0)
TRAINING = TrainingSpec(batch_clips=4, learning_rate=1e-3, warmup_steps=5, ema_decay=0.9, compact=True)
# As many steps as there is time for, and none needs to be fast: other tests come first.
YIELDING = partial(Worker, nice=5)
CREW = CrewSpec(peers=4, least_steps=1, most_steps=100_000, full_rounds=2)


class RealWorld(World):
    """The tiny run of tests/made on the fake network, with trainers and gates in processes of their own."""

    def _make_run(self, experts: int, gate: GateSpec, timing: TimingSpec) -> Envelope[RunSpec]:
        tiny = TinyRun(self.root / "tiny", training=TRAINING, gate=gate)

        def in_store(split: str) -> tuple[Any, ...]:
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
            "crew": CREW,
        }
        return sign_run(Identity.generate(), tiny.spec.model_copy(update=changes))


# against hanging: three trainers and a gate start, which takes long where others work too
@pytest.mark.long
@pytest.mark.timeout(900)
async def test_real_trainers_merge_the_same_states_and_a_worker_goes_on_when_the_lead_dies(
    tmp_path: Path,
) -> None:
    gate = GateProcess()  # one for all: torch is loaded once
    async with RealWorld(tmp_path, gate=GateSpec(clips=8, tolerance=1.0), timing=TIMING) as world:
        owner = await world.add("owner", role="owner", gate=gate)
        peers = [await world.add(name, slot=SLOT, gate=gate, trainer=YIELDING) for name in "ab"]
        await world.until(lambda: len(signers(owner)) == 2, wait_s=400.0)
        await world.until(
            lambda: (card := tip_card(owner)) is not None and card.merged and not card.is_light, 400.0
        )
        await counted_once(owner)
        lead = lead_among(peers)
        assert lead is not None
        steps = tip_steps(owner)
        await lead.die()
        (heir,) = [peer for peer in peers if peer is not lead]
        await world.until(lambda: tip_steps(owner) > steps and heir.volunteer.lead is not None, wait_s=400.0)
        await gate.close()
