"""Tests the clean first frame as an input of the experts."""

import pytest
import torch
from torch import Tensor

from paris_p2p.errors import RecordError
from paris_p2p.model.first_frame import first_condition
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.model.pretrained import start_from
from paris_p2p.spec import LatentShape
from tests.model.conftest import LATENT, TEXT, stir

PRESETS = ("nano", "mmdit-nano")
ALL, NONE = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)


def made(preset: str, *, first_frame: bool = True, patch_frames: int = 1):
    torch.manual_seed(1)
    return build_expert(
        {**expert_config(preset, LATENT, TEXT, first_frame=first_frame), "patch_frames": patch_frames}
    )


def some() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    mask = torch.ones(3, 5, dtype=torch.bool)
    return torch.randn(3, *LATENT.shape), torch.rand(3), torch.randn(3, 5, 8), mask, torch.randn(3, 6)


@pytest.mark.parametrize("preset", PRESETS)
def test_its_layer_is_new_and_zero_and_all_other_weights_are_drawn_as_without_it(preset: str):
    before = dict(made(preset, first_frame=False).named_parameters())
    after = dict(made(preset).named_parameters())
    assert set(after) - set(before) == {"first_in.weight"}
    assert not after["first_in.weight"].any()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("preset", PRESETS)
def test_an_untrained_condition_changes_nothing_and_a_trained_one_does(preset: str):
    network = stir(made(preset))
    torch.nn.init.zeros_(network.first_in.weight)
    first = first_condition(torch.randn(3, *LATENT.shape), ALL)
    plain = network(*some())
    assert torch.equal(network(*some(), first), plain)
    torch.nn.init.normal_(network.first_in.weight)
    assert not torch.allclose(network(*some(), first), plain, atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("patch_frames", [1, 2])
def test_only_the_first_frame_of_clips_that_are_given_one_gets_in(preset: str, patch_frames: int):
    network = stir(made(preset, patch_frames=patch_frames))
    latent, later = torch.randn(3, *LATENT.shape), torch.randn(3, *LATENT.shape)
    later[:, :, :1] = latent[:, :, :1]
    answer = network(*some(), first_condition(latent, ALL))
    assert torch.equal(network(*some(), first_condition(later, ALL)), answer)
    none = network(*some(), first_condition(latent, NONE))
    torch.testing.assert_close(none, network(*some()))
    torch.testing.assert_close(none, network(*some(), first_condition(later + 5, NONE)))
    mixed = network(*some(), first_condition(latent, torch.tensor([True, False, True])))
    torch.testing.assert_close(mixed, torch.stack([answer[0], none[1], answer[2]]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(answer, none, atol=1e-3)


def test_a_black_first_frame_is_not_the_same_as_none():
    network, zero = stir(made("nano")), torch.zeros(3, *LATENT.shape)
    assert not torch.allclose(
        network(*some(), first_condition(zero, ALL)), network(*some(), first_condition(zero, NONE)), atol=1e-3
    )


def test_a_network_that_was_not_made_for_one_says_so():
    with pytest.raises(ValueError, match="not made for a first frame"):
        made("nano", first_frame=False)(*some(), first_condition(torch.zeros(3, *LATENT.shape), ALL))
    with pytest.raises(RecordError, match="first_frame"):
        build_expert({**expert_config("nano", LATENT, TEXT), "first_frame": 1})


def test_weights_from_before_start_a_network_that_takes_one_and_they_start_another():
    old, new = stir(made("nano", first_frame=False)), made("nano")
    start = start_from(new, dict(old.named_parameters()))
    assert set(start.left) == {"first_in.weight"}
    assert not start.tensors["first_in.weight"].any()
    again = start_from(made("nano"), dict(stir(made("nano")).named_parameters()))
    assert "first_in.weight" in again.taken
    other = expert_config(
        "nano", LatentShape(channels=3, frames=2, height=4, width=4), TEXT, first_frame=True
    )
    assert (
        "first_in.weight" in start_from(build_expert(other), dict(stir(made("nano")).named_parameters())).left
    )
