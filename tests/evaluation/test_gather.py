"""Everything is measured once and kept, of clips that fit together, and a second call goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paris_p2p.data.prepared import SplitClip, split_clips
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.gather import gather
from paris_p2p.evaluation.opened_model import OpenedModel, model_fingerprint
from paris_p2p.evaluation.report import write_evaluation
from paris_p2p.generation.exported import open_export
from paris_p2p.invite import Invite
from paris_p2p.model.router import Router
from paris_p2p.node.generator import fetch_run
from paris_p2p.peer_settings import PeerSettings
from tests.evaluation.world import OPTIONS, PLAN, World, exported


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


def test_lists_of_older_versions_count_files(world: World):
    clip = next(split_clips(world.data, "test"))
    older = SplitClip.model_validate(clip.model_dump(exclude={"group"}))
    assert (clip.video, older.video) == (clip.group, clip.source)


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


def test_a_fetch_and_its_export_are_one_model(world: World):
    settings = PeerSettings(data_dir=world.folder / "peer")
    fetched = fetch_run(settings, Invite.parse((world.folder / "invite.txt").read_text()), offline=True)
    assert fetched.weights != world.model.weights
    assert model_fingerprint(fetched) == model_fingerprint(world.model)
    other = dict(world.model.weights) | {"expert-0": world.model.weights["expert-1"]}
    assert model_fingerprint(replace(fetched, weights=other)) != model_fingerprint(fetched)
