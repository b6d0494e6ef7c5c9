"""The path between data and noise."""

import torch

from paris_p2p.flow.path import clip_losses, interpolate, logit_normal, velocity


def clip() -> torch.Tensor:
    return torch.randn(5, 3, 2, 4, 4, dtype=torch.float64)


def test_the_path_starts_at_the_data_and_ends_at_the_noise():
    x0, eps = clip(), clip()
    assert torch.equal(interpolate(x0, eps, torch.zeros(5)), x0)
    assert torch.equal(interpolate(x0, eps, torch.ones(5)), eps)


def test_the_velocity_target_is_the_paths_derivative():
    x0, eps, t = clip(), clip(), torch.rand(5, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda t: interpolate(x0, eps, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(velocity(x0, eps), derivative)


def test_logit_normal_times_have_the_stated_logits():
    normal = torch.randn(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = torch.logit(logit_normal(normal, -0.5, 1.5))
    assert abs(logits.mean() + 0.5) < 0.02
    assert abs(logits.std() - 1.5) < 0.02


def test_a_clips_loss_is_its_own_mean_square():
    v, target = clip(), clip()
    torch.testing.assert_close(clip_losses(v, target)[2], (v[2].float() - target[2].float()).pow(2).mean())
