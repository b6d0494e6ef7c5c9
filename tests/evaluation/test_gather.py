"""Evaluating a small model on small clips: everything is measured once, kept, and shown."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model
from typer.testing import CliRunner

from paris_p2p.cli.run import app
from paris_p2p.data.prepared import Prepared, SplitClip, split_clips
from paris_p2p.data.splits import SplitOptions
from paris_p2p.device import pick_device
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DataError, UsageError
from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.gather import gather
from paris_p2p.evaluation.held_out import Held, choose_clips
from paris_p2p.evaluation.inspect import Inspection, inspect
from paris_p2p.evaluation.opened_model import OpenedModel, model_fingerprint, open_model
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.parts import Parts
from paris_p2p.evaluation.report import read_losses, write_evaluation
from paris_p2p.evaluation.scorecard import score_router, specialisation_of
from paris_p2p.evaluation.suitable import Baseline
from paris_p2p.features.image_text import load_clip
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.flow.path import shifted
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import open_export
from paris_p2p.model.checkpoint import Counters
from paris_p2p.model.presets import build_expert, build_router
from paris_p2p.model.router import Router
from paris_p2p.node.generator import GENERATOR_DIR, Fetched, FetchedSlot, fetch_run
from paris_p2p.node.host import save_spec
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.score.intervals import Plan
from paris_p2p.spec import ROUTER, GateSpec, Invite, PeerSettings, RunSpec, TimingSpec, TrainingSpec
from paris_p2p.store.blobs import BlobStore
from tests.data.videos import scene, write_video
from tests.features.test_image_text import save_clip
from tests.made.made_run import MadeRun, save_text_encoder

OPTIONS = EvaluateOptions(clips=20, probe_clips=30, steps=2, guidance=1.0, device="cpu", threads=1)
PLAN = Plan(resamples=10, splits=4)
PREPARE = PrepareOptions(
    experts=3, frames=4, height=32, width=32, threads=1, feature_frames=1, text_tokens=6, image_to_video=True,
    splits=SplitOptions(test_share=0.3, gate_share=0.2),
)  # fmt: skip
OTHER_SEED = PREPARE.model_copy(update={"rng_seed": 1})
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class World:
    data: Path
    model: FetchedRun
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
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder / "features")
    save_text_encoder(folder / "text")
    models = {"features": f"transformers:{folder / 'features'}", "text": f"transformers:{folder / 'text'}"}
    options = PREPARE.model_copy(update=models)
    prepare(clips, folder / "data", options)
    return World(folder / "data", random_model(folder), folder)


def random_model(folder: Path) -> FetchedRun:
    """Exported to `folder`/model, and lying in `folder`/peer as a fetch would have left it, with its invite
    in `folder`/invite.txt.
    """
    run, weights = exported(folder, folder / "model")
    store = BlobStore(folder / "peer" / GENERATOR_DIR / "blobs")
    for path in [*(folder / "data" / "codec").rglob("*"), *(folder / "data" / "text").rglob("*")]:
        store.add_file(path)
    home = save_spec(folder / "peer" / GENERATOR_DIR, run).parent
    slots = {slot: FetchedSlot(card=run.id, weights=store.add_file(path)) for slot, path in weights.items()}
    (home / "fetched.json").write_text(Fetched(slots=slots).model_dump_json())
    (folder / "invite.txt").write_text(f"paris:{run.id}?peer=/ip4/192.0.2.1/tcp/1/p2p/{run.signer}")
    return open_export(folder / "model")


def exported(
    folder: Path, out: Path, first_frame_rate: float = 0.0
) -> tuple[Envelope[RunSpec], dict[str, Path]]:
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "made")
    training = TrainingSpec(
        batch_clips=4, learning_rate=1e-3, router_batch_clips=4, first_frame_rate=first_frame_rate
    )
    options = CreateOptions(
        **words, expert="nano", router="nano", training=training, gate=GateSpec(clips=4), timing=TimingSpec()
    )
    run = create_run(folder / "data", options, None)
    spec, weights = run.record, {}
    for slot in spec.slots:
        network = build_router(spec.router.config) if slot == ROUTER else build_expert(spec.expert.config)
        tensors = {
            name: torch.randn_like(value).mul(0.05).to(torch.bfloat16)
            for name, value in network.named_parameters()
        }
        weights[slot] = out.with_name(f"{out.name}-{slot}.safetensors")
        save_file(tensors, weights[slot], Counters(run.id, slot, 1, 1).metadata("weights"))
    looks = folder / "data" / "features" if first_frame_rate else None
    fetched = FetchedRun(run, weights, {}, folder / "data" / "codec", folder / "data" / "text", looks)
    export(fetched, out)
    return run, weights


@pytest.fixture(scope="module")
def evidence(world: World) -> Evidence:
    return gather(
        world.model,
        world.data,
        world.folder / "report",
        OPTIONS,
        Baseline(world.model),
        lambda stage, done, total: None,
    )


@pytest.fixture(scope="module")
def report(world: World, evidence: Evidence) -> Path:
    losses = world.folder / "losses.jsonl"
    losses.write_text(
        "".join(json.dumps({"model": "expert 0", "clips": n, "loss": 1 / n}) + "\n" for n in (4, 2, 1))
    )
    made = {"command": "made here"}
    write_evaluation(world.folder / "report", evidence, losses, made, lambda stage, done, total: None, PLAN)
    return world.folder / "report"


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


def test_clips_of_one_film_count_as_one_wherever_chance_is_reckoned_with(world: World, tmp_path: Path):
    shutil.copytree(
        world.data, tmp_path / "data", ignore=shutil.ignore_patterns("run.spec", "owner.key", "node", "cache")
    )
    path = tmp_path / "data" / "splits.json"
    lists = json.loads(path.read_text())
    films = {
        clip["source"]: f"{clip['split']} film {number % 3}" for number, clip in enumerate(lists["clips"])
    }
    path.write_text(
        json.dumps({"clips": [clip | {"group": films[clip["source"]]} for clip in lists["clips"]]})
    )
    some = OPTIONS.model_copy(update={"clips": 12, "features": ("transnetv2",)})
    evidence = gather(world.model, tmp_path / "data", tmp_path / "out", some, None, lambda *_: None)
    tested, trained = ({f"{split} film {number}" for number in range(3)} for split in ("test", "train"))
    assert evidence.probe is not None
    assert set(evidence.probe.clips.sources) == trained
    (model,) = evidence.models
    assert model.inspection is not None
    for side in (evidence.real, model):
        assert side.motion is not None
        assert (
            set(side.motion.sources)
            == set(side.features["TransNetV2"].sources)
            == set(model.inspection.sources)
            == tested
        )
    write_evaluation(tmp_path / "out", evidence, None, {}, lambda *_: None, PLAN)
    scored = json.loads((tmp_path / "out" / "results.json").read_text())["models"]["experts"]
    assert [(score["real_sources"], score["generated_sources"]) for score in scored["scores"]] == [(3, 3)] * 2
    assert "3 source videos on one side" in scored["left_out"]["Classifier test, TransNetV2"]
    assert "held-out clips of 3 videos" in (tmp_path / "out" / "report.html").read_text()

    path.write_text(json.dumps({"clips": [clip | {"group": clip["split"]} for clip in lists["clips"]]}))
    with pytest.raises(UsageError, match="the 12 test clips are of one source video"):
        gather(world.model, tmp_path / "data", tmp_path / "one", some, None, lambda *_: None)


def other_data(world: World, folder: Path) -> Path:
    """The same clips prepared under another seed: what was train there is held out here."""
    again = folder / "again"
    options = OTHER_SEED.model_copy(
        update={
            "text": f"transformers:{world.folder / 'text'}",
            "features": f"transformers:{world.folder / 'features'}",
        }
    )
    prepare(world.folder / "clips", again, options)
    return again


def test_clips_of_another_preparation_are_refused_before_anything_is_made(world: World, tmp_path: Path):
    again, out = other_data(world, tmp_path), tmp_path / "out"
    with pytest.raises(UsageError, match=r"is not what run .* was made of"):
        gather(world.model, again, out, OPTIONS, None, lambda *_: None)
    other = tmp_path / "other"
    shutil.copytree(again, other / "data")
    exported(other, other / "model")
    model = open_export(other / "model")
    with pytest.raises(UsageError, match=r"of the baseline: .*--baseline-data"):
        gather(world.model, world.data, out, OPTIONS, Baseline(model), lambda *_: None)
    with pytest.raises(UsageError, match="are train or gate clips in"):
        gather(world.model, world.data, out, OPTIONS, Baseline(model, again), lambda *_: None)
    assert not out.exists()


def test_a_folder_mixed_from_two_preparations_is_refused(world: World, tmp_path: Path):
    shutil.copytree(world.data, tmp_path / "data", ignore=shutil.ignore_patterns("node", "cache"))
    path = tmp_path / "data" / "splits.json"
    lists = json.loads(path.read_text())
    swapped = {"train": "test", "test": "train"}
    clips = [clip | {"split": swapped.get(clip["split"], clip["split"])} for clip in lists["clips"]]
    path.write_text(json.dumps({"clips": clips}))
    with pytest.raises(DataError, match="mixed from two preparations"):
        gather(world.model, tmp_path / "data", tmp_path / "out", OPTIONS, None, lambda *_: None)


def test_a_fetch_and_its_export_are_one_model(world: World):
    settings = PeerSettings(data_dir=world.folder / "peer")
    fetched = fetch_run(settings, Invite.parse((world.folder / "invite.txt").read_text()), offline=True)
    assert fetched.weights != world.model.weights
    assert model_fingerprint(fetched) == model_fingerprint(world.model)
    other = dict(world.model.weights) | {"expert-0": world.model.weights["expert-1"]}
    assert model_fingerprint(replace(fetched, weights=other)) != model_fingerprint(fetched)


def test_the_report_names_run_tips_and_training(report: Path, evidence: Evidence):
    page, results = (report / "report.html").read_text(), json.loads((report / "results.json").read_text())
    facts = evidence.facts["experts"]
    assert f"made ({facts.run[:16]}…)" in page
    assert "1 steps, 1 clips" in page
    assert "Nothing can be said about quality" in page
    assert "barely trained" in page
    assert results["about"]["experts"]["trained"]["router"]["steps"] == 1


def test_lists_of_older_versions_count_files(world: World):
    clip = next(split_clips(world.data, "test"))
    older = SplitClip.model_validate(clip.model_dump(exclude={"group"}))
    assert (clip.video, older.video) == (clip.group, clip.source)


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


def test_a_model_that_only_goes_on_from_pictures_is_asked_with_the_first_frames(
    world: World, tmp_path: Path, monkeypatch
):
    shutil.copytree(
        world.data, tmp_path / "data", ignore=shutil.ignore_patterns("run.spec", "owner.key", "node")
    )
    exported(tmp_path, tmp_path / "model", first_frame_rate=1.0)
    few, told = OPTIONS.model_copy(update={"clips": 4, "probe_clips": 0}), []
    model = open_export(tmp_path / "model")
    with pytest.raises(UsageError, match="add --image-to-video"):
        gather(model, world.data, tmp_path / "without", few, None, lambda *_: None)
    make, forward = OpenedModel.make, Router.forward
    monkeypatch.setattr(OpenedModel, "make", lambda *given: told.append(given[-1]) or make(*given))
    monkeypatch.setattr(
        Router,
        "forward",
        lambda self, x, t, pooled, first=None: told.append(first) or forward(self, x, t, pooled, first),
    )
    given = few.model_copy(update={"image_to_video": True})
    evidence = gather(model, world.data, tmp_path / "with", given, None, lambda *_: None)
    images, *features = told
    shape = evidence.prepared.clip
    assert all(
        np.array_equal(image, clip.pixels(shape)[0])
        for image, clip in zip(images, evidence.clips, strict=True)
    )
    assert features
    assert all(first.shape == (4, 16) for first in features)
    with pytest.raises(UsageError, match="not trained to go on from an image"):
        gather(world.model, world.data, tmp_path / "other", given, None, lambda *_: None)


def test_a_second_call_makes_only_what_is_missing(
    world: World, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
):
    called: list[int] = []
    original = OpenedModel.make

    def counted(self, captions, *arguments):
        called.append(len(captions))
        return original(self, captions, *arguments)

    monkeypatch.setattr(OpenedModel, "make", counted)
    kept = sorted((world.folder / "report").glob("experts-*/clips-*.npz"))
    before = np.load(kept[-1], allow_pickle=False)["frames"]
    kept[-1].unlink()
    gather(world.model, world.data, world.folder / "report", OPTIONS, None, lambda stage, done, total: None)
    assert called == [len(before)]
    assert np.array_equal(np.load(kept[-1], allow_pickle=False)["frames"], before)


def test_another_evaluation_does_not_go_on_in_the_same_folder(
    world: World, evidence: Evidence, tmp_path: Path
):
    other = OPTIONS.model_copy(update={"steps": 3})
    with pytest.raises(UsageError, match="another steps"):
        gather(world.model, world.data, world.folder / "report", other, None, lambda stage, done, total: None)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not empty"):
        gather(world.model, world.data, tmp_path, OPTIONS, None, lambda stage, done, total: None)


def test_a_metric_that_so_few_clips_cannot_carry_is_left_out_and_says_what_it_needs(
    world: World, tmp_path: Path
):
    few = OPTIONS.model_copy(update={"clips": 6, "probe_clips": 0, "features": ("transnetv2",)})
    evidence = gather(world.model, world.data, tmp_path / "few", few, None, lambda stage, done, total: None)
    write_evaluation(tmp_path / "few", evidence, None, {}, lambda stage, done, total: None, PLAN)
    left_out = json.loads((tmp_path / "few" / "results.json").read_text())["models"]["experts"]["left_out"]
    assert "needs 10" in left_out["Classifier test, TransNetV2"]
    assert "--probe-clips above 0" in left_out["Prompt fidelity"]
    assert "needs 10" in (tmp_path / "few" / "report.html").read_text()


def test_an_invite_is_evaluated_from_what_a_fetch_brought_with_captions_scored_and_the_command_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_clip(tmp_path / "clip")
    save_file({"weight": torch.ones(1, 12), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    losses = tmp_path / "loss curves.jsonl"
    losses.write_text('{"model": "a", "clips": 2, "loss": 0.5}\n')
    monkeypatch.setattr("paris_p2p.evaluation.report.Plan", lambda: PLAN)
    invite = f"@{world.folder / 'invite.txt'}"
    command = [
        "evaluate",
        invite,
        "--data",
        str(world.data),
        "--out",
        str(tmp_path / "out"),
        "--clips",
        "4",
        "--probe-clips",
        "0",
    ]
    command += [
        "--features",
        f"clip:{tmp_path / 'clip'}",
        "--aesthetic",
        str(tmp_path / "head.safetensors"),
        "--losses",
        str(losses),
    ]
    command += [
        "--steps",
        "2",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--data-dir",
        str(world.folder / "peer"),
        "--offline",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(shlex.split(results["made"]["command"])) == sorted(["paris-run", *command])
    scored = results["models"]["experts"]
    (similarity,) = scored["similarity"]
    clips = choose_clips(list(split_clips(world.data, "test")), 4, 0)
    clip = load_clip(str(tmp_path / "clip"), frames=2)
    seen = clip(torch.stack([torch.from_numpy(one.pixels(Prepared.load(world.data).clip)) for one in clips]))
    expected = (seen * clip.text([one.caption for one in clips])).sum(1).mean().item()
    assert similarity["real"]["own"]["value"] == pytest.approx(expected, abs=1e-5)
    assert scored["aesthetic"]["real"]["value"] == pytest.approx(seen.sum(1).mean().item(), abs=1e-5)
    assert results["networks"]["CLIP clip"] == clip.sha256
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Text-video similarity, CLIP clip" in page
    assert "Aesthetic value, head" in page


def test_inspected_clips_belong_to_the_video_they_are_cut_from(world: World, evidence: Evidence):
    seen = evidence.models[0].inspection
    assert seen is not None
    there = Counter((clip.video, clip.cluster) for clip in split_clips(world.data, "test"))
    assert Counter(zip(seen.sources.tolist(), seen.clusters.tolist(), strict=True)) <= there
    assert len(set(seen.clusters.tolist())) > 1


def test_experts_are_compared_at_the_times_of_their_training(world: World):
    held = Held(world.data, Prepared.load(world.data), "test", 0)
    model = open_model(world.model, OPTIONS, pick_device("cpu"))

    def times_seen(folder: str, **training: float) -> torch.Tensor:
        given: list[torch.Tensor] = []
        spec = world.model.spec
        spec = spec.model_copy(update={"training": spec.training.model_copy(update=training)})
        run = replace(world.model, signed=replace(world.model.signed, record=spec))
        pool = model.engine.mixture.pool

        def spy(k: int, x_t: torch.Tensor, t: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            given.append(t)
            return type(pool).velocity(pool, k, x_t, t, *rest)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(pool, "velocity", spy)
            inspect(replace(model, run=run), held, Parts(world.folder / folder, 8), lambda *_: None)
        return given[0]

    plain = times_seen("plain")
    torch.testing.assert_close(times_seen("shifted", time_shift=3.0), shifted(plain.double(), 3.0).float())
    narrow = torch.sigmoid(1 + 0.5 * torch.logit(plain.double()))
    torch.testing.assert_close(
        times_seen("narrow", time_shift=3.0, time_mean=1.0, time_std=0.5), shifted(narrow, 3.0).float()
    )


def test_clips_of_one_video_count_once_in_the_intervals_of_router_and_experts():
    wrong, right = [[0.1, 0.9]], [[0.9, 0.1]]
    beliefs = np.array([*[wrong] * 4, *[right] * 4] * 2)
    alone = Inspection(
        np.zeros(16, int),
        np.array(list("abcdefghijklmnop")),
        np.array([0.5]),
        beliefs,
        np.ones((16, 1)),
        (0,),
    )
    pairs = replace(alone, sources=np.array(list("aaaabbbbccccdddd")))
    widths = []
    for seen in (alone, pairs):
        router = score_router(seen, Plan(resamples=400))
        assert router is not None
        widths.append(router.accuracy[0].high - router.accuracy[0].low)
    assert widths[1] > widths[0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--features", "best"), "no feature network is called 'best'"),
        (("--features", "transnetv2", "--features", "clip:"), "no feature network is called 'clip:'"),
        (("--features", "i3d:not/there.pt"), "there is no file not/there.pt"),
        (("--sha256", "0" * 64), "no --features i3d:FILE is given"),
        (("--aesthetic", "head.safetensors"), "no --features clip: is given"),
        (("--routing", "roulette"), "no routing is called 'roulette'"),
        (("--losses", "not/there.jsonl"), "not/there.jsonl cannot be read"),
    ],
)
def test_a_slip_in_the_options_is_told_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...], says: str
):
    def fetch(*_: object, **__: object) -> Path:
        raise AssertionError("a model was fetched")

    monkeypatch.setattr("paris_p2p.cli.evaluate._model_folder", fetch)
    command = ["evaluate", "paris:invite", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *wrong]
    assert says in str(CliRunner().invoke(app, command).exception)


def test_the_command_refuses_before_it_works(world: World, tmp_path: Path):
    def refusal(*arguments: str) -> str:
        result = CliRunner().invoke(
            app, ["evaluate", *arguments, "--data", str(world.data), "--out", str(tmp_path / "out")]
        )
        return str(result.exception)

    model = str(world.folder / "model")
    assert "holds no model" in refusal(str(tmp_path))
    assert "--split" in refusal(model, "--split", "train")
    assert "no feature network is called" in refusal(model, "--features", "best")
    assert "no --features i3d:FILE" in refusal(model, "--sha256", "0" * 64)
    assert "--i3d-sha256" not in refusal(model, "--sha256", "short")
    (tmp_path / "i3d.pt").write_bytes(b"code")
    assert "expected 00000000" in refusal(
        model, "--features", f"i3d:{tmp_path / 'i3d.pt'}", "--sha256", "0" * 64
    )
    save_file({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    assert "no --features clip: is given" in refusal(model, "--aesthetic", str(tmp_path / "head.safetensors"))
    save_clip(tmp_path / "clip")
    given = ("--features", f"clip:{tmp_path / 'clip'}", "--aesthetic", str(tmp_path / "head.safetensors"))
    assert "takes 768 features of CLIP ViT-L/14, and CLIP clip gives 12" in refusal(model, *given)
    assert "no routing is called 'roulette'" in refusal(model, "--routing", "roulette")
    assert "routing oracle needs each clip's true cluster" in refusal(model, "--routing", "oracle")
    assert "no guidance form is called 'strong'" in refusal(model, "--guidance-form", "strong")
    assert "not trained to go on from an image" in refusal(model, "--image-to-video")
    made = MadeRun(tmp_path)
    export(made.fetched(), tmp_path / "other")
    assert "has latents of (4, 3, 4, 6)" in refusal(model, "--baseline", str(tmp_path / "other"))
    without = shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(without / "router")
    assert "which of 3 experts to use, and the router has no weights" in refusal(str(without))
    (without / "run.spec").unlink()
    assert "an older version exported it" in refusal(str(without))
    assert not (tmp_path / "out").exists()


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
    seen = Inspection(np.array([0, 1]), np.array(["a", "b"]), np.array([0.75, 0.25]), beliefs, losses, (0, 1))
    router = score_router(seen, PLAN)
    assert router is not None
    assert [accuracy.value for accuracy in router.accuracy] == [1.0, 0.5]
    assert router.confusion.tolist() == [[2, 0], [1, 1]]
    clusters, means = specialisation_of(seen, PLAN)
    assert clusters == [0, 1]
    assert [[cell.value for cell in row] for row in means] == [[1.0, 4.0], [3.0, 2.0]]
