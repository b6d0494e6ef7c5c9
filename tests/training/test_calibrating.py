"""Tests that a router's calibration is fitted on clips of its own, never does harm, and passes the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paris_p2p.device import Device
from paris_p2p.errors import DataError
from paris_p2p.model.calibration import KNOTS, Calibration, calibration_of
from paris_p2p.spec import TrainingSpec
from paris_p2p.training.calibrating import (
    ClusterLabels,
    Logits,
    RouterCalibrator,
    cross_entropies,
    fit_calibration,
    fit_share,
    kept_clusters,
)
from paris_p2p.training.gate import check_card
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import CheckpointReady
from paris_p2p.training.objective import open_calibration_clips
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

CPU = Device(torch.device("cpu"), bf16=False)
NONE = Calibration((0.0,) * KNOTS)


@st.composite
def routers(draw: st.DrawFn) -> tuple[Logits, Logits, ClusterLabels]:
    """Draws what some router said: text [N K], both [KNOTS N K], labels [N]; confident, wrong or both."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    clips, experts = draw(st.integers(2, 40)), draw(st.integers(2, 5))
    labels = rng.integers(0, experts, clips)
    told = np.eye(experts)[labels]
    text = draw(st.floats(-3, 3)) * told + draw(st.floats(0, 3)) * rng.normal(size=(clips, experts))
    heard = np.array(draw(st.lists(st.floats(-5, 5), min_size=KNOTS, max_size=KNOTS)))
    noise = np.array(draw(st.lists(st.floats(0, 1000), min_size=KNOTS, max_size=KNOTS)))
    more = rng.normal(size=(KNOTS, clips, experts)) * noise[:, None, None]
    return text, text + heard[:, None, None] * told + more, labels


@given(routers())
@settings(max_examples=150, deadline=None)
def test_a_fit_never_makes_held_out_cross_entropy_worse(router: tuple[Logits, Logits, ClusterLabels]) -> None:
    text, both, labels = router
    for share, at_knot in zip(fit_calibration(text, both, labels).shares, both, strict=True):
        plain = cross_entropies(text + 1.0 * (at_knot - text), labels).mean()
        assert cross_entropies(text + share * (at_knot - text), labels).mean() <= plain


@given(routers())
@settings(max_examples=50, deadline=None)
def test_a_fitted_share_is_the_best_there_is(router: tuple[Logits, Logits, ClusterLabels]) -> None:
    text, both, labels = router
    added = both[0] - text
    found = cross_entropies(text + fit_share(text, added, labels) * added, labels).mean()
    for share in np.linspace(0, 1, 21):
        assert found <= cross_entropies(text + share * added, labels).mean() * (1 + 1e-6) + 1e-6


def test_what_disturbs_is_left_out_and_what_helps_is_kept() -> None:
    rng, labels = np.random.default_rng(0), np.arange(200) % 3
    text = np.eye(3)[labels] + rng.normal(size=(200, 3))
    helps = text + 2 * np.eye(3)[labels]
    disturbs = text + 3 * rng.normal(size=(200, 3))
    shares = fit_calibration(text, np.stack([helps] * 8 + [disturbs]), labels).shares
    assert shares[:8] == (1.0,) * 8
    assert shares[8] < 0.1


def test_a_share_that_helps_one_half_of_the_clips_alone_is_not_kept() -> None:
    labels = np.zeros(20, np.int64)
    text = np.zeros((20, 2))
    # every second clip is right by its latent, the others are so a little more
    added = np.where(np.arange(20) % 2 == 0, -1.0, 1.2)[:, None] * np.array([1.0, -1.0])
    assert fit_share(text[::2], added[::2], labels[::2]) == 0.0
    assert fit_calibration(text, np.stack([text + added] * KNOTS), labels).is_plain


def test_numbers_that_are_not_finite_change_nothing() -> None:
    text, labels = np.zeros((20, 2)), np.zeros(20, np.int64)
    assert fit_calibration(text, np.full((KNOTS, 20, 2), np.nan), labels).is_plain


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("calibrated"), calibration_clips=12)


def trained(tiny: TinyRun, out: str, steps: int, **changes: object) -> CheckpointReady:
    return checkpoint_of(train_here(tiny.train_job("router", out=out, max_steps=steps, **changes)))


def noted(ready: CheckpointReady, calibration: Calibration | None, name: str = "noted") -> CheckpointReady:
    """Returns the checkpoint with another calibration in its weights file."""
    with safe_open(ready.weights_path, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "calibration"}
    path = ready.weights_path.with_name(f"{name}.safetensors")
    save_file(load_file(ready.weights_path), path, metadata | (calibration.note() if calibration else {}))
    return ready.model_copy(update={"weights_path": path})


def calibrator_of(tiny: TinyRun) -> RouterCalibrator:
    job = tiny.train_job("router")
    clips = open_calibration_clips(job, tiny.spec)
    assert clips is not None
    return RouterCalibrator(tiny.run, tiny.spec, clips, CPU)


