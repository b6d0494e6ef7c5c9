"""What router and experts know of held-out clips is asked at the right times, and of the right videos."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.device import pick_device
from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.held_out import Held
from paris_p2p.evaluation.inspect import Inspection, inspect
from paris_p2p.evaluation.opened_model import open_model
from paris_p2p.evaluation.parts import Parts
from paris_p2p.evaluation.scorecard import score_router, specialisation_of
from paris_p2p.flow.path import shifted
from paris_p2p.model.calibration import Calibration
from paris_p2p.score.intervals import Plan
from tests.evaluation.world import OPTIONS, PLAN, World


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


def test_router_and_specialisation_are_what_was_seen():
    beliefs = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.8], [0.7, 0.3]]])
    losses = np.array([[1.0, 3.0], [4.0, 2.0]])
    seen = Inspection(np.array([0, 1]), np.array(["a", "b"]), np.array([0.75, 0.25]), beliefs, losses, (0, 1))
    router = score_router(seen, PLAN)
    assert router is not None
    assert [accuracy.value for accuracy in router.accuracy] == [1.0, 0.5]
    assert [entropy.value for entropy in router.cross_entropy] == pytest.approx(
        [-(np.log(0.9) + np.log(0.8)) / 2, -(np.log(0.6) + np.log(0.3)) / 2]
    )
    assert router.confusion.tolist() == [[2, 0], [1, 1]]
    clusters, means = specialisation_of(seen, PLAN)
    assert clusters == [0, 1]
    assert [[cell.value for cell in row] for row in means] == [[1.0, 4.0], [3.0, 2.0]]


def test_a_calibrated_router_is_shown_as_it_is_and_as_it_was(world: World):
    held = Held(world.data, Prepared.load(world.data), "test", 0)
    model = open_model(world.model, OPTIONS, pick_device("cpu"))
    assert model.router is not None
    before = inspect(model, held, Parts(world.folder / "as-it-was", 8), lambda *_: None)
    assert before.plain is None
    model.router.calibrate(Calibration((1.0,) * 8 + (0.0,)))
    after = inspect(model, held, Parts(world.folder / "calibrated", 8), lambda *_: None)
    assert before.beliefs is not None
    assert after.beliefs is not None
    assert after.t[0] == 1
    np.testing.assert_array_equal(after.plain, before.beliefs)
    np.testing.assert_array_equal(after.beliefs[:, 2:], before.beliefs[:, 2:])  # t below 7/8
    assert not np.allclose(after.beliefs[:, 0], before.beliefs[:, 0], rtol=1e-4)
    assert model.router.calibration is not None
