"""A router that a crew trains: a full card's weights are calibrated, beside the state that all compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paris_p2p.model.calibration import KNOTS, Calibration, calibration_of
from paris_p2p.training.crew_gate import check_crew_card
from paris_p2p.training.crew_messages import Basis, CrewGateJob, GoSolo, MergedReady, RoundFiles
from paris_p2p.training.gate import check_card
from paris_p2p.training.messages import CheckpointReady
from tests.made.made_crew import CREW, MadeCrew, basis_of, card_id, made_crew
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here

SLOT = "router"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("crew"), calibration_clips=12)


@pytest.fixture(scope="module")
def solo(tiny: TinyRun) -> CheckpointReady:
    return checkpoint_of(train_here(tiny.train_job(SLOT, out="solo", max_steps=40)))


def merged(crew: MadeCrew, *, full: bool) -> MergedReady:
    for member in crew.members:
        member.train(4)
    ready = crew.merge([crew.update_of(member) for member in crew.members], full=full)
    assert isinstance(ready, MergedReady), ready
    return ready


def gate_job(
    tiny: TinyRun,
    solo: CheckpointReady,
    basis: Basis,
    rounds: Sequence[RoundFiles],
    folder: Path,
    **more: Any,
) -> CrewGateJob:
    last = rounds[-1]
    fields: dict[str, Any] = {
        "crew": CREW,
        "basis": basis,
        "rounds": tuple(rounds),
        "merged": last.merged,
        "light": not last.full,
        "state_out": folder / "state",
        "steps": last.steps,
        "clips": last.clips,
    }
    return CrewGateJob(**(tiny.gate_job(solo, SLOT).model_dump() | fields | more))


def with_note(path: Path, note: dict[str, str], target: Path) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | note
    save_file(load_file(path), target, metadata)
    return target


def test_a_crews_full_card_is_calibrated_and_measured_so(
    tiny: TinyRun, solo: CheckpointReady, tmp_path: Path
) -> None:
    basis = basis_of(solo, card_id("solo"))
    with made_crew(tiny, 2, basis, slot=SLOT) as crew:
        ready = merged(crew, full=True)
    assert ready.weights_path is not None
    assert calibration_of(ready.weights_path) is not None
    files = {"weights_path": ready.weights_path, "resume_path": ready.resume_path}
    result = check_crew_card(gate_job(tiny, solo, basis, [ready.round], tmp_path, **files))
    assert result.ok, result.reason
    # The state has the hash that it had; the loss is another router's.
    note = Calibration((0.0,) * KNOTS).note()
    silent = files | {"weights_path": with_note(ready.weights_path, note, tmp_path / "silent.safetensors")}
    other = check_crew_card(gate_job(tiny, solo, basis, [ready.round], tmp_path, **silent))
    assert other.code != "merge"
    assert other.loss != result.loss
    odd = files | {"weights_path": with_note(ready.weights_path, {"calibration": "1"}, tmp_path / "odd")}
    refused = check_crew_card(gate_job(tiny, solo, basis, [ready.round], tmp_path, **odd))
    assert (refused.ok, refused.code) == (False, "malformed")


def test_a_light_card_after_a_calibrated_one_is_measured_like_against_like(
    tiny: TinyRun, solo: CheckpointReady, tmp_path: Path
) -> None:
    basis = basis_of(solo, card_id("solo"))
    with made_crew(tiny, 2, basis, slot=SLOT) as crew:
        ready = merged(crew, full=False)
    best = with_note(solo.weights_path, Calibration((0.0,) * KNOTS).note(), tmp_path / "best.safetensors")
    plain = gate_job(tiny, solo, basis, [ready.round], tmp_path, best_weights_path=solo.weights_path)
    against = gate_job(tiny, solo, basis, [ready.round], tmp_path, best_weights_path=best)
    first, second = check_crew_card(plain), check_crew_card(against)
    assert first.loss > 0
    assert (first.loss, first.reference_loss) == (second.loss, second.reference_loss)


def test_a_lead_that_goes_on_alone_writes_a_calibration(tiny: TinyRun, solo: CheckpointReady) -> None:
    with made_crew(tiny, 1, basis_of(solo, card_id("solo")), slot=SLOT) as crew:
        crew.lead.train(4)
        ready = crew.lead.ask(GoSolo())
        assert isinstance(ready, CheckpointReady)
    assert calibration_of(ready.weights_path) is not None
    assert check_card(tiny.gate_job(ready, SLOT)).ok
