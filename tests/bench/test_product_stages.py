"""Claims about the stages of the map that are played with the product's own networks."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.crew.report import Ratio
from bench.when_experts_win import product_jobs, product_stages
from bench.when_experts_win.joint_components import joint_components
from bench.when_experts_win.product_arms import ByPrior, ToldPool
from bench.when_experts_win.product_jobs import Task, open_tasks, run_stage, tasks_of
from bench.when_experts_win.product_losses import summed_up
from bench.when_experts_win.product_pictures import PICTURES, put_side_by_side
from bench.when_experts_win.product_place import (
    Opened,
    Place,
    best_rate,
    chosen_width,
    opened,
)
from bench.when_experts_win.product_plans import Setting, plan_of, seed_plan
from bench.when_experts_win.product_report import Played, product_report, product_verdict
from bench.when_experts_win.product_set import TRAIN, About, tiny
from bench.when_experts_win.product_stages import CLIPS, IMAGES, PRODUCT_STAGES, Way
from bench.when_experts_win.product_training import passes, rng_at, told, told_batch
from bench.when_experts_win.product_work import WORK, sampled
from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.score.distances import frechet_distance
from paris_p2p.spec import ClipShape, LatentShape, TextShape

LEAST = replace(
    PRODUCT_STAGES["tiny-clips"],
    name="least",
    arms=("monolith", "told", "experts", "random"),
    ways=tuple(way for way in IMAGES.ways if way.arm not in ("total", "triple"))[:7],
    rates=(4e-3,),
    guidances=(1.5,),
    seeds=(1,),
    passes=1.0,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A stage that was played whole, on a made-up set."""
    folder = tmp_path_factory.mktemp("stage")
    tiny(folder / "set", frames=2, count=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(product_stages.PRODUCT_STAGES, "least", LEAST)
        found = Place("least", folder / "set", folder / "results", folder / "work", "cpu")
        assert run_stage(found, at_once=1, told=lambda line: None) == 0
        yield found


def about(clusters: int, latent: LatentShape) -> About:
    return About(
        stage="made up",
        clip=ClipShape(frames=latent.frames, height=32, width=32, fps=8.0),
        latent=latent,
        text=TextShape(tokens=20, dim=384, pooled_dim=384),
        clusters=clusters,
        attributes={},
        worlds=[],
        codec="pca",
        made={},
    )


def test_arms_cost_alike_and_see_each_clip_four_times() -> None:
    images = about(10, LatentShape(channels=8, frames=1, height=8, width=8))
    setting = Setting(IMAGES, images, 60_000, 32)
    plans = {arm: plan_of(setting, arm) for arm in IMAGES.arms}
    assert plans["monolith"].clips == 4 * 60_000
    for arm in ("told", "experts", "total"):
        assert 0.98 <= plans[arm].flops / plans["monolith"].flops <= 1
    router_share = 1 - plans["random"].flops / plans["experts"].flops
    assert router_share == pytest.approx(IMAGES.router_share, abs=0.005)
    assert plans["experts"].clips <= plans["monolith"].clips
    assert plans["triple"].clips == plans["monolith"].clips
    sizes = {arm: plan.describe()["parameters"] for arm, plan in plans.items()}
    shares = {arm: size / sizes["monolith"] for arm, size in sizes.items()}
    assert shares["triple"] == pytest.approx(3, rel=0.1)
    assert shares["total"] == pytest.approx(10, rel=0.1)
    assert shares["told"] == 1


def test_a_seed_models_steps_count_for_every_arm() -> None:
    clips = about(3, LatentShape(channels=8, frames=8, height=8, width=8))
    setting = Setting(CLIPS, clips, 21_000, 96)
    seed, rest = seed_plan(setting), plan_of(setting, "monolith")
    assert seed.clips + rest.clips == 4 * 21_000
    assert seed.steps == pytest.approx(0.3 * (seed.steps + rest.steps), abs=1)


def test_a_pass_goes_through_every_clip_once() -> None:
    rows = torch.arange(10, 17)
    order = passes(rows, 21, rng_at("cpu", "order"))
    assert order.bincount().tolist() == [0] * 10 + [3] * 7
    assert order[:7].tolist() != order[7:14].tolist()


def test_a_told_model_keeps_the_cluster_where_the_caption_is_dropped(place: Place) -> None:
    at = opened(place)
    rows = torch.arange(4)
    uniforms = torch.zeros(4, 4, dtype=torch.float64)  # every caption is dropped
    batch = at.material.batch(rows, torch.zeros(4, *at.made.latents.shape[1:]), uniforms[:, 0], uniforms)
    dropped = told_batch(batch, at.material, caption_dropout=0.1)
    assert dropped.mask.tolist() == [[False, False, False, True]] * 4
    assert torch.equal(dropped.tokens[:, -1], at.material.names[at.material.cluster[rows]])
    assert told_batch(batch, at.material, caption_dropout=0.0).mask[0].tolist() == [True, True, False, True]


def test_a_told_model_is_asked_for_a_cluster_as_an_expert_is(place: Place) -> None:
    at = opened(place)
    arm, shape = at.arm("told", 1), at.made.latents.shape[1:]
    x, t = torch.randn(2, *shape), torch.full((2,), 0.5)
    condition = at.material.condition(torch.tensor([0, 1]))
    assert isinstance(arm.pool, ToldPool)
    first, second = (arm.pool.velocity(k, x, t, condition) for k in (0, 1))
    known = told(condition, at.material.names[1].expand(2, -1))
    assert torch.equal(second, arm.pool.pool.velocity(0, x, t, known))
    assert not torch.equal(first, second)


def test_random_parts_have_whole_sources_and_the_clusters_sizes(place: Place) -> None:
    at = opened(place)
    parts, sources = at.parts("random", 1), at.made.source[at.train_rows].numpy()
    clusters = np.bincount(at.parts("experts", 1))
    assert np.abs(np.bincount(parts) - clusters).max() <= 2
    assert all(len(set(parts[sources == source])) == 1 for source in set(sources))
    assert (parts == at.parts("experts", 1)).mean() < 0.7
    rows = at.rows_of("random", "expert-1", 1)
    assert set(rows.tolist()) <= set(at.made.rows(TRAIN).tolist())


def test_every_arm_begins_a_caption_with_the_same_noise_and_is_repeatable(place: Place) -> None:
    at, seen = opened(place), []

    class Still:
        def velocity(self, k: int, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
            return torch.zeros_like(x)

    rows = torch.arange(5)
    for name in ("monolith", "experts", "random"):
        arm = replace(at.arm(name, 1), pool=Still())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Opened, "arm", lambda self, name, seed, arm=arm: arm)
            seen.append(sampled(at, at.stage.main_way(name), 1, 1.5, rows, "test"))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    way = Way("experts", "kept", at.stage.main_way("experts").routing)
    again = [sampled(at, way, 1, 1.5, rows, "test") for _ in range(2)]
    assert torch.equal(*again)


def test_one_network_has_no_choice_and_random_parts_have_their_shares(place: Place) -> None:
    at, uniforms = opened(place), torch.rand(400, dtype=torch.float64, generator=rng_at("cpu", "shares"))
    one = at.arm("monolith", 1).routed(None, uniforms)
    assert isinstance(one, ByPrior)
    assert one.weights.tolist() == [[1.0]] * 400
    arm = at.arm("random", 1)
    drawn = arm.routed(at.stage.main_way("random").routing, uniforms)
    assert isinstance(drawn, ByPrior)
    assert (drawn.weights.mean(0) - arm.prior).abs().max() < 0.08


def test_a_played_stage_is_not_played_again_and_names_its_protocol(place: Place) -> None:
    names = [task.name for group in tasks_of(LEAST, 3) for task in group]
    assert len(set(names)) == len(names)
    found = json.loads(place.result("sample-1-experts-kept").read_text())
    assert len(found["protocol_sha256"]) == len(found["set_sha256"]) == 64
    assert found["clips"] == 40
    said: list[str] = []
    assert run_stage(place, at_once=1, told=said.append) == 0
    assert said == []


def test_a_task_that_fails_keeps_no_other_from_being_done(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(at: Opened, *arguments: object) -> dict[str, object]:
        raise ValueError("broken on purpose")

    monkeypatch.setitem(WORK, "looked", broken)
    (rate,), (looked, _), *_ = tasks_of(LEAST, 3)
    monkeypatch.setattr(product_jobs, "tasks_of", lambda stage, clusters: [[looked], [rate]])
    said: list[str] = []
    other = replace(place, results=tmp_path)
    assert run_stage(other, at_once=1, told=said.append) == 1
    assert "broken on purpose" in said[0]
    assert other.result("rate-seed-0.004").exists()


def test_only_what_judges_waits_for_looking(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained, ended = threading.Event(), []

    def do(place: Place, task: Task, commit: str) -> str:
        if task.kind == "train":
            trained.set()
        found = task.kind != "looked" or trained.wait(10)
        ended.append(task.kind)
        return f"{task.name} {found}"

    groups = [[Task("looked", "looked")], [Task("t", "train")], [Task("s", "sample"), Task("l", "losses")]]
    monkeypatch.setattr(product_jobs, "tasks_of", lambda stage, clusters: groups)
    monkeypatch.setattr(product_jobs, "ProcessPoolExecutor", lambda count, **_: ThreadPoolExecutor(count))
    monkeypatch.setattr(product_jobs, "do", do)
    said: list[str] = []
    assert run_stage(replace(place, results=tmp_path), at_once=2, told=said.append) == 0
    assert ended[:2] == ["train", "looked"]
    assert sorted(ended[2:]) == ["losses", "sample"]
    assert "looked True" in said


@pytest.mark.parametrize("stage", PRODUCT_STAGES.values(), ids=list(PRODUCT_STAGES))
def test_no_two_ways_of_a_stage_are_one_job(stage: product_stages.ProductStage) -> None:
    names = [task.name for group in tasks_of(stage, 3) for task in group]
    assert len(set(names)) == len(names)
    for way in stage.ways:
        assert stage.way(way.title, way.guidance) is way


def test_each_seed_of_a_stage_may_have_a_set_of_its_own() -> None:
    assert [CLIPS.set_name(seed) for seed in (0, *CLIPS.seeds)] == [
        "clips-0",
        "clips-0",
        "clips-1",
        "clips-2",
    ]
    assert {IMAGES.set_name(seed) for seed in (0, *IMAGES.seeds)} == {"images"}
    tasks = [task for group in tasks_of(CLIPS, 3) for task in group]
    names = {task.name for task in tasks}
    assert {
        "looked-1",
        "looked-3",
        "floors-2",
        "sample-1-experts-full",
        "sample-3-experts-kept-at-7.5",
    } <= names
    assert not names & {"looked", "floors", "sample-2-experts-full", "sample-3-told-kept-at-7.5"}
    elsewhere = Place("clips", Path("clips-1"), Path("results"), Path("work"))
    second = open_tasks(elsewhere, tasks, [2])
    assert {task.arguments[0] for task in second} == {2}  # what is tried once is tried with the first seed
    assert {task.kind for task in open_tasks(elsewhere, tasks, [1])} >= {
        "rate",
        "guidance",
        "looked",
        "floors",
    }


def test_the_first_of_a_sets_clips_are_of_every_kind(place: Place) -> None:
    at = opened(place)
    shown = at.made.world[torch.from_numpy(at.judge.test_rows)]
    assert set(shown[:12].tolist()) == set(at.made.world[at.validation_rows][:12].tolist()) == {0, 1, 2}
    order = torch.argsort(torch.from_numpy(at.judge.test_rows)).numpy()
    assert np.array_equal(at.judge.real("raw")["tiny"][order], at.made.real["raw/tiny"])


def test_losses_are_differences_on_the_same_clips(place: Place) -> None:
    found = place.values("losses-1")["losses"]
    assert found["monolith"]["over"] == 0
    assert {"experts told", "experts top-1", "experts full", "told full", "random full"} <= set(found)
    one, other = torch.rand(10, 50), torch.rand(1, 50)
    made = summed_up({"monolith": one, "other": one + other})
    assert made["other"]["over"] == pytest.approx(float(other.mean()), rel=1e-4)
    assert made["other"]["over_error"] < 0.06


def test_the_width_is_the_largest_at_which_size_still_limits_one_model(tmp_path: Path) -> None:
    place = Place("images", tmp_path, tmp_path, tmp_path)
    stage = replace(IMAGES, widths=(16, 32, 64))
    for width, gain in ((16, 0.3), (32, 0.2), (64, 0.1)):
        for times, loss in ((1, 1.0), (3, 1 - gain)):
            path = place.result(f"pilot-{width}-{times}")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"loss": loss}))
    assert chosen_width(stage, place) == 32
    assert chosen_width(replace(stage, enough=0.5), place) == 16
    assert chosen_width(replace(stage, widths=(64,)), place) == 64


