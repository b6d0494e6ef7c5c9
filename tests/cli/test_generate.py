"""`paris-peer generate` on a run that a fetch brought: its options reach the engine."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner

from paris_p2p.cli.choices import SchedulerName
from paris_p2p.cli.peer import app
from paris_p2p.cli.run import app as owner_app
from paris_p2p.generation.export import export
from paris_p2p.generation.schedulers import SCHEDULERS, make_scheduler
from tests.generation.exported import loaded
from tests.made.made_run import MadeRun


def test_the_command_line_knows_the_schedulers_that_there_are():
    assert list(get_args(SchedulerName)) == list(SCHEDULERS)


@pytest.mark.parametrize("seed", ["--seed", "--rng-seed"])
def test_what_the_command_makes_the_exported_pipeline_makes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str
):
    made = MadeRun(tmp_path)
    monkeypatch.setattr("paris_p2p.node.generator.fetch_run", lambda *_, **__: made.fetched())
    out = tmp_path / "clip.npy"
    options = [seed, "3", "--scheduler", "unipc", "--negative-prompt", "rolls", "--steps", "4"]
    options += ["--device", "cpu", "--threads", "1", "--out", str(out), "--data-dir", str(tmp_path / "data")]
    invite = f"paris:{made.run}?peer=/ip4/192.0.2.1/tcp/1/p2p/{made.signed.signer}"
    result = CliRunner().invoke(app, ["generate", "a red ball", invite, *options], catch_exceptions=False)
    assert result.exit_code == 0
    export(made.fetched(), tmp_path / "model")
    pipe = loaded(tmp_path / "model")
    pipe.scheduler = make_scheduler("unipc", 1.0)
    given = {"num_inference_steps": 4, "rng_seed": 3, "output_type": "uint8"}
    assert np.array_equal(np.load(out), pipe("a red ball", "rolls", **given).frames)


@pytest.mark.parametrize("private", [True, False])
def test_an_export_of_a_sealed_run_says_that_it_is_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
):
    made, closed = MadeRun(tmp_path), list[str]()
    fetched = made.fetched(effective=made.spec.model_copy(update={"private": private}))
    fetched.closing.callback(closed.append, "copies")
    monkeypatch.setattr("paris_p2p.node.generator.fetch_run", lambda *_, **__: fetched)
    invite = f"paris:{made.run}?peer=/ip4/192.0.2.1/tcp/1/p2p/{made.signed.signer}"
    asked = ["export", invite, "--out", str(tmp_path / "model"), "--data-dir", str(tmp_path / "data")]
    result = CliRunner().invoke(owner_app, asked, catch_exceptions=False)
    assert result.exit_code == 0
    assert ("the run is sealed, the model in" in result.output) == private
    assert closed == ["copies"]
