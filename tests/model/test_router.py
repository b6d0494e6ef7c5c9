"""Tests the router network."""

import itertools

import pytest
import torch

from paris_p2p.model.presets import build_router, router_config
from paris_p2p.model.router import Router
from tests.model.conftest import LATENT, TEXT, stir


def some(clips: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(clips, 4, 2, 4, 4), torch.rand(clips), torch.randn(clips, 6)


def test_a_fresh_router_finds_all_experts_alike():
    assert not build_router(router_config("nano", LATENT, TEXT, experts=3))(*some()).any()


@pytest.mark.parametrize(
    "given", [given for given in itertools.product([True, False], repeat=3) if any(given)]
)
def test_each_input_can_be_left_out_and_matters_when_it_is_there(router, given):
    inputs = [value if there else None for value, there in zip(some(), given, strict=True)]
    logits = router(*inputs)
    assert logits.shape == (3, 3)
    assert logits.isfinite().all()
    for index, there in enumerate(given):
        if there:
            changed = list(inputs)
            changed[index] = changed[index].flip(0)
            assert not torch.allclose(router(*changed), logits, atol=1e-5)


def with_first(first_width: int = 7) -> Router:
    torch.manual_seed(1)
    return build_router(router_config("nano", LATENT, TEXT, experts=3, first_width=first_width))


def test_a_first_frame_starts_without_a_word_and_leaves_the_other_weights_as_they_are_drawn():
    before, after = (dict(with_first(width).named_parameters()) for width in (0, 7))
    assert set(after) - set(before) == {"first_in.weight", "first_in.bias", "no_first"}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    router, inputs = with_first(), some()
    torch.nn.init.normal_(router.out.weight)
    assert torch.equal(router(*inputs, torch.randn(3, 7)), router(*inputs))


def test_a_first_frame_matters_once_it_is_learnt_whatever_the_scale_of_its_features():
    router, inputs, first = stir(with_first()), some(), torch.randn(3, 7)
    logits = router(*inputs, first)
    torch.testing.assert_close(router(*inputs, 50 * first), logits, rtol=1e-3, atol=1e-3)
    for other in ((), (first.flip(0),)):
        assert not torch.allclose(router(*inputs, *other), logits, atol=1e-4)


def test_a_router_that_was_not_made_for_a_first_frame_says_so(router):
    with pytest.raises(ValueError, match="not made for a first frame"):
        router(*some(), torch.randn(3, 7))


def test_with_nothing_to_route_by_it_says_so(router):
    with pytest.raises(ValueError, match="a latent, a time or a caption"):
        router(None, None, None)


def test_every_parameter_learns_after_a_few_steps_with_and_without_inputs():
    for preset in ("nano", "dit-b-2"):
        config = {**router_config(preset, LATENT, TEXT, experts=3), "width": 32, "depth": 2, "heads": 2}
        network = build_router(config)
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        x, t, pooled = some()
        for _ in range(5):
            for inputs in ((x, t, pooled), (None, t, pooled), (x, None, None)):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(*inputs), torch.tensor([0, 1, 0])).backward()
                optimizer.step()
        assert [
            name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])
        ] == [], preset


def test_it_runs_under_autocast_and_stays_in_float32_whatever_type_is_asked_for(router):
    full = router(*some())
    with torch.autocast("cpu", torch.bfloat16):
        assert router(*some()).shape == full.shape
    assert router.to(torch.bfloat16)(*some()).dtype == torch.float32


def test_it_compiles_in_one_graph(router):
    inputs = some()
    torch.testing.assert_close(
        torch.compile(router, backend="eager", fullgraph=True)(*inputs), router(*inputs)
    )


def test_saved_and_loaded_it_is_the_same(router, tmp_path):
    router.save_pretrained(tmp_path)
    inputs = some()
    assert torch.equal(Router.from_pretrained(tmp_path).eval()(*inputs), router(*inputs))


def test_a_table_per_block_and_a_layer_per_block_both_steer():
    for per_block in (False, True):
        config = {**router_config("nano", LATENT, TEXT, experts=3), "depth": 2, "steer_per_block": per_block}
        assert len(build_router(config).steer) == (2 if per_block else 1)
        assert stir(build_router(config))(*some()).isfinite().all()
