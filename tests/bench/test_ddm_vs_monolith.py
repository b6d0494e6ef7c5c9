"""What the comparison matches is matched, and a job that was broken off ends where it would have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from bench.ddm_vs_monolith import results
from bench.ddm_vs_monolith.arms import Plan, plan, run_of
from bench.ddm_vs_monolith.data import Bench, HeldOut, sizes
from bench.ddm_vs_monolith.dealing import deal_groups
from bench.ddm_vs_monolith.features_job import BASIS_FILE, save_basis, trial_file
from bench.ddm_vs_monolith.jobs import best, graph, ready
from bench.ddm_vs_monolith.networks_job import describe, networks_job, posterior
from bench.ddm_vs_monolith.routed_losses import PREFIX
from bench.ddm_vs_monolith.runner import needed
from bench.ddm_vs_monolith.sample_job import Chooser, inference_flops, sample_job, spread
from bench.ddm_vs_monolith.settings import CORE, FULL, SCALES, Sampling
from bench.ddm_vs_monolith.train_job import (
    Validation,
    Watch,
    plan_of,
    slot_folder,
    train_job,
    train_slot,
    weights_path,
)
from paris_p2p.errors import UsageError
from paris_p2p.model.presets import router_config
from paris_p2p.model.router import Router
from paris_p2p.spec import LatentShape, TextShape
from paris_p2p.training.messages import CheckpointReady, Event
from tests.bench.made_bench import COUNTS, EXPERTS, SCALE, made_bench

LATENT, TEXT = (
    LatentShape(channels=16, frames=8, height=8, width=8),
    TextShape(tokens=20, dim=384, pooled_dim=384),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.set_num_threads(1)
    return made_bench(tmp_path_factory.mktemp("bench"))


def core(name: str) -> Plan:
    return plan(FULL, FULL.arm(name), LATENT, TEXT)


def test_every_job_waits_only_for_jobs_that_come_before_it():
    for scale in SCALES.values():
        seen: set[str] = set()
        for job in graph(scale):
            assert set(job.after) <= seen | {"test"}
            seen.add(job.name)
        assert all(set(job.after) <= seen for job in graph(scale))


def test_working_off_what_is_ready_does_every_job_once():
    done: list[str] = []
    jobs = graph(CORE)
    while todo := ready(jobs, set(done), set(), set()):
        done.append(todo[0].name)
    assert sorted(done) == sorted(job.name for job in jobs)


def test_nothing_starts_behind_a_job_that_failed():
    assert [job.name for job in ready(graph(CORE), set(), set(), {"data"})] == []


def test_only_what_a_job_waits_for_is_run_for_it():
    names = [job.name for job in needed(graph(CORE), "networks/monolith/")]
    assert names[-1] == "networks/monolith/0"
    assert not any("experts" in name for name in names)


def test_all_arms_cost_what_the_monolith_costs():
    budget = core("monolith").flops
    for name in ("experts", "monolith-total", "random", "experts-fewer-steps"):
        arm = core(name)
        assert 0 <= budget - arm.flops <= arm.flops / arm.steps  # less than one more step


def test_experts_share_the_monoliths_batch_and_the_router_comes_out_of_their_steps():
    experts, monolith = core("experts"), core("monolith")
    assert experts.experts * experts.batch_clips == monolith.batch_clips
    assert experts.router_share == pytest.approx(FULL.router_share, abs=0.004)
    assert experts.steps == pytest.approx(monolith.steps * (1 - experts.router_share), abs=1)


def test_the_other_split_gives_an_expert_a_kth_of_the_steps_at_the_full_batch():
    fewer, monolith = core("experts-fewer-steps"), core("monolith")
    assert fewer.batch_clips == monolith.batch_clips
    assert fewer.steps == pytest.approx(monolith.steps * (1 - fewer.router_share) / fewer.experts, abs=1)


def test_the_large_monolith_has_the_experts_parameters_and_as_many_clips_where_those_are_matched():
    total = core("monolith-total-clips")
    assert total.expert_parameters == pytest.approx(FULL.experts * core("experts").expert_parameters, rel=0.1)
    assert total.clips == core("monolith").clips


def test_the_random_partition_costs_what_the_clusters_cost():
    assert core("random").flops == core("experts").flops


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(UsageError, match="multiple"):
        plan(CORE.model_copy(update={"batch_clips": 50}), CORE.arm("experts"), LATENT, TEXT)


def test_dealing_keeps_groups_whole_and_sizes_near_the_wanted_ones():
    groups = [f"video {number // 5}" for number in range(300)]
    part = deal_groups(groups, [150, 100, 50], np.random.default_rng(0))
    assert all(len({part[i] for i in range(300) if groups[i] == name}) == 1 for name in set(groups))
    assert np.abs(np.bincount(part) - [150, 100, 50]).max() <= 5


def test_the_random_partition_has_the_clusters_sizes_and_the_same_clips(bench):
    assert np.abs(np.array(sizes(bench, "random")) - sizes(bench, "clusters")).max() <= 10
    assert sum(sizes(bench, "random")) == sum(sizes(bench, "union")) == COUNTS["train"]


def test_held_out_clips_are_in_shard_order(bench):
    held = HeldOut(bench, "validation")
    assert [held.set.caption(row) for row in range(len(held.set))] == [clip.caption for clip in held.clips]
    assert held.clusters(range(len(held.clips))) == [held.set.cluster(row) for row in range(len(held.set))]


def test_the_test_split_opens_under_the_recorded_protocol_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PROTOCOL", tmp_path / "PROTOCOL.md")
    monkeypatch.setattr(results, "RECORDED", tmp_path / "PROTOCOL.sha256")
    results.PROTOCOL.write_text("what will be measured")
    with pytest.raises(UsageError, match="stays closed"):
        results.require_protocol()
    results.record_protocol()
    results.require_protocol()
    results.PROTOCOL.write_text("what came out best")
    with pytest.raises(UsageError, match="stays closed"):
        results.require_protocol()


def test_the_protocol_in_the_repository_is_the_recorded_one():
    results.require_protocol()


def test_a_training_job_that_was_broken_off_ends_in_the_same_weights(bench, tmp_path, monkeypatch):
    arm = plan_of(bench, "experts")
    run = run_of(bench, arm, 0, 1e-3, arm.steps)
    whole = train_slot(bench, arm, run, "expert-1", tmp_path / "whole")
    emit = Watch.emit

    def broken(watch: Watch, event: Event) -> None:
        emit(watch, event)
        if isinstance(event, CheckpointReady) and len(watch.curve) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "emit", broken)
        with pytest.raises(KeyboardInterrupt):
            train_slot(bench, arm, run, "expert-1", tmp_path / "broken")
    resumed = train_slot(bench, arm, run, "expert-1", tmp_path / "broken")
    assert weights_path(tmp_path / "broken").read_bytes() == weights_path(tmp_path / "whole").read_bytes()
    assert [row["loss"] for row in resumed["curve"]] == [row["loss"] for row in whole["curve"]]


def test_two_jobs_end_to_end_train_a_network_and_measure_its_clips(bench):
    trained = train_job(bench, "monolith", 0, "expert-0", 2e-3)
    assert trained["curve"][-1]["steps"] == SCALE.steps
    assert weights_path(slot_folder(bench, "monolith", 0, "expert-0")).exists()
    save_file(
        {"mean/efficientnet-lite0": np.zeros(1280), "axes/efficientnet-lite0": np.eye(1280)[:, :4].copy()},
        bench.work / BASIS_FILE,
    )
    values, arrays = sample_job(bench, "monolith", 0, "one", 2.0)
    assert arrays["features.efficientnet-lite0"].shape == (SCALE.test_clips, 4)
    assert arrays["pictures"].shape == (SCALE.kept_clips, 4, 32, 32, 3)
    assert (
        values["flops_per_clip"] == 2 * SCALE.sampling_steps * plan_of(bench, "monolith").expert_forward_flops
    )


def test_an_arm_is_measured_told_and_as_samples_are_routed(bench):
    for slot in ("expert-0", "expert-1", "expert-2", "router"):
        trained = train_job(bench, "experts", 0, slot, 2e-3)
        bench.results.write(f"train/experts/0/{slot}", trained, results.Clock())
    values, arrays = networks_job(bench, "experts", 0)
    assert set(values["routed"]["by_time"]) == {"told", "top-1", "full"}
    for name, by_time in values["routed"]["by_time"].items():
        losses = arrays[f"{PREFIX}{name}"]
        assert losses.shape == (len(values["routed"]["times"]), SCALE.validation_clips)
        np.testing.assert_allclose(losses.astype(float).mean(1), by_time, rtol=1e-2)
    told, routed = (arrays[f"{PREFIX}{name}"] for name in ("told", "top-1"))
    assert (told != routed).any()  # a router of eight steps is not always right


def test_components_see_what_generated_clips_alone_do_and_need_the_trials(bench, tmp_path):
    some = replace(bench, work=tmp_path)
    rng = np.random.default_rng(0)
    real = rng.normal(size=(12, 1280)) * (np.arange(1280) < 3)
    with pytest.raises(UsageError, match="delete the results of guidance/"):
        save_basis(some, {"efficientnet-lite0": real})
    made = rng.normal(size=(12, 1280)) * (np.arange(1280) == 7)  # odd in a way that no real clip is
    for arm in SCALE.arms:
        for guidance in SCALE.guidances:
            path = trial_file(some, arm.name, guidance)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"efficientnet-lite0": made}, path)
    save_basis(some, {"efficientnet-lite0": real})
    axes = load_file(tmp_path / BASIS_FILE)["axes/efficientnet-lite0"]
    assert np.linalg.norm(axes[7]) > 0.99


def test_pictures_are_kept_where_arms_are_compared_and_not_of_sweeps_or_other_seeds():
    assert FULL.is_pictured(FULL.sampling("experts", "top-1"), 0)
    assert not FULL.is_pictured(FULL.sampling("experts", "top-1"), 1)
    assert not FULL.is_pictured(FULL.sampling("experts", "top-1-guidance-7.5"), 0)


def test_a_result_is_read_as_it_was_written(bench):
    bench.results.write(
        "sample/x/0/y", {"value": 1 / 3, "list": np.arange(3)}, results.Clock(), {"a": np.ones(2, np.float16)}
    )
    assert bench.results.values("sample/x/0/y") == {"value": 0.333333, "list": [0, 1, 2]}
    assert bench.results.arrays("sample/x/0/y")["a"].dtype == np.float16


def test_the_prior_weighs_experts_by_their_parts_and_the_oracle_follows_the_clusters():
    x, t = torch.zeros(2, 1), torch.zeros(2)
    prior = torch.tensor([0.5, 0.3, 0.2])
    weights = Chooser(
        Sampling(arm="random", name="uniform", routing="prior"), None, prior, torch.tensor([0, 2])
    )(x, t, None)
    torch.testing.assert_close(weights, prior.expand(2, -1))
    oracle = Chooser(
        Sampling(arm="experts", name="oracle", routing="oracle"), None, prior, torch.tensor([0, 2])
    )(x, t, None)
    assert oracle.argmax(1).tolist() == [0, 2]


def test_a_router_with_text_alone_is_asked_as_it_was_trained(bench):
    """In training the time goes with the latent: what is asked at a time it never saw with text alone
    would be noise.
    """
    torch.manual_seed(0)
    router = Router(**router_config("nano", bench.prepared.latent, bench.prepared.text_shape, EXPERTS))
    for weight in router.parameters():
        torch.nn.init.normal_(weight, std=0.1)  # a new router's answers depend on nothing
    batch = Validation.batch_of(bench)
    pooled = batch.pooled.float()
    with torch.no_grad():
        expected = router(None, None, pooled).softmax(1)
        assert not torch.allclose(
            router(None, torch.full((len(batch),), 0.8), pooled).softmax(1), expected, atol=1e-3
        )
    for t in (1.0, 0.8):
        assert np.allclose(posterior(router, batch, t, latent=False, text=True), expected.numpy(), atol=1e-6)
    chooser = Chooser(
        Sampling(arm="experts", name="text-only", routing="full", inputs="text"),
        router,
        torch.ones(EXPERTS),
        torch.zeros(0),
    )
    assert torch.allclose(
        chooser(batch.latent.float(), torch.full((len(batch),), 0.8), pooled), expected, atol=1e-5
    )


def test_trial_clips_are_of_every_cluster(bench):
    held = HeldOut(bench, "validation")
    rows = held.pick(bench.scale.validation_clips)
    for count in (len(rows) - 1, EXPERTS, len(rows) + 5):
        some = spread(rows, count)
        assert len(set(some)) == min(count, len(rows))
        assert set(held.clusters(some)) == set(range(EXPERTS))


def test_guidance_doubles_what_a_step_costs():
    one, chosen = core("monolith"), np.ones((4, 10, 1), np.float32)
    sampling = CORE.sampling("monolith", "one")
    assert inference_flops(one, sampling, 2.0, chosen) == 2 * inference_flops(one, sampling, 1.0, chosen)


def test_a_router_that_is_sure_and_right_is_calibrated():
    cluster = np.arange(12) % EXPERTS
    right = describe(np.eye(EXPERTS)[cluster][None], cluster)
    assert right["calibration_error"] == pytest.approx(0)
    assert np.array_equal(right["confusion"], np.eye(EXPERTS))
    wrong = describe(np.eye(EXPERTS)[(cluster + 1) % EXPERTS][None], cluster)
    assert wrong["calibration_error"] == pytest.approx(1)


def test_the_least_loss_is_chosen():
    assert best({1e-3: 0.5, 2e-3: 0.4, 4e-3: 0.6}) == 2e-3


def test_results_are_where_the_job_says(tmp_path: Path):
    assert (
        results.Results(tmp_path).path("train/experts/0/router", "json").name == "train.experts.0.router.json"
    )
