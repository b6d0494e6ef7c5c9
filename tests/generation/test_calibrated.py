"""A calibrated router routes alike in the engine, in an export and in a pipeline that was saved anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paris_p2p.device import pick_device
from paris_p2p.errors import CheckpointError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.flow.mixture import Routing
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import open_export
from paris_p2p.generation.run_engine import open_engine, router_of
from paris_p2p.generation.wishes import Wishes
from paris_p2p.model.calibration import Calibration
from paris_p2p.model.posterior import posterior_logits
from paris_p2p.model.router import Router
from paris_p2p.spec import ROUTER
from tests.generation.exported import loaded
from tests.made.made_run import MadeRun

CALIBRATION = Calibration((1.0, 1.0, 1.0, 1.0, 0.9, 0.7, 0.5, 0.25, 0.0))
CPU = pick_device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"))


def noted(made: MadeRun, note: dict[str, str], path: Path) -> FetchedRun:
    """Returns the run with more metadata in its router's file."""
    with safe_open(made.weights[ROUTER], framework="pt") as file:
        metadata = file.metadata() | note
    save_file(load_file(made.weights[ROUTER]), path, metadata)
    fetched = made.fetched()
    return replace(fetched, weights={**fetched.weights, ROUTER: path})


def asked(router: Router | None) -> torch.Tensor:
    assert router is not None
    torch.manual_seed(1)
    t = torch.tensor([0.2, 0.9, 1.0])
    x, pooled = torch.randn(3, 4, 3, 4, 6), torch.randn(3, 16)
    with torch.no_grad():
        return posterior_logits(router, x, t, pooled)


def test_engine_export_and_pipeline_answer_alike(made: MadeRun, tmp_path: Path) -> None:
    run = noted(made, CALIBRATION.note(), tmp_path / "router.safetensors")
    engine = open_engine(run, Wishes(Routing("full")), CPU)
    assert engine.mixture.router is not None
    assert engine.mixture.router.calibration == CALIBRATION
    export(run, tmp_path / "model")
    pipeline = loaded(tmp_path / "model")
    pipeline.save_pretrained(tmp_path / "again")
    known = asked(engine.mixture.router)
    for router in (
        router_of(open_export(tmp_path / "model"), CPU),
        pipeline.router,
        loaded(tmp_path / "again").router,
    ):
        assert torch.equal(asked(router), known)
    assert not torch.allclose(asked(router_of(made.fetched(), CPU)), known)


def test_clips_of_a_calibrated_run_are_others_and_the_same_by_both_ways(
    made: MadeRun, tmp_path: Path
) -> None:
    run = noted(made, CALIBRATION.note(), tmp_path / "router.safetensors")
    how = {"num_inference_steps": 3, "rng_seed": 0, "routing": "full", "output_type": "latent"}
    frames = []
    for number, one in enumerate((run, made.fetched())):
        export(one, tmp_path / f"model-{number}")
        frames.append(np.asarray(loaded(tmp_path / f"model-{number}")("a red ball", **how).frames))
    assert not np.allclose(frames[0], frames[1])


def test_an_uncalibrated_runs_export_says_nothing_of_it(made: MadeRun, tmp_path: Path) -> None:
    export(made.fetched(), tmp_path / "model")
    assert "calibration" not in (tmp_path / "model" / ROUTER / "config.json").read_text()


def test_a_made_up_calibration_is_not_generated_with(made: MadeRun, tmp_path: Path) -> None:
    run = noted(made, {"calibration": "0.5,0.5"}, tmp_path / "router.safetensors")
    with pytest.raises(CheckpointError, match="calibration that cannot be read"):
        open_engine(run, Wishes(Routing("full")), CPU)
    with pytest.raises(CheckpointError, match="calibration that cannot be read"):
        export(run, tmp_path / "model")