def test_a_rate_at_which_training_diverged_is_not_chosen() -> None:
    tried = {
        1e-3: [{"loss": 0.9, "judged": 10}, {"loss": 0.5, "judged": 30}],  # 0.6
        2e-3: [{"loss": 0.7, "judged": 10}, {"loss": 0.6, "judged": 30}],
        4e-3: [{"loss": 0.1, "judged": 10}, {"loss": None, "judged": 30}],
    }
    assert best_rate(tried) == 1e-3
    with pytest.raises(UsageError, match="diverged at every rate"):
        best_rate({4e-3: tried[4e-3]})


def test_components_of_both_sides_see_what_only_generated_clips_do() -> None:
    rng = np.random.default_rng(0)
    real, made = (rng.standard_normal((300, 6)) * [3, 2, 1, 0.1, 0.1, 0.1] for _ in range(2))
    made[:, 5] += 4 * rng.standard_normal(300)  # where no real clip goes
    project = joint_components(real, made, 3)
    assert frechet_distance(project(real), project(made)) > 10
    assert frechet_distance(real, made, components=3) < 1
    assert np.allclose(project.axes.T @ project.axes, np.eye(3))
    with pytest.raises(UsageError, match="choose fewer"):
        joint_components(real, made, 7)


def test_operations_are_counted_where_gradients_are_off_too() -> None:
    setting = Setting(IMAGES, about(3, LatentShape(channels=5, frames=1, height=4, width=4)), 900, 8)
    config = setting.expert(8)
    with torch.no_grad():
        counted = setting.flops(config)
    assert counted > 2 * setting.flops({**config, "depth": 1}) > 0


