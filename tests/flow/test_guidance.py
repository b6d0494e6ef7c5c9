"""Tests guidance of a mixture."""

from dataclasses import replace

import pytest
import torch

from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import (
    EVERYWHERE,
    FORMS,
    Guidance,
    check_interval,
    conditional,
    guided_velocity,
    within,
)
from paris_p2p.flow.mixture import mixed_velocity
from tests.flow.toys import Toys, clips


def route(x: torch.Tensor, t: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
    """Routes among three experts; text moves weight to the last."""
    logits = x.flatten(1)[:, :3].clone()
    if pooled is not None:
        logits[:, 2] += pooled.sum(1)
    return logits.softmax(1)


def first(x: torch.Tensor, t: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(x), 3)


def condition() -> tuple[torch.Tensor, torch.Tensor, Condition]:
    x, t, text = clips()
    return x, t, replace(text, pooled=torch.rand(len(x), 6))


@pytest.mark.parametrize("form", FORMS)
def test_scale_one_is_the_conditional_flow_and_costs_no_second_pass(form):
    x, t, text = condition()
    expected = conditional(Toys(), route, text, x, t)
    pool = Toys()
    torch.testing.assert_close(guided_velocity(form, pool, route, text, 1.0)(x, t), expected)
    assert sum(count for _, count in pool.asked) == 3 * len(x)
    torch.testing.assert_close(
        FORMS[form](Guidance(Toys(), route, text, text.without_text(), 1.0), x, t), expected
    )


@pytest.mark.parametrize("form", FORMS)
def test_scale_zero_is_the_flow_without_text(form):
    x, t, text = condition()
    weights = route(x, t, text.pooled if form == "per_expert" else None)
    expected = mixed_velocity(Toys(), weights, x, t, text.without_text())
    torch.testing.assert_close(guided_velocity(form, Toys(), route, text, 0.0)(x, t), expected)


def test_both_forms_agree_when_there_is_one_expert_and_differ_when_text_moves_the_weights():
    x, t, text = condition()
    alone = [guided_velocity(form, Toys(), first, text, 3.0)(x, t) for form in FORMS]
    torch.testing.assert_close(alone[0], alone[1])
    mixed = [guided_velocity(form, Toys(), route, text, 3.0)(x, t) for form in FORMS]
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-2)


def test_the_published_form_guides_inside_each_expert_before_mixing():
    x, t, text = condition()
    weights, pool = route(x, t, text.pooled), Toys()
    expected = torch.zeros_like(x)
    for k in range(3):
        none = pool.velocity(k, x, t, text.without_text())
        with_text = pool.velocity(k, x, t, text)
        expected += weights[:, k].reshape(-1, 1, 1, 1, 1) * (none + 4.0 * (with_text - none))
    torch.testing.assert_close(guided_velocity("per_expert", Toys(), route, text, 4.0)(x, t), expected)


@pytest.mark.parametrize("form", FORMS)
def test_each_expert_gets_the_pooled_text_of_its_own_clips_beside_their_tokens(form):
    x, t, text = condition()
    own = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(2, 1)
    pool = Toys()
    guided_velocity(form, pool, lambda x, t, pooled: own, text, 3.0)(x, t)
    assert [k for k, _ in pool.asked] == [0, 1]
    for k in (0, 1):
        assert torch.equal(pool.pooled[k], text.pooled[k::2].repeat(2, 1))


def test_an_unknown_form_names_the_known_ones():
    _, _, text = condition()
    with pytest.raises(UsageError, match="per_expert, exact"):
        guided_velocity("strong", Toys(), route, text, 2.0)


def negatives(text: Condition) -> Condition:
    """Returns other captions for the same clips; the last clip has none."""
    other = Condition(text.tokens.flip(0) + 1, torch.ones_like(text.mask), torch.rand_like(text.pooled))
    other.mask[-1] = False
    return other


