"""Tests experts that are drawn once and kept, against a mixture that is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.guidance import conditional, guided_velocity
from paris_p2p.flow.kept import drawn_expert, kept_until
from paris_p2p.flow.mixture import Routing, only_present
from paris_p2p.flow.sampler import sample, time_grid
from tests.flow.gaussians import (
    KINDS,
    SHARES,
    PerfectExperts,
    captions,
    log_p,
    log_p_of_kind,
    logits,
    moments,
    real,
    two_sample,
    velocity_of,
)

CLIPS, STEPS = 8000, 40
# Two samples of one law exceed this once in a thousand times: sqrt(ln(2 / 0.001) / 2) sqrt(2 / CLIPS).
TWO_SAMPLE_LIMIT = math.sqrt(math.log(2 / 0.001) / 2) * math.sqrt(2 / CLIPS)
SIGMAS = 4  # of a mean of CLIPS numbers: exceeded once in 16,000 times

Answer = Callable[..., Tensor]


def half_of_each() -> Tensor:
    return torch.arange(CLIPS) % 2


def drawn() -> Tensor:
    uniforms = torch.rand(CLIPS, dtype=torch.float64)
    return Routing("kept").weights(logits(None, None, captions(half_of_each()).pooled), uniforms=uniforms)


def moment_by_moment(name: str) -> Answer:
    return lambda x, t, pooled: Routing(name).weights(logits(x, t, pooled))


def made(route: Answer) -> Tensor:
    """Returns clips [CLIPS] that the product's mixture and sampler make with perfect experts."""
    known, noise = captions(half_of_each()), torch.randn(CLIPS, 1, dtype=torch.float64)
    clips = sample(
        lambda x, t: conditional(PerfectExperts(), route, known, x, t), noise, time_grid(STEPS), "heun"
    )
    return clips[:, 0]


def distance(clips: Tensor) -> float:
    return two_sample(clips, real(half_of_each(), torch.Generator().manual_seed(1)))


EXACT: dict[str, Callable[[], Answer]] = {
    "kept": lambda: kept_until(drawn(), 0.0, moment_by_moment("top_k")),
    "kept until 0.6": lambda: kept_until(drawn(), 0.6, moment_by_moment("full")),
    "kept until 0.25": lambda: kept_until(drawn(), 0.25, moment_by_moment("full")),
    "full": lambda: moment_by_moment("full"),
}
INEXACT: dict[str, Callable[[], Answer]] = {
    "top-1 at each step": lambda: moment_by_moment("top_k"),
    "kept until 0.6, then top-1": lambda: kept_until(drawn(), 0.6, moment_by_moment("top_k")),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_expert_that_is_drawn_and_kept_gives_exact_samples_of_the_mixture(name: str) -> None:
    clips, (mean, variance, fourth) = made(EXACT[name]()), moments(half_of_each())
    assert abs(float(clips.mean()) - mean) < SIGMAS * math.sqrt(variance / CLIPS)
    assert abs(float(clips.var()) - variance) < SIGMAS * math.sqrt((fourth - variance**2) / CLIPS)
    assert distance(clips) < TWO_SAMPLE_LIMIT


@pytest.mark.parametrize("name", INEXACT)
def test_the_most_probable_expert_of_each_step_does_not(name: str) -> None:
    assert distance(made(INEXACT[name]())) > 2 * TWO_SAMPLE_LIMIT


def test_experts_are_drawn_as_often_as_the_posterior_says() -> None:
    chosen = drawn()
    assert torch.equal(chosen.sum(1), torch.ones(CLIPS))
    for c in (0, 1):
        found = chosen[c::2].double().mean(0)
        limit = SIGMAS * (SHARES[c] * (1 - SHARES[c]) / (CLIPS / 2)).sqrt()
        assert bool(((found - SHARES[c]).abs() < limit).all()), (c, found)


def test_the_clips_of_each_kind_are_as_many_as_they_should_be_and_of_top_1_they_are_not() -> None:
    """Of which kind a clip is cannot be told for sure; the posterior's mean over clips is its share."""
    c, still = half_of_each(), torch.zeros(CLIPS, dtype=torch.float64)
    wanted = SHARES.mean(0)

    def furthest_sigmas(route: Answer) -> float:
        clips = made(route)
        beliefs = logits(clips[:, None], still, captions(c).pooled).softmax(1)
        return float(((beliefs.mean(0) - wanted).abs() / (beliefs.std(0) / math.sqrt(CLIPS))).max())

    assert furthest_sigmas(EXACT["kept"]()) < SIGMAS
    assert furthest_sigmas(moment_by_moment("top_k")) > 2 * SIGMAS


def test_a_number_draws_the_expert_at_which_the_cumulative_posterior_passes_it() -> None:
    shares = torch.tensor([0.25, 0.5, 0.25]).log().expand(6, 3)
    numbers = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2.0**-53], dtype=torch.float64)
    assert drawn_expert(shares, numbers).argmax(1).tolist() == [0, 0, 1, 1, 2, 2]


