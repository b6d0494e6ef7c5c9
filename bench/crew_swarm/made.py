"""Makes the small run whose slots are trained by crews: clips that depend on their cluster, in real shards,
and networks that train in milliseconds.
"""

from __future__ import annotations

from pathlib import Path

from paris_p2p.crew_records import CrewSpec
from paris_p2p.disk import write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.identity import load_owner_key
from paris_p2p.preparation.create import KEY_FILE, CreateOptions, create_run, load_run
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, TrainingSpec, sign_run
from tests.made.made_prepared import prepare_made

TRAIN_CLIPS, GATE_CLIPS = 256, 32  # of each cluster
# Long enough for claims and gates on two cores that a dozen processes share, short enough for many rounds.
TIMING = TimingSpec(claim_s=20.0, settle_s=1.0, margin_s=2.0, checkpoint_s=10.0)


def make_crew_run(
    folder: Path,
    crew: CrewSpec | None,
    *,
    experts: int = 1,
    preset: str = "nano",
    router: str = "nano",
    timing: TimingSpec = TIMING,
) -> Envelope[RunSpec]:
    """Prepares and creates a folder that `paris-run publish` takes."""
    prepare_made(folder, experts=experts, train_clips=TRAIN_CLIPS, gate_clips=GATE_CLIPS, strays=True)
    options = CreateOptions(
        name="crews",
        purpose="measuring",
        data_licence="CC0",
        weights_licence="CC0",
        expert=preset,
        router=router,
        training=TrainingSpec(
            batch_clips=8, learning_rate=1e-3, router_batch_clips=8, warmup_steps=20, ema_decay=0.99
        ),
        gate=GateSpec(clips=GATE_CLIPS, tolerance=0.5),
        timing=timing,
        seal_gate=False,
    )
    create_run(folder, options, None)
    return _with_crew(folder, crew)


def _with_crew(folder: Path, crew: CrewSpec | None) -> Envelope[RunSpec]:
    """Signs the run anew, with crews."""
    run = load_run(folder)
    if crew is None:
        return run
    owner = load_owner_key(folder / KEY_FILE, None)
    signed = sign_run(owner, run.record.model_copy(update={"crew": crew}))
    write_atomic(folder / RUN_FILE, signed.data)
    return signed