def test_a_report_says_what_its_files_say(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played("least", place.results)
    text = "\n".join(product_report(played))
    kept, one = (place.values(f"sample-1-{name}")["tiny"]["frechet"] for name in ("experts-kept", "monolith"))
    ratio = played.ratio(LEAST.main_way("monolith"), "tiny", "frechet")
    assert ratio is not None
    assert ratio.mean == pytest.approx(one / kept)
    assert f"| monolith | {one / kept:.2f}" in text
    assert "too few seeds" in text
    top_1 = place.values("sample-1-experts-top-1")["tiny"]["frechet"]
    assert f"| kept | {kept / top_1:.2f} (" in text.partition("Routings over")[2]
    with pytest.raises(UsageError, match="has no samples yet"):
        Played("least", place.work)


def test_ways_are_put_side_by_side_and_one_without_pictures_is_named(place: Place, tmp_path: Path) -> None:
    folder = place.work / "least" / PICTURES
    out = put_side_by_side(LEAST, folder, ["monolith", "experts kept"], 20, tmp_path / "sheet.jpg")
    with Image.open(out) as sheet, Image.open(folder / "monolith 0.png") as one:
        assert sheet.size == (3 * one.width + 2 * 8, 20 + 16)
    with pytest.raises(UsageError, match=r"real through the codec\.png is not there"):
        put_side_by_side(LEAST, tmp_path, ["told kept"], 20, out)


def test_a_verdict_needs_three_seeds_and_distances_that_agree() -> None:
    pays, loses = Ratio((1.5, 1.6, 1.55)), Ratio((0.8, 0.82, 0.81))
    level = Ratio((0.99, 1.02, 1.0))
    assert product_verdict([pays, pays]) == "pay"
    assert product_verdict([loses]) == "lose"
    assert product_verdict([level, level]) == "level"
    assert product_verdict([pays, level]) == "undecided"
    assert product_verdict([Ratio((1.5, 1.6))]) == "too few seeds"
