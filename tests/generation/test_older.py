"""Clips guided away from what a run's experts said earlier in their training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paris_p2p.device import pick_device
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.opened_model import open_model
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.sides import older_of
from paris_p2p.generation.export import export
from paris_p2p.generation.generate import generate
from paris_p2p.generation.older import open_older
from tests.generation.exported import loaded
from tests.made.made_run import PROMPTS, MadeRun


class LaterRun(MadeRun):
    """The same run, trained for longer: its weights differ a little from the first ones."""

    steps = 100


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return LaterRun(tmp_path_factory.mktemp("later"))


@pytest.fixture(scope="module")
def early(later: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an earlier export, in which each expert has another's weights."""
    made, folder = MadeRun(tmp_path_factory.mktemp("early")), tmp_path_factory.mktemp("export") / "model"
    assert made.run == later.run
    for k in range(3):  # other draws, so that old and new differ
        made.weights[f"expert-{k}"] = made._write_weights(f"expert-{k}")
    export(made.fetched(), folder)
    return folder


def frames(later: MadeRun, out: Path, **changes: object) -> np.ndarray:
    generate(later.fetched(), later.job(out, **changes))
    return np.load(out)


@pytest.mark.parametrize("changes", [{}, {"routing": "full", "guidance": 1.0}, {"routing": "kept"}], ids=str)
def test_with_the_scale_1_no_byte_changes_and_with_another_the_clips_do(later, early, tmp_path, changes):
    plain = frames(later, tmp_path / "plain.npy", **changes)
    one = frames(later, tmp_path / "one.npy", autoguide=early, autoguide_scale=1.0, **changes)
    assert np.array_equal(one, plain)
    two = frames(later, tmp_path / "two.npy", autoguide=early, **changes)
    assert (np.abs(two.astype(int) - plain) > 2).mean() > 0.1


def test_with_the_scale_0_the_clips_are_the_older_experts(later, early, tmp_path):
    job = later.job(tmp_path / "older.npy", routing="uniform")
    generate(open_older(early, later.fetched()), job.model_copy(update={"allow_partial": True}))
    zero = frames(later, tmp_path / "zero.npy", autoguide=early, autoguide_scale=0.0, routing="uniform")
    difference = np.abs(np.load(tmp_path / "older.npy").astype(int) - zero)
    assert (difference <= 2).mean() > 0.99


def test_the_pipeline_and_an_evaluation_guide_as_generate_does(later, early, tmp_path):
    export(later.fetched(), tmp_path / "model")
    pipeline = loaded(tmp_path / "model")
    expected = frames(later, tmp_path / "x.npy", autoguide=early, autoguide_scale=3.0)
    asked = {"num_inference_steps": 3, "rng_seed": 0, "output_type": "uint8", "autoguide_scale": 3.0}
    for older in (early, loaded(early)):
        assert np.array_equal(pipeline(list(PROMPTS), autoguide=older, **asked).frames, expected)
    options = EvaluateOptions(steps=3, device="cpu", autoguide=early, autoguide_scale=3.0)
    run = later.fetched()
    model = open_model(run, options, pick_device("cpu"), older_of("experts", run, options))
    assert np.array_equal(model.make(list(PROMPTS), 0, options)["frames"], expected)
    assert older_of("baseline", run, options) is None


def test_what_is_not_an_earlier_export_of_the_run_is_refused(later, early, tmp_path):
    young = open_older(early, later.fetched())
    export(later.fetched(), tmp_path / "same")
    with pytest.raises(UsageError, match=r"has 100 steps, the one that makes the clips 100: it is not older"):
        open_older(tmp_path / "same", later.fetched())
    with pytest.raises(UsageError, match="it is not older"):
        loaded(early)(PROMPTS[0], autoguide=tmp_path / "same")
    other = MadeRun(tmp_path / "other", time_shift=2.0)
    with pytest.raises(UsageError, match="an earlier export of the same run"):
        open_older(early, other.fetched())
    part = {slot: path for slot, path in young.weights.items() if slot != "expert-1"}
    export(later.fetched(weights=part), tmp_path / "part")
    with pytest.raises(UsageError, match="has no weights of expert-1"):
        open_older(tmp_path / "part", later.fetched())
    with pytest.raises(UsageError, match="holds no exported run"):
        open_older(tmp_path, later.fetched())
