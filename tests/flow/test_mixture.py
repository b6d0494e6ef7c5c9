"""Tests routing weights and mixed velocities."""

import pytest
import torch

from paris_p2p.errors import UsageError
from paris_p2p.flow.mixture import ROUTINGS, Routing, mixed_velocity, only_present
from tests.flow.toys import Toys, clips

LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.1, 0.2], [-3.0, 4.0, 0.0], [1.0, 0.0, 0.5]])


@pytest.mark.parametrize("name", ROUTINGS)
def test_weights_are_a_mixture(name):
    clusters, uniforms = torch.tensor([0, 1, 2, 0]), torch.rand(4)
    weights = Routing(name, top_k=2).weights(LOGITS, clusters, uniforms)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights >= 0).all()


def test_top_1_is_one_hot_at_the_best_and_top_k_renormalises_the_posterior():
    assert torch.equal(
        Routing("top_k", top_k=1).weights(LOGITS), torch.nn.functional.one_hot(LOGITS.argmax(1), 3).float()
    )
    weights = Routing("top_k", top_k=2).weights(LOGITS)
    assert ((weights > 0).sum(1) == 2).all()
    posterior = LOGITS.softmax(1)
    torch.testing.assert_close(weights[0, 0] / weights[0, 1], posterior[0, 0] / posterior[0, 1])
    for many in (3, 99):
        torch.testing.assert_close(Routing("top_k", top_k=many).weights(LOGITS), posterior)


def test_a_threshold_keeps_what_reaches_it_and_always_the_best():
    posterior = LOGITS.softmax(1)
    weights = Routing("threshold", threshold=0.3).weights(LOGITS)
    assert torch.equal(weights > 0, posterior >= 0.3)
    assert torch.equal(Routing("threshold", threshold=1.0).weights(LOGITS), Routing("top_k").weights(LOGITS))
    torch.testing.assert_close(Routing("threshold", threshold=0.0).weights(LOGITS), posterior)


def test_oracle_and_single_go_where_they_are_sent():
    assert Routing("oracle").weights(LOGITS, torch.tensor([2, 1, 0, 2])).argmax(1).tolist() == [2, 1, 0, 2]
    assert Routing("single", expert=1).weights(LOGITS)[:, 1].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["top_k", "full", "threshold", "uniform"])
def test_experts_that_are_not_there_get_no_weight_and_the_others_share_it(name):
    weights = Routing(name, top_k=3, threshold=0.0).weights(only_present(LOGITS, [0, 2]))
    assert not weights[:, 1].any()
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    if name != "uniform":
        torch.testing.assert_close(weights[:, [0, 2]], LOGITS[:, [0, 2]].softmax(1))


def test_asking_for_an_expert_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="not there"):
        Routing("single", expert=1).weights(only_present(LOGITS, [0, 2]))
    with pytest.raises(UsageError, match="no expert 7"):
        Routing("single", expert=7).weights(LOGITS)
    with pytest.raises(UsageError, match="no expert is there"):
        Routing().weights(only_present(LOGITS, []))
    with pytest.raises(UsageError, match="true cluster"):
        Routing("oracle").weights(LOGITS)


@pytest.mark.parametrize("numbers", [{"name": "best"}, {"top_k": 0}, {"threshold": 2.0}])
def test_a_routing_that_cannot_be_is_refused(numbers):
    with pytest.raises(UsageError):
        Routing(**numbers)


@pytest.mark.parametrize("name", ["top_k", "full", "threshold", "uniform"])
def test_grouping_clips_by_expert_equals_running_every_expert_on_every_clip(name):
    inputs = clips()
    weights = Routing(name, top_k=2, threshold=0.3).weights(LOGITS)
    pool = Toys()
    dense = sum(weights[:, k].reshape(4, 1, 1, 1, 1) * pool.velocity(k, *inputs) for k in range(3))
    torch.testing.assert_close(mixed_velocity(pool, weights, *inputs), dense)


def test_only_experts_with_weight_are_run_and_only_on_their_clips():
    pool = Toys()
    mixed_velocity(pool, Routing("top_k", top_k=1).weights(LOGITS), *clips())
    assert pool.asked == [(0, 2), (1, 1), (2, 1)]
    pool = Toys()
    mixed_velocity(pool, Routing("single", expert=2).weights(LOGITS), *clips())
    assert pool.asked == [(2, 4)]


@pytest.mark.parametrize("name", ["top_k", "full", "uniform"])
def test_a_mixture_of_equal_experts_is_one_of_them(name):
    inputs, pool = clips(), Toys((2.0, 2.0, 2.0))
    torch.testing.assert_close(
        mixed_velocity(pool, Routing(name, top_k=2).weights(LOGITS), *inputs), pool.velocity(0, *inputs)
    )