def test_per_expert_a_negative_prompt_takes_the_place_of_no_text_in_every_expert():
    x, t, text = condition()
    other, weights = negatives(text), route(x, t, text.pooled)
    wanted = mixed_velocity(Toys(), weights, x, t, text)
    away = mixed_velocity(Toys(), weights, x, t, other)
    guided = guided_velocity("per_expert", Toys(), route, text, 3.0, other)(x, t)
    torch.testing.assert_close(guided, away + 3 * (wanted - away))


def test_in_the_exact_form_a_negative_prompt_is_routed_by_itself_and_an_empty_one_without_text():
    x, t, text = condition()
    other = negatives(text)
    wanted = mixed_velocity(Toys(), route(x, t, text.pooled), x, t, text)
    weights = torch.cat([route(x, t, other.pooled)[:-1], route(x, t, None)[-1:]])
    away = mixed_velocity(Toys(), weights, x, t, other)
    guided = guided_velocity("exact", Toys(), route, text, 3.0, other)(x, t)
    torch.testing.assert_close(guided, away + 3 * (wanted - away))


@pytest.mark.parametrize("form", FORMS)
def test_negative_prompts_that_are_all_empty_are_no_text(form):
    x, t, text = condition()
    empty = text.without_text()
    guided = [guided_velocity(form, Toys(), route, text, 3.0, other)(x, t) for other in (None, empty)]
    assert torch.equal(*guided)


@pytest.mark.parametrize("form", FORMS)
def test_at_scale_one_a_negative_prompt_counts_for_nothing(form):
    x, t, text = condition()
    plain = guided_velocity(form, Toys(), route, text, 1.0)(x, t)
    assert torch.equal(guided_velocity(form, Toys(), route, text, 1.0, negatives(text))(x, t), plain)


def asked_at(interval: tuple[float, float], times: list[float]) -> list[int]:
    """Returns how many clips experts were asked for at each time, of four clips that are guided there."""
    x, _, text = condition()
    counts = []
    for time in times:
        pool = Toys()
        guided, plain = (guided_velocity("exact", pool, first, text, scale) for scale in (3.0, 1.0))
        within(interval, guided, plain)(x, torch.full((4,), time))
        counts.append(sum(count for _, count in pool.asked))
    return counts


@pytest.mark.parametrize(
    ("interval", "sides"),
    [
        ((0.0, 1.0), [2, 2, 2, 2, 2]),
        ((0.2, 0.6), [1, 1, 2, 2, 1]),
        ((1.0, 1.0), [2, 1, 1, 1, 1]),
        ((0.0, 0.0), [1, 1, 1, 1, 2]),
        ((0.9, 0.95), [1, 1, 1, 1, 1]),
    ],
)
def test_outside_of_its_interval_guidance_computes_one_side(interval, sides):
    assert asked_at(interval, [1.0, 0.7, 0.6, 0.2, 0.0]) == [4 * count for count in sides]


def test_inside_of_its_interval_guidance_is_what_it_is_without_one_and_outside_the_flow_of_the_text():
    x, _, text = condition()
    guided, plain = (guided_velocity("exact", Toys(), route, text, scale) for scale in (3.0, 1.0))
    for time, expected in ((0.9, plain), (0.5, guided)):
        t = torch.full((len(x),), time)
        assert torch.equal(within((0.3, 0.6), guided, plain)(x, t), expected(x, t))
        assert torch.equal(within(EVERYWHERE, guided, plain)(x, t), guided(x, t))


@pytest.mark.parametrize("interval", [(0.6, 0.2), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0), (0.5,)])
def test_an_interval_that_cannot_be_is_refused(interval):
    with pytest.raises(UsageError, match="the lower one first"):
        check_interval(interval)


def test_the_other_side_of_the_exact_form_alone_is_routed_away():
    x, t, text = condition()
    for form, weights in (("exact", route(x, t, None)), ("per_expert", first(x, t, None))):
        wanted = mixed_velocity(Toys(), first(x, t, None), x, t, text)
        away = mixed_velocity(Toys(), weights, x, t, text.without_text())
        guided = guided_velocity(form, Toys(), first, text, 3.0, away=route)(x, t)
        torch.testing.assert_close(guided, away + 3 * (wanted - away))
