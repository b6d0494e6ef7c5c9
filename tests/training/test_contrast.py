"""Tests contrastive flow matching: whose target a clip is kept away from, by how much, and that no
micro-batch, router or expert on noise changes by it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.device import pick_device
from paris_p2p.flow.path import velocity
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.contrast import contrast_of, contrasted_losses
from paris_p2p.training.learner import Learner
from paris_p2p.training.objective import CAPTION_DRAW, build_network, open_clips, train_losses
from tests.made.tiny_run import TRAINING, TinyRun

CPU = replace(pick_device("cpu"), bf16=False)


def with_option(tiny: TinyRun, contrastive: float = 0.1, **more: object) -> RunSpec:
    training = TRAINING.model_copy(update={"contrastive": contrastive, **more})
    return tiny.spec.model_copy(update={"training": training})


def batch_of(tiny: TinyRun, captions: list[int], dropped: tuple[int, ...] = ()) -> Batch:
    """Returns a batch of expert-1 whose clips have these captions, some of them dropped."""
    clips, draws = open_clips(tiny.train_job(), tiny.spec), Draws.of(tiny.run, "expert-1")
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, len(captions))
    uniforms = batch.uniforms.clone()
    uniforms[:, CAPTION_DRAW] = 1.0
    uniforms[list(dropped), CAPTION_DRAW] = 0.0
    pooled = torch.zeros_like(batch.pooled)
    pooled[:, 0] = torch.tensor(captions)
    return replace(batch, pooled=pooled, uniforms=uniforms)


def test_a_clip_is_kept_away_from_the_next_one_with_another_caption(tiny: TinyRun) -> None:
    batch = batch_of(tiny, [1, 1, 2, 3, 1], dropped=(3,))
    contrast = contrast_of(with_option(tiny), "expert-1", batch)
    assert contrast is not None
    targets = velocity(batch.latent.float(), batch.noise)
    assert torch.equal(contrast.targets, targets[[2, 2, 3, 4, 2]])
    assert contrast.counts.tolist() == [True, True, True, False, True]


def test_where_all_captions_are_alike_there_is_nothing_to_keep_away_from(tiny: TinyRun) -> None:
    contrast = contrast_of(with_option(tiny), "expert-1", batch_of(tiny, [4, 4, 4]))
    assert contrast is not None
    assert not contrast.counts.any()


def test_the_loss_is_less_by_the_share_of_the_distance_and_the_plain_one_is_told(tiny: TinyRun) -> None:
    batch, spec = batch_of(tiny, [1, 2, 3], dropped=(1,)), with_option(tiny)
    network = build_network(tiny.run, spec, "expert-1")  # its answer is zero at the start
    contrast = contrast_of(spec, "expert-1", batch)
    assert contrast is not None
    losses, plain = contrasted_losses(spec, "expert-1", network, batch, contrast)
    squares = velocity(batch.latent.float(), batch.noise).square().flatten(1).mean(1)
    assert torch.allclose(plain, squares)
    assert torch.allclose(losses, squares - 0.1 * torch.stack([squares[1], torch.zeros(()), squares[0]]))
    assert torch.equal(train_losses(spec, "expert-1", network, batch), plain)


def test_the_micro_batch_does_not_change_the_maths(tiny: TinyRun) -> None:
    batch, spec, moments, losses = batch_of(tiny, [1, 1, 2, 3]), with_option(tiny), [], []
    for micro in (4, 3, 1):
        learner = Learner(tiny.run, spec, "expert-1", CPU)
        learner.micro_batch_clips = micro
        losses.append([learner.step(batch) for _ in range(3)])
        moments.append(learner.state().exp_avg)
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0])
        for name, moment in moments[0].items():
            assert torch.allclose(moment, moments[other][name], rtol=1e-3, atol=2e-7), name
    plain = Learner(tiny.run, tiny.spec, "expert-1", CPU)
    for _ in range(3):
        plain.step(batch)
    assert not torch.equal(plain.weights["out.bias"], learner.weights["out.bias"])


def test_routers_and_experts_on_noise_are_trained_as_without_it(tiny: TinyRun) -> None:
    batch = batch_of(tiny, [1, 2, 3])
    assert contrast_of(with_option(tiny), ROUTER, batch) is None
    assert contrast_of(with_option(tiny, ddpm_experts=(1,)), "expert-1", batch) is None
    assert contrast_of(tiny.spec, "expert-1", batch) is None


def test_resuming_equals_not_stopping(tiny: TinyRun, tmp_path: Path) -> None:
    spec, batch = with_option(tiny), batch_of(tiny, [1, 2, 2, 3])
    straight, stopped, resumed = (Learner(tiny.run, spec, "expert-1", CPU) for _ in range(3))
    for _ in range(4):
        straight.step(batch)
    for _ in range(2):
        stopped.step(batch)
    _, path = stopped.write_checkpoint(tmp_path)
    resumed.restore(path, stopped.steps, stopped.clips)
    for _ in range(2):
        resumed.step(batch)
    for (name, one), (_, other) in zip(straight.state().tensors(), resumed.state().tensors(), strict=True):
        assert torch.equal(one, other), name
