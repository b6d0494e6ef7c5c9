"""The page and the results say the same, with each number beside its floor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paris_p2p.errors import DataError
from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.report import read_losses
from tests.evaluation.world import HOSTILE


def test_every_part_is_in_the_report_and_no_caption_is_in_its_markup(report: Path):
    page = (report / "report.html").read_text()
    for words in (
        "Fréchet distance, EfficientNet-lite0",
        "Kernel distance, TransNetV2",
        "Classifier AUC",
        "Motion, DIS optical flow",
        "Prompt fidelity",
        "Which expert denoises",
        "Where the router sends",
        "expected calibration error",
        "Held-out loss of each expert",
        "made here",
        "Inside: baseline",
        "data:image/webp;base64,",
        "Training",
    ):
        assert words in page, words
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_results_hold_each_number_with_interval_counts_and_floor(report: Path, evidence: Evidence):
    models = json.loads((report / "results.json").read_text())["models"]
    assert set(models) == {"experts", "baseline"}
    score = models["experts"]["scores"][0]
    assert score["real_clips"] == score["generated_clips"] == len(evidence.clips) > 10
    assert score["low"] <= score["high"]
    assert score["matched"] > score["floor"]["high"]  # weights that know nothing
    assert models["experts"]["router"]["clips"] == len(evidence.clips)
    assert len(models["experts"]["specialisation"]["losses"]) == 3
    assert models["experts"]["left_out"] == {}


def test_the_report_names_run_tips_and_training(report: Path, evidence: Evidence):
    page, results = (report / "report.html").read_text(), json.loads((report / "results.json").read_text())
    facts = evidence.facts["experts"]
    assert f"made ({facts.run[:16]}…)" in page
    assert "1 steps, 1 clips" in page
    assert "Nothing can be said about quality" in page
    assert "barely trained" in page
    assert results["about"]["experts"]["trained"]["router"]["steps"] == 1


def test_the_same_model_twice_gets_the_same_numbers(report: Path):
    models = json.loads((report / "results.json").read_text())["models"]
    assert models["experts"]["held_out_loss"].pop("over")  # of a model beside a baseline
    assert models["baseline"]["held_out_loss"].pop("over") == {}
    assert models["experts"] == models["baseline"]


def test_loss_curves_are_read_in_order_and_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "losses.jsonl"
    path.write_text('{"model": "a", "clips": 2, "loss": 0.5}\n\n{"model": "a", "clips": 1, "loss": 1}\n')
    (curve,) = read_losses(path)
    assert (curve.name, curve.x.tolist(), curve.y.tolist()) == ("a", [1, 2], [1, 0.5])
    for wrong in ("[1]", '{"model": "a", "clips": 1, "loss": NaN}', "no json"):
        path.write_text(wrong)
        with pytest.raises(DataError, match="cannot be read"):
            read_losses(path)