def test_an_expert_that_is_not_there_is_never_drawn_and_the_others_keep_their_proportions() -> None:
    numbers = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for present in ([0, 2], [1], [0, 1]):
        given = only_present(SHARES[:1].log().expand(1000, KINDS), present)
        found = Routing("kept").weights(given, uniforms=numbers).double().mean(0)
        expected = given[0].softmax(0)
        torch.testing.assert_close(found, expected, atol=1.1e-3, rtol=0)
        assert bool(found[given[0] == -torch.inf].eq(0).all())
    edges = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    only = only_present(torch.zeros(2, KINDS), [1])
    assert drawn_expert(only, edges).argmax(1).tolist() == [1, 1]


def test_a_draw_does_not_depend_on_the_clips_beside_it() -> None:
    many, numbers = torch.randn(50, KINDS), torch.rand(50, dtype=torch.float64)
    alone = [drawn_expert(many[i : i + 1], numbers[i : i + 1]) for i in range(50)]
    assert torch.equal(drawn_expert(many, numbers), torch.cat(alone))


def test_the_most_probable_expert_of_the_caption_is_kept_too() -> None:
    chosen = Routing("text").weights(logits(None, None, captions(torch.tensor([0, 1])).pooled))
    assert chosen.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_a_route_keeps_its_weights_until_a_time_and_asks_nobody_before() -> None:
    kept, asked = torch.tensor([[1.0, 0, 0]]), []

    def after(x: Tensor, t: Tensor, *known: Tensor | None) -> Tensor:
        asked.append(float(t[0]))
        return torch.tensor([[0.2, 0.3, 0.5]])

    route = kept_until(kept, 0.6, after)
    answers = [route(torch.zeros(1, 1), torch.tensor([t]), None) for t in (1.0, 0.61, 0.6, 0.0)]
    assert [answer[0, 0].item() for answer in answers] == [1, 1, pytest.approx(0.2), pytest.approx(0.2)]
    assert asked == [pytest.approx(0.6), 0.0]


def test_a_routing_that_keeps_needs_a_number_for_each_clip_and_a_time_that_can_be() -> None:
    with pytest.raises(UsageError, match="needs a number"):
        Routing("kept").weights(torch.zeros(2, 3))
    for until in (-0.1, 1.0, math.nan):
        with pytest.raises(UsageError, match="between 0"):
            Routing("kept", kept_until=until)
    with pytest.raises(UsageError, match="goes with the routing kept, and the routing is full"):
        Routing("full", kept_until=0.5)


@pytest.mark.parametrize("form", ["per_expert", "exact"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_of_a_kept_expert_is_along_the_density_that_its_form_names(form: str, scale: float) -> None:
    """Per expert p(x | k) p(c | x, k)^scale, exact p(x) p(c, k | x)^scale, up to a constant."""
    c, k = torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 1, 1])
    x = torch.tensor([[0.3], [-0.7], [1.2], [0.0]], dtype=torch.float64).requires_grad_()
    t = torch.tensor([0.5, 0.3, 0.8, 0.6], dtype=torch.float64)
    kept = torch.nn.functional.one_hot(k, KINDS).float()
    given = log_p(x, t, c).gather(1, k[:, None])[:, 0]
    of_kind = log_p_of_kind(x, t)
    other = of_kind.gather(1, k[:, None])[:, 0] if form == "per_expert" else of_kind.logsumexp(1)
    expected = velocity_of((1 - scale) * other + scale * given, x, t)
    guided = guided_velocity(
        form,
        PerfectExperts(),
        lambda x, t, pooled: kept,
        captions(c),
        scale,
        away=moment_by_moment("full"),
    )
    torch.testing.assert_close(guided(x.detach(), t).double(), expected, atol=1e-5, rtol=1e-5)
