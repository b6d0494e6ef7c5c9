"""`paris-run create`: what a new run is made with where its owner says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from paris_p2p.cli.run import app
from paris_p2p.cli.worth_words import worth_words
from paris_p2p.preparation.create import load_run
from paris_p2p.rules.expectation import PLACES
from tests.made.made_prepared import prepare_made


@pytest.mark.parametrize(("options", "compact"), [((), True), (("--full-checkpoints",), False)], ids=str)
def test_new_runs_have_compact_checkpoints_unless_told_otherwise(
    tmp_path: Path, options: tuple[str, ...], compact: bool
) -> None:
    prepare_made(tmp_path / "run")
    words = ["create", str(tmp_path / "run"), "--expert", "nano", "--router", "nano", *options]
    made = CliRunner().invoke(app, words, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    run = load_run(tmp_path / "run").record
    assert run.training.compact == compact
    assert run.oldest_reader == (5 if compact else 4)


def test_a_run_with_crews_says_how_they_send_and_one_machine_is_no_crew(tmp_path: Path) -> None:
    prepare_made(tmp_path / "run")
    words = ["create", str(tmp_path / "run"), "--expert", "nano", "--router", "nano", "--crew"]
    wrong = CliRunner().invoke(app, [*words, "1"])
    assert wrong.exit_code != 0
    assert "1 is no size of a crew" in " ".join((wrong.output + str(wrong.exception)).split())
    made = CliRunner().invoke(app, [*words, "4"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    crew = load_run(tmp_path / "run").record.crew
    assert crew is not None
    assert (crew.peers, crew.step) == (4, 2.0)
    assert "up to 4 machines train a slot together" in " ".join(made.output.split())


def test_training_options_are_the_runs_and_keep_older_peers_out(tmp_path: Path) -> None:
    prepare_made(tmp_path / "run")
    words = ["create", str(tmp_path / "run"), "--expert", "nano", "--router", "nano"]
    wrong = CliRunner().invoke(app, [*words, "--ema-profile", "power", "--crew", "4"])
    assert wrong.exit_code != 0
    assert "a crew keeps one average" in " ".join((wrong.output + str(wrong.exception)).split())
    options = ["--optimizer", "muon", "--contrastive", "0.05", "--ema-clips", "16000", "--time-skip"]
    made = CliRunner().invoke(app, [*words, *options], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    run = load_run(tmp_path / "run").record
    assert (run.training.optimizer, run.training.contrastive, run.training.ema_clips) == ("muon", 0.05, 16000)
    assert run.expert.config["time_skip"] is True
    assert run.oldest_reader == 6


def test_what_experts_are_worth_at_a_runs_size_is_said_or_that_nobody_measured_it(tmp_path: Path) -> None:
    prepare_made(tmp_path / "run", experts=2)
    words = ["create", str(tmp_path / "run"), "--expert", "nano", "--router", "nano"]
    made = CliRunner().invoke(app, words, catch_exceptions=False)
    said = " ".join(made.output.split())
    assert "are experts worth it? Nobody has measured a size like this" in said
    assert "parameters an expert" in said
    assert "Your own answer" in said
    spec = load_run(tmp_path / "run").record
    assert worth_words(spec.model_copy(update={"experts": 1})) == ""
    place = next(place for place in PLACES if place.worth == "level").size
    shards = tuple(shard.model_copy(update={"clips": 0}) for shard in spec.train_shards[1:])
    shards = (spec.train_shards[0].model_copy(update={"clips": place.clips}), *shards)
    sizes = {"width": 104, "depth": 4}
    expert = spec.expert.model_copy(update={"config": dict(spec.expert.config) | sizes})
    alike = spec.model_copy(update={"experts": 3, "train_shards": shards, "expert": expert})
    assert "Level at a size like this" in worth_words(alike)