def test_the_lead_writes_what_its_average_measures_and_a_stop_changes_no_byte(calibrated: TinyRun) -> None:
    whole = trained(calibrated, "whole", 40)
    half = trained(calibrated, "half", 20)
    again = trained(calibrated, "again", 40, **calibrated.resume(half))
    assert whole.weights_path.read_bytes() == again.weights_path.read_bytes()
    assert whole.resume_path.read_bytes() == again.resume_path.read_bytes()
    average = {name: tensor.float() for name, tensor in load_file(whole.weights_path).items()}
    calibration = calibration_of(whole.weights_path)
    assert calibration is not None
    assert calibrator_of(calibrated).note(average) == calibration.note()


def test_a_job_without_clips_for_it_writes_the_same_tensors_and_no_calibration(calibrated: TinyRun) -> None:
    whole, plain = (
        trained(calibrated, "with", 30),
        trained(calibrated, "without", 30, calibration_shard_paths=()),
    )
    assert whole.resume_path.read_bytes() == plain.resume_path.read_bytes()
    assert calibration_of(plain.weights_path) is None
    one, other = load_file(whole.weights_path), load_file(plain.weights_path)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_compact_run_is_calibrated_on_what_its_files_hold(tmp_path: Path) -> None:
    compact = TinyRun(tmp_path, TRAINING.model_copy(update={"compact": True}), calibration_clips=12)
    whole = trained(compact, "whole", 40)
    average = {name: tensor.float() for name, tensor in load_file(whole.weights_path).items()}
    found = calibration_of(whole.weights_path)
    assert calibrator_of(compact).note(average) == ({} if found is None else found.note())
    assert check_card(compact.gate_job(whole, "router")).ok


def test_shards_that_are_not_the_runs_are_refused(calibrated: TinyRun) -> None:
    job = calibrated.train_job("router", calibration_shard_paths=(calibrated.shards["train"][0],))
    with pytest.raises(DataError, match="1 calibration shards, the run 2"):
        train_here(job)
    wrong = tuple(calibrated.shards["train"])
    with pytest.raises(DataError, match="hold 20 clips, the RunSpec says 24"):
        train_here(calibrated.train_job("router", calibration_shard_paths=wrong))


def test_the_gate_measures_the_calibrated_router(calibrated: TinyRun) -> None:
    ready = trained(calibrated, "gated", 60)
    plain, silent = noted(ready, None), noted(ready, NONE, "silent")
    found, without = (check_card(calibrated.gate_job(one, "router")) for one in (plain, silent))
    assert found.loss != without.loss
    shares = tuple(np.linspace(1, 0, KNOTS))
    between = check_card(calibrated.gate_job(noted(ready, Calibration(shares), "between"), "router"))
    assert between.loss not in (found.loss, without.loss)


def test_a_hostile_calibration_is_refused_like_bad_weights(calibrated: TinyRun) -> None:
    ready = trained(calibrated, "attacked", 90)
    best = noted(ready, Calibration((1.0,) * 8 + (0.5,)), "best")
    refused = check_card(
        calibrated.gate_job(noted(ready, NONE, "silent"), "router", best_weights_path=best.weights_path)
    )
    assert not refused.ok
    assert refused.code == "loss"
    assert refused.loss > refused.reference_loss
    path = ready.weights_path.with_name("odd.safetensors")
    with safe_open(ready.weights_path, framework="pt") as file:
        metadata = file.metadata() | {"calibration": "2.0000," * 8 + "2.0000"}
    save_file(load_file(ready.weights_path), path, metadata)
    odd = check_card(calibrated.gate_job(ready.model_copy(update={"weights_path": path}), "router"))
    assert (odd.ok, odd.code) == (False, "malformed")
    assert "calibration that cannot be read" in odd.reason
    # an ancestor that an older version attested is measured as it was trained
    kept = check_card(calibrated.gate_job(best, "router", best_weights_path=path))
    assert kept.ok


def test_a_card_without_a_calibration_is_measured_against_ancestors_without(calibrated: TinyRun) -> None:
    ready = trained(calibrated, "older", 60)
    plain, best = noted(ready, None), noted(ready, NONE, "best")
    found = check_card(calibrated.gate_job(plain, "router", best_weights_path=best.weights_path))
    assert found.loss == found.reference_loss
    same = check_card(calibrated.gate_job(best, "router", best_weights_path=best.weights_path))
    assert same.loss == same.reference_loss != found.loss


def test_after_a_split_clips_whose_label_may_be_old_are_left_out(calibrated: TinyRun) -> None:
    spec = calibrated.spec.model_copy(update={"experts": 4, "parents": (1, 2), "dropped_experts": ()})
    assert kept_clusters(calibrated.spec) == [0, 1]
    assert kept_clusters(spec) == [0]
    assert kept_clusters(
        spec.model_copy(update={"experts": 5, "parents": (1,), "dropped_experts": (3,)})
    ) == [0, 2]
    lone = replace(
        calibrator_of(calibrated), spec=calibrated.spec.model_copy(update={"dropped_experts": (1,)})
    )
    learner = Learner(calibrated.run, calibrated.spec, "router", CPU)
    assert lone.note(learner.ema) == {}


def test_too_few_clips_are_none(tmp_path: Path) -> None:
    few = TinyRun(tmp_path, TrainingSpec(**TRAINING.model_dump()), calibration_clips=7)
    assert calibration_of(trained(few, "few", 20).weights_path) is None


def test_memory_that_does_not_suffice_leaves_a_router_as_it_is(
    calibrated: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(RouterCalibrator, "_router", full)
    assert calibration_of(trained(calibrated, "full", 10).weights_path) is None
