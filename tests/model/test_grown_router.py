"""Tests that a router that gets one output more says what it said before, and that its training goes on."""

import math

import pytest
import torch

from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import Routing, mixed_velocity, only_present
from paris_p2p.model.checkpoint import MOMENT_RATIO, Counters, TrainState
from paris_p2p.model.grown_router import OUTPUTS, grow_outputs, grow_router, without_outputs
from paris_p2p.model.presets import build_expert, build_router, expert_config, router_config
from tests.model.conftest import LATENT, TEXT, stir

CLIPS = 5


def with_weights(experts, weights):
    router = build_router(router_config("nano", LATENT, TEXT, experts=experts))
    router.load_state_dict(weights)
    return router.eval()


def grown_of(router, parents):
    weights = grow_outputs(dict(router.named_parameters()), parents)
    return with_weights(router.config["experts"] + len(parents), {n: w.detach() for n, w in weights.items()})


def some():
    return torch.randn(CLIPS, 4, 2, 4, 4), torch.rand(CLIPS), torch.randn(CLIPS, 6)


def test_both_outputs_together_have_the_share_that_the_parent_had_and_all_others_their_own(router):
    inputs = some()
    with torch.no_grad():
        before, after = (
            router(*inputs).double().softmax(1),
            grown_of(router, [1])(*inputs).double().softmax(1),
        )
    torch.testing.assert_close(after[:, 1] + after[:, 3], before[:, 1], rtol=1e-6, atol=0)
    torch.testing.assert_close(after[:, 1], after[:, 3], rtol=0, atol=0)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]], rtol=1e-6, atol=0)


def test_every_number_but_the_two_biases_stays_bit_for_bit(router):
    before = dict(router.named_parameters())
    after = grow_outputs(before, [2])
    assert list(after) == list(before)
    for name, weight in before.items():
        kept = after[name][: len(weight)] if name in OUTPUTS else after[name]
        same = kept == weight
        if name == "out.bias":
            assert not same[2]
            same[2] = True
        assert bool(same.all()), name


def test_a_child_that_was_just_added_may_be_a_parent_itself(router):
    inputs = some()
    with torch.no_grad():
        before, after = router(*inputs).softmax(1), grown_of(router, [0, 3])(*inputs).softmax(1)
    torch.testing.assert_close(after[:, 0], before[:, 0] / 2)
    torch.testing.assert_close(after[:, 3], before[:, 0] / 4)
    torch.testing.assert_close(after[:, 4], before[:, 0] / 4)


class Pool:
    def __init__(self, experts):
        self.experts = experts

    def velocity(self, k, x, t, condition):
        with torch.no_grad():
            return self.experts[k](x, t, condition.tokens, condition.mask, condition.pooled, None)


@pytest.mark.parametrize("preset", ["nano", "mmdit-nano"])
def test_the_mixture_is_the_same_before_and_after_an_expert_is_split(router, preset):
    experts = [stir(build_expert(expert_config(preset, LATENT, TEXT))) for _ in range(3)]
    x, t, pooled = some()
    condition = Condition(torch.randn(CLIPS, 5, 8), torch.ones(CLIPS, 5, dtype=torch.bool), pooled)
    full = Routing("full")
    with torch.no_grad():
        before = mixed_velocity(Pool(experts), full.weights(router(x, t, pooled)), x, t, condition)
        weights = full.weights(grown_of(router, [1])(x, t, pooled))
    after = mixed_velocity(Pool([*experts, experts[1]]), weights, x, t, condition)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_an_expert_that_is_dropped_has_no_share_and_the_others_are_renormalised(router):
    with torch.no_grad():
        logits = router(*some())
    masked = Routing("full").weights(only_present(logits, [0, 2]))
    assert not masked[:, 1].any()
    torch.testing.assert_close(masked[:, [0, 2]], logits[:, [0, 2]].softmax(1))


def a_state(router) -> TrainState:
    weights = {name: value.detach() for name, value in router.named_parameters()}
    second = {name: torch.rand_like(value) for name, value in weights.items()}
    total = sum(float(value.sum()) for value in second.values())
    second = {name: value / total for name, value in second.items()}  # as much as clipped gradients can have
    first = {name: MOMENT_RATIO * value.sqrt() * 0.99 for name, value in second.items()}
    return TrainState(Counters("0" * 64, "router", 7, 28), weights, first, second, dict(weights))


def test_a_grown_training_state_takes_steps_as_long_as_before_and_its_moments_can_come_from_gradients(router):
    state = a_state(router)
    grown = grow_router(state, [1])
    for name in OUTPUTS:
        step = state.exp_avg[name][1] / state.exp_avg_sq[name][1].sqrt()
        for row in (1, 3):
            taken = grown.exp_avg[name][row] / grown.exp_avg_sq[name][row].sqrt()
            torch.testing.assert_close(taken, step)
            assert bool((taken.abs() <= MOMENT_RATIO).all())
    assert sum(float(value.sum()) for value in grown.exp_avg_sq.values()) <= 1
    assert torch.equal(grown.ema["out.bias"][[1, 3]], (state.ema["out.bias"][1] - math.log(2)).expand(2))
    assert grown.counters == state.counters


def test_the_shapes_before_an_output_was_added_are_those_of_the_smaller_router(router):
    shapes = {name: tuple(value.shape) for name, value in router.named_parameters()}
    larger = {name: tuple(value.shape) for name, value in grown_of(router, [0, 1]).named_parameters()}
    assert without_outputs(larger, 2) == shapes
