"""Checks cards for an attestor, `python -m paris_p2p.training.gate`.

A GateJob, or a crew's, comes on stdin and a GateResult goes to stdout, a line each. One process may check
many cards, so that torch is loaded once where checkpoints come often. Whatever is wrong with the checkpoint
is a result with a reason. Only what is wrong on this side (shards, device, memory) ends the process without
one, with the words on stderr. It dies with its parent, as the trainer does.
"""

from __future__ import annotations

import logging
import sys

from pydantic import TypeAdapter, ValidationError

from paris_p2p.device import pick_device, set_threads
from paris_p2p.errors import CheckpointError, ParisError
from paris_p2p.model.calibration import Calibration, calibration_of
from paris_p2p.model.checkpoint import Counters, check_weights, load_weights_into, resume_note
from paris_p2p.model.resume_format import format_of_run
from paris_p2p.model.state_parts import StateParts
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.child import open_line
from paris_p2p.training.counted_note import COUNTED, parse_counted
from paris_p2p.training.crew_gate import check_crew_card
from paris_p2p.training.crew_messages import CrewGateJob
from paris_p2p.training.gate_losses import Measured, measure_card, reference_calibration, reference_of
from paris_p2p.training.messages import GateJob, GateResult
from paris_p2p.training.objective import batch_clips, network_shapes, read_spec
from paris_p2p.training.segments import check_segments

_JOBS: TypeAdapter[CrewGateJob | GateJob] = TypeAdapter(CrewGateJob | GateJob)


def main() -> int:
    """Gives verdicts until stdin closes, which ends the process; returns 1 for a job without a verdict."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    line = open_line()
    try:
        while True:
            job = _JOBS.validate_json(line.receive())
            line.send(check_crew_card(job) if isinstance(job, CrewGateJob) else check_card(job))
    except (ParisError, ValidationError) as error:
        print(error, file=sys.stderr)
    return 1


def check_card(job: GateJob) -> GateResult:
    """Returns the verdict on a card's checkpoint; ParisError for what is wrong on this side."""
    set_threads(job.threads)
    spec, device = read_spec(job), pick_device(job.device)
    expected_clips = job.steps * batch_clips(spec, job.slot)
    if job.clips != expected_clips or job.steps == 0:
        return GateResult(
            ok=False,
            reason=f"{job.steps} steps take {expected_clips} clips, the card says {job.clips}",
            code="malformed",
        )
    shapes = network_shapes(spec, job.slot)
    counters = Counters(job.run, job.slot, job.steps, job.clips)
    try:
        check_weights(job.weights_path, shapes, counters, StateParts.of_run(spec.training))
        format_of_run(spec.training).check(
            job.resume_path, shapes, counters, spec.training.clip_grad_norm, job.weights_path
        )
        parse_counted(resume_note(job.resume_path, COUNTED), job.resume_path.name)
        check_segments(job.resume_path, job, job.clips, batch_clips(spec, job.slot))
        calibration = calibration_of(job.weights_path) if job.slot == ROUTER else None
    except CheckpointError as error:
        return GateResult(ok=False, reason=str(error), code="malformed")
    return measure_card(job, spec, device, _from_files(job, spec, counters, calibration))


def _from_files(job: GateJob, spec: RunSpec, counters: Counters, calibration: Calibration | None) -> Measured:
    load_weights = format_of_run(spec.training).load_weights
    return Measured(
        reference=reference_of(job, spec),
        average=lambda tensors: load_weights_into(job.weights_path, tensors),
        raw=lambda tensors: load_weights(job.resume_path, tensors, counters),
        calibration=calibration,
        reference_calibration=reference_calibration(job, calibration),
    )


if __name__ == "__main__":
    sys.exit(main())
