"""Tests the path between data and noise."""

import math

import pytest
import torch

from paris_p2p.flow.path import (
    BASE_TOKENS,
    clip_losses,
    interpolate,
    logit_normal,
    shift_for,
    shifted,
    velocity,
)


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


def test_a_shift_multiplies_the_noise_to_data_ratio_and_keeps_both_ends():
    t = torch.rand(100, dtype=torch.float64)
    moved = shifted(t, 3.0)
    torch.testing.assert_close(moved / (1 - moved), 3 * t / (1 - t))
    torch.testing.assert_close(shifted(moved, 1 / 3), t)
    assert shifted(torch.tensor([0.0, 1.0]), 7.3).tolist() == [0, 1]
    assert torch.equal(shifted(t, 1.0), t)


def test_shifted_logit_normal_times_are_logit_normal_with_a_mean_higher_by_the_shifts_logarithm():
    normal = torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(
        shifted(logit_normal(normal, -0.5, 1.5), 2.5), logit_normal(normal, -0.5 + math.log(2.5), 1.5)
    )


def test_the_shift_makes_the_best_guess_of_a_flat_clip_as_uncertain_for_more_tokens():
    """Follows the derivation of section 5.3.2.

    n noisy places (1 - t) c + t eps give c with a deviation of t / (1 - t) / sqrt(n).
    """
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for times_more in (2, 16, 99):
        later = shifted(t, shift_for(BASE_TOKENS * times_more))
        deviation = later / (1 - later) / math.sqrt(BASE_TOKENS * times_more)
        torch.testing.assert_close(deviation, t / (1 - t) / math.sqrt(BASE_TOKENS))


@pytest.mark.parametrize(
    ("tokens", "shift"),
    [(1, 1.0), (128, 1.0), (256, 1.0), (1024, 2.0), (33 * 256, math.sqrt(33)), (4096, 4.0)],
)
def test_small_clips_are_not_shifted_and_larger_ones_by_the_root_of_their_tokens(tokens: int, shift: float):
    assert shift_for(tokens) == pytest.approx(shift, rel=1e-15)


def test_a_clips_loss_is_its_own_mean_square():
    v, target = clip(), clip()
    torch.testing.assert_close(clip_losses(v, target)[2], (v[2].float() - target[2].float()).pow(2).mean())
