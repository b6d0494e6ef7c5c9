"""Tests noise predictors as velocities."""

import math

import pytest
import torch
from torch import Tensor

from paris_p2p.flow.ddpm import (
    Clamp,
    cosine,
    cosine_time,
    diffuse,
    epsilon_velocity,
    flow_time,
    predicted_data,
    scales,
)
from paris_p2p.flow.path import interpolate, velocity
from paris_p2p.flow.sampler import sample, time_grid

TIMES = torch.tensor([1e-9, 1e-4, 0.02, 0.3, 0.5, 0.77, 0.98, 1 - 1e-4, 1 - 1e-9], dtype=torch.float64)
POINTS = torch.tensor([[-3.0, 1.0, 0.5], [2.0, 2.0, -1.0], [0.1, -0.4, 4.0]], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEAN, SPREAD = 1.5, 0.7


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1)


def expected_point(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns E[x0 | alpha x0 + sigma eps = x] when x0 is one of the POINTS: [B 3]."""
    squares = (x[:, None] - alpha[:, None, None] * POINTS).square().sum(2)
    return torch.softmax(SHARES.log() - squares / (2 * column(sigma) ** 2), 1) @ POINTS


def expected_gaussian(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns E[x0 | alpha x0 + sigma eps = x] when x0 is N(MEAN, SPREAD^2) everywhere: [B 3]."""
    alpha, sigma = column(alpha), column(sigma)
    return MEAN + alpha * SPREAD**2 * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)


EXPECTED = {"points": expected_point, "gaussian": expected_gaussian}


def noise_oracle(expected, x_s: Tensor, s: Tensor) -> Tensor:
    """Returns E[eps | x_s] on the cosine schedule; knows nothing of t."""
    alpha, sigma = cosine(s)
    return (x_s - column(alpha) * expected(x_s, alpha, sigma)) / column(sigma)


def true_velocity(expected, x_t: Tensor, t: Tensor) -> Tensor:
    """Returns E[eps - x0 | x_t] on the straight path, where eps - x0 = (x_t - x0) / t."""
    return (x_t - expected(x_t, 1 - t, t)) / column(t)


def test_the_schedule_keeps_variance_and_goes_from_data_to_noise():
    s = torch.linspace(0, 1, 1001, dtype=torch.float64)
    alpha, sigma = cosine(s)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(s), rtol=1e-14, atol=1e-14)
    assert (alpha[0], sigma[0]) == (1, 0)
    assert alpha[-1].abs() < 1e-15
    assert (alpha.diff() < 0).all()
    assert (sigma.diff()[:-1] > 0).all()


def test_the_schedule_is_equation_17():
    s = torch.linspace(0, 1, 21, dtype=torch.float64)
    published = torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(cosine(s)[0] ** 2, published)


def test_flow_time_to_schedule_time_is_the_schedules_exact_inverse():
    alpha, sigma = cosine(cosine_time(TIMES))
    wanted_alpha, wanted_sigma = scales(TIMES)
    torch.testing.assert_close(alpha, wanted_alpha, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(sigma, wanted_sigma, rtol=1e-13, atol=0)
    torch.testing.assert_close(sigma / alpha, TIMES / (1 - TIMES), rtol=1e-6, atol=0)
    assert cosine_time(torch.tensor([0.0, 1.0])).tolist() == [0, 1]
    assert (cosine_time(torch.linspace(0, 1, 1001)).diff() > 0).all()


def test_schedule_time_to_flow_time_and_back_is_the_same():
    s = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(cosine_time(flow_time(s)), s, rtol=1e-12, atol=1e-15)
    assert flow_time(s)[[0, -1]].tolist() == [0, pytest.approx(1, abs=1e-15)]


def test_a_noisy_clip_of_the_schedule_is_a_stretched_one_of_the_straight_path():
    x0, eps = torch.randn(2, len(TIMES), 3, 2, 4, 4, dtype=torch.float64)
    alpha, sigma = (scale.reshape(-1, 1, 1, 1, 1) for scale in scales(TIMES))
    torch.testing.assert_close(
        diffuse(x0, eps, cosine_time(TIMES)),
        (alpha + sigma) * interpolate(x0, eps, TIMES),
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_true_noise_gives_the_true_data_and_the_paths_velocity():
    x0, eps = torch.randn(2, 5, 3, 2, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    x_t = interpolate(x0, eps, t)
    torch.testing.assert_close(predicted_data(x_t, eps, t), x0)
    torch.testing.assert_close(epsilon_velocity(lambda x, s: eps, x_t, t), velocity(x0, eps))
    torch.testing.assert_close(epsilon_velocity(lambda x, s: eps, x_t, t, Clamp()), velocity(x0, eps))


@pytest.mark.parametrize("data", EXPECTED)
def test_an_exact_noise_oracle_gives_the_exact_velocity_at_every_time(data):
    expected, t = EXPECTED[data], torch.linspace(0, 1, 203, dtype=torch.float64)[1:-1]
    x_t = interpolate(POINTS[torch.randint(3, (len(t),))], torch.randn(len(t), 3, dtype=torch.float64), t)
    converted = epsilon_velocity(lambda x, s: noise_oracle(expected, x, s), x_t, t)
    torch.testing.assert_close(converted, true_velocity(expected, x_t, t), rtol=1e-8, atol=1e-8)


def test_sampling_a_converted_oracle_lands_on_the_data():
    def v(x: Tensor, t: Tensor) -> Tensor:
        return epsilon_velocity(
            lambda x_s, s: noise_oracle(expected_point, x_s, s), x, t.double(), Clamp(alpha=1e-9)
        )

    x = sample(v, torch.randn(16, 3, dtype=torch.float64), [0.999, *time_grid(200)[1:]])
    assert torch.cdist(x, POINTS).min(1).values.max() < 1e-3


def test_clamped_both_ends_are_finite_and_the_data_is_bounded():
    t = torch.tensor([0.0, 1e-6, 1 - 1e-6, 1.0])
    x = torch.randn(4, 3)
    eps = torch.randn(4, 3)
    v = epsilon_velocity(lambda x_s, s: eps, x, t, Clamp())
    assert v.isfinite().all()
    assert ((eps - v).abs() <= 20 + 1e-5).all()
    torch.testing.assert_close(v[0], eps[0] - x[0])


def test_a_clamp_that_is_not_reached_changes_nothing():
    t = torch.full((4,), 0.6)
    x, eps = torch.randn(2, 4, 3)
    assert torch.equal(
        epsilon_velocity(lambda x_s, s: eps, x, t, Clamp()), epsilon_velocity(lambda x_s, s: eps, x, t)
    )


def test_the_expert_is_asked_at_its_own_time_and_scale_in_the_callers_precision():
    asked: list[tuple[Tensor, Tensor]] = []

    def epsilon(x_s: Tensor, s: Tensor) -> Tensor:
        asked.append((x_s, s))
        return x_s.bfloat16()

    v = epsilon_velocity(epsilon, torch.ones(2, 3), torch.tensor([0.5, 0.5]))
    assert v.dtype == torch.float32
    torch.testing.assert_close(asked[0][0], torch.full((2, 3), math.sqrt(2)))
    assert asked[0][1].dtype == torch.float32
