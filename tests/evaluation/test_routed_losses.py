"""A model is judged by the loss of the flow that samples follow, beside the one of experts that are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.inspect import Inspection
from paris_p2p.evaluation.routed_losses import mixture_losses, told_losses
from paris_p2p.evaluation.scorecard import mix_of, routed_loss
from paris_p2p.score.fidelity import fit_probe
from paris_p2p.score.intervals import Clips
from tests.evaluation.world import PLAN


def test_a_mixture_is_as_good_as_its_router_and_a_sure_one_is_its_expert() -> None:
    target = torch.zeros(2, 3)
    said = torch.stack([torch.ones(2, 3), -torch.ones(2, 3)], 1)  # both wrong by 1, to either side
    even = mixture_losses(said, torch.zeros(2, 2), target)
    assert even["full"].tolist() == [0, 0]  # their mean is right
    assert even["top_1"].tolist() == [1, 1]
    sure = mixture_losses(said, torch.tensor([[50.0, 0.0], [0.0, 50.0]]), target)
    torch.testing.assert_close(sure["full"], sure["top_1"])


def test_a_clip_is_told_to_the_expert_of_its_cluster_and_not_where_one_is_missing() -> None:
    losses = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert told_losses((0, 2), np.array([2, 0]), losses)["told"].tolist() == [2.0, 3.0]
    assert told_losses((0, 1), np.array([2, 0]), losses) == {}


def test_models_are_compared_clip_by_clip_only_where_they_were_asked_the_same() -> None:
    base = np.array([1.0, 2.0, 3.0, 4.0])
    at, sources = np.array([0.1, 0.2, 0.3, 0.4]), np.array(list("abcd"))
    seen = Inspection(
        np.zeros(4, int), sources, at[:1], None, base[:, None], (0,), routed={"full": base - 0.5}, at=at
    )
    other = replace(seen, routed={"full": base})
    over = routed_loss(seen, other, PLAN).over["full"]
    assert (over.value, over.low, over.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert routed_loss(seen, replace(other, at=at + 0.1), PLAN).over == {}
    assert routed_loss(seen, None, PLAN).over == {}


def test_the_report_has_losses_through_the_router_and_a_twin_is_no_better(report: Path, evidence: Evidence):
    models = json.loads((report / "results.json").read_text())["models"]
    losses, over = (models["experts"]["held_out_loss"][name] for name in ("losses", "over"))
    assert set(losses) == {"told", "top_1", "full"}
    assert over["full"]["value"] == 0  # the baseline is the same model
    assert models["baseline"]["held_out_loss"]["over"] == {}
    seen = evidence.models[0].inspection
    assert seen is not None
    # of one expert alone, the one most probable for a clip
    best = np.abs(seen.losses - seen.routed["top_1"][:, None]).min(1)
    np.testing.assert_allclose(best, 0, atol=1e-5)
    page = (report / "report.html").read_text()
    assert "Held-out loss, told and through the router" in page
    assert "Distances with the mix put right" in page


def test_too_many_of_one_kind_are_seen_and_put_right() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1], 40)

    def clips(which: np.ndarray) -> Clips:
        features = rng.normal(size=(len(which), 2)) * 0.1 + which[:, None] * 4.0
        return Clips(features, np.arange(len(which)))

    probe = fit_probe("cluster", "X", clips(kinds), [f"cluster {kind}" for kind in kinds], PLAN)
    skewed = np.repeat([0, 0, 0, 1], 20)
    mix = mix_of(probe, "X", {"X": clips(kinds)}, {"X": clips(skewed)})
    assert mix.real.tolist() == [0.5, 0.5]
    assert mix.generated.tolist() == [0.75, 0.25]
    raw, right, kernel, kernel_right = mix.distances["X"]
    assert right < 0.05 * raw
    assert kernel_right < 0.05 * kernel
