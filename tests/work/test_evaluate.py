"""Evaluating a small model on small clips: everything is measured once, kept, and shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model
from typer.testing import CliRunner

from paris_p2p.cli.run import app
from paris_p2p.data.splits import SplitOptions
from paris_p2p.errors import DataError, UsageError
from paris_p2p.model.presets import build_expert, build_router
from paris_p2p.score.intervals import Plan
from paris_p2p.spec import ROUTER, GateSpec, TimingSpec, TrainingSpec
from paris_p2p.work import evaluate as room
from paris_p2p.work.checkpoint import Counters
from paris_p2p.work.create import CreateOptions, create_run
from paris_p2p.work.evaluate import EvaluateOptions, Evidence, gather
from paris_p2p.work.evaluation_report import read_losses, write_evaluation
from paris_p2p.work.export import export
from paris_p2p.work.inspect import Inspection
from paris_p2p.work.prepare import PrepareOptions, prepare
from paris_p2p.work.scorecard import score_router, specialisation_of
from tests.data.videos import scene, write_video
from tests.work.made_run import save_text_encoder

OPTIONS = EvaluateOptions(clips=20, probe_clips=30, steps=2, guidance=1.0, device="cpu", threads=1)
PLAN = Plan(resamples=10, splits=4)
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class World:
    data: Path
    model: Path
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """60 videos of three kinds, prepared, and a model of random weights."""
    folder = tmp_path_factory.mktemp("world")
    clips, rng = folder / "clips", np.random.default_rng(0)
    clips.mkdir()
    for i in range(60):
        write_video(clips / f"{i:03}.mp4", scene(i % 3, rng, side=32))
        (clips / f"{i:03}.txt").write_text(f"kind {i % 3} {HOSTILE}")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder / "features")
    save_text_encoder(folder / "text")
    options = PrepareOptions(
        experts=3, frames=4, height=32, width=32, threads=1, feature_frames=1, text_tokens=6,
        splits=SplitOptions(test_share=0.3, gate_share=0.2),
        features=f"transformers:{folder / 'features'}", text=f"transformers:{folder / 'text'}",
    )  # fmt: skip
    prepare(clips, folder / "data", options)
    return World(folder / "data", random_model(folder), folder)


def random_model(folder: Path) -> Path:
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(batch_clips=4, learning_rate=1e-3, router_batch_clips=4)
    options = CreateOptions(**words, expert="nano", router="nano", training=training, gate=GateSpec(clips=4), timing=TimingSpec())
    run = create_run(folder / "data", options, None)
    spec, weights = run.record, {}
    for slot in spec.slots:
        network = build_router(spec.router.config) if slot == ROUTER else build_expert(spec.expert.config)
        tensors = {name: torch.randn_like(value).mul(0.05).to(torch.bfloat16) for name, value in network.named_parameters()}
        weights[slot] = folder / f"{slot}.safetensors"
        save_file(tensors, weights[slot], Counters(run.id, slot, 1, 1).metadata("weights"))
    export(spec, run.id, weights, {}, folder / "data" / "codec", folder / "model", folder / "data" / "text")
    return folder / "model"


@pytest.fixture(scope="module")
def evidence(world: World) -> Evidence:
    return gather(world.model, world.data, world.folder / "report", OPTIONS, world.model, lambda stage, done, total: None)


@pytest.fixture(scope="module")
def report(world: World, evidence: Evidence) -> Path:
    losses = world.folder / "losses.jsonl"
    losses.write_text("".join(json.dumps({"model": "expert 0", "clips": n, "loss": 1 / n}) + "\n" for n in (4, 2, 1)))
    made = {"command": "made here"}
    write_evaluation(world.folder / "report", evidence, losses, made, lambda stage, done, total: None, PLAN)
    return world.folder / "report"


def test_every_part_is_in_the_report_and_no_caption_is_in_its_markup(report: Path):
    page = (report / "report.html").read_text()
    for words in (
        "Fréchet distance, EfficientNet-lite0", "Kernel distance, TransNetV2", "Classifier AUC", "Motion, DIS optical flow",
        "Prompt fidelity", "Which expert denoises", "Where the router sends", "expected calibration error",
        "Held-out loss of each expert", "made here",
        "Inside: baseline", "data:image/webp;base64,", "Training",
    ):  # fmt: skip
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


def test_the_same_model_twice_gets_the_same_numbers(report: Path):
    models = json.loads((report / "results.json").read_text())["models"]
    assert models["experts"] == models["baseline"]


def test_generated_clips_belong_to_the_source_of_their_caption(evidence: Evidence):
    real, made = (next(iter(side.features.values())).sources for side in (evidence.real, evidence.models[0]))
    assert np.array_equal(real, made)


def test_routing_is_drawn_at_the_times_the_sampler_took(evidence: Evidence):
    (model, _) = evidence.models
    assert model.t is not None
    assert model.chosen is not None
    assert model.t.tolist() == [1.0, 0.5]
    assert model.chosen.shape == (len(evidence.clips), 2, 3)
    np.testing.assert_allclose(model.chosen.sum(2), 1, atol=1e-6)


def test_a_second_call_makes_only_what_is_missing(world: World, evidence: Evidence, monkeypatch: pytest.MonkeyPatch):
    called: list[int] = []
    original = room.ParisPipeline.__call__

    def counted(self, prompts, *arguments, **options):
        called.append(len(prompts))
        return original(self, prompts, *arguments, **options)

    monkeypatch.setattr(room.ParisPipeline, "__call__", counted)
    kept = sorted((world.folder / "report").glob("experts-*/clips-*.npz"))
    before = np.load(kept[-1], allow_pickle=False)["frames"]
    kept[-1].unlink()
    gather(world.model, world.data, world.folder / "report", OPTIONS, None, lambda stage, done, total: None)
    assert called == [len(before)]
    assert np.array_equal(np.load(kept[-1], allow_pickle=False)["frames"], before)


def test_another_evaluation_does_not_go_on_in_the_same_folder(world: World, evidence: Evidence, tmp_path: Path):
    other = OPTIONS.model_copy(update={"steps": 3})
    with pytest.raises(UsageError, match="another steps"):
        gather(world.model, world.data, world.folder / "report", other, None, lambda stage, done, total: None)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not empty"):
        gather(world.model, world.data, tmp_path, OPTIONS, None, lambda stage, done, total: None)


def test_a_metric_that_so_few_clips_cannot_carry_is_left_out_and_says_what_it_needs(world: World, tmp_path: Path):
    few = OPTIONS.model_copy(update={"clips": 6, "probe_clips": 0, "features": ("transnetv2",)})
    evidence = gather(world.model, world.data, tmp_path / "few", few, None, lambda stage, done, total: None)
    write_evaluation(tmp_path / "few", evidence, None, {}, lambda stage, done, total: None, PLAN)
    left_out = json.loads((tmp_path / "few" / "results.json").read_text())["models"]["experts"]["left_out"]
    assert "needs 10" in left_out["Classifier test, TransNetV2"]
    assert "--probe-clips above 0" in left_out["Prompt fidelity"]
    assert "needs 10" in (tmp_path / "few" / "report.html").read_text()


def test_the_command_refuses_before_it_works(world: World, tmp_path: Path):
    def refusal(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["evaluate", *arguments, "--data", str(world.data), "--out", str(tmp_path / "out")])
        return str(result.exception)

    assert "holds no exported run" in refusal(str(tmp_path))
    assert "--split" in refusal(str(world.model), "--split", "train")
    assert "no feature network is called" in refusal(str(world.model), "--features", "best")


def test_loss_curves_are_read_in_order_and_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "losses.jsonl"
    path.write_text('{"model": "a", "clips": 2, "loss": 0.5}\n\n{"model": "a", "clips": 1, "loss": 1}\n')
    (curve,) = read_losses(path)
    assert (curve.name, curve.x.tolist(), curve.y.tolist()) == ("a", [1, 2], [1, 0.5])
    for wrong in ("[1]", '{"model": "a", "clips": 1, "loss": NaN}', "no json"):
        path.write_text(wrong)
        with pytest.raises(DataError, match="cannot be read"):
            read_losses(path)


def test_router_and_specialisation_are_what_was_seen():
    beliefs = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.7, 0.3]]])
    losses = np.array([[1.0, 3.0], [4.0, 2.0]])
    seen = Inspection(np.array([0, 1]), np.array([0.75, 0.25]), beliefs, losses, (0, 1))
    router = score_router(seen, PLAN)
    assert router is not None
    assert [accuracy.value for accuracy in router.accuracy] == [1.0, 0.5]
    assert router.confusion.tolist() == [[2, 0], [1, 1]]
    clusters, means = specialisation_of(seen, PLAN)
    assert clusters == [0, 1]
    assert [[cell.value for cell in row] for row in means] == [[1.0, 4.0], [3.0, 2.0]]
