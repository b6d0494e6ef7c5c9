"""Sizes by name."""

import pytest
import torch

from paris_p2p.errors import PresetError, RecordError
from paris_p2p.model.presets import (
    EXPERT_PRESETS,
    ROUTER_PRESETS,
    build_expert,
    build_router,
    count_parameters,
    expert_config,
    router_config,
)
from paris_p2p.spec import LatentShape, TextShape
from tests.model.conftest import LATENT, TEXT

PARIS_LATENT = LatentShape(channels=4, frames=1, height=32, width=32)  # sd-vae of a 256x256 image
PARIS_TEXT = TextShape(tokens=77, dim=768, pooled_dim=768)  # CLIP ViT-L/14


@pytest.mark.parametrize(("preset", "published"), [("dit-b-2", 129e6), ("dit-xl-2", 605e6)])
def test_experts_have_the_published_number_of_parameters_within_one_percent(preset, published):
    """Counts everything: patches, time, text keys and values, the null token.

    Codec and text encoder are not part of an expert.
    """
    assert count_parameters(expert_config(preset, PARIS_LATENT, PARIS_TEXT)) == pytest.approx(
        published, rel=0.01
    )


def test_the_router_has_the_published_number_of_parameters_within_one_percent():
    """Counts the pooled caption's projection too, 0.6M, which Paris 1.0's does not have."""
    assert count_parameters(
        router_config("dit-b-2", PARIS_LATENT, PARIS_TEXT, 8), router=True
    ) == pytest.approx(129e6, rel=0.01)


def test_every_preset_builds_and_answers_on_the_meta_device():
    with torch.device("meta"):
        for preset in EXPERT_PRESETS:
            network = build_expert(expert_config(preset, LATENT, TEXT))
            out = network(
                torch.empty(2, 4, 2, 4, 4),
                torch.empty(2),
                torch.empty(2, 5, 8),
                torch.empty(2, 5, dtype=torch.bool),
            )
            assert out.shape == (2, 4, 2, 4, 4)
        for preset in ROUTER_PRESETS:
            out = build_router(router_config(preset, LATENT, TEXT, 3))(
                torch.empty(2, 4, 2, 4, 4), torch.empty(2), torch.empty(2, 6)
            )
            assert out.shape == (2, 3)


def test_sizes_on_the_way_up():
    counts = [
        count_parameters(expert_config(preset, LATENT, TEXT))
        for preset in ("nano", "micro", "tiny", "small", "medium", "large")
    ]
    assert counts == sorted(counts)
    assert counts[0] < 150_000


def test_an_odd_side_gets_patches_of_one():
    config = expert_config("nano", LatentShape(channels=4, frames=1, height=5, width=6), TEXT)
    assert (config["patch_height"], config["patch_width"]) == (1, 2)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(PresetError, match=r"'huge'; choose one of nano, micro"):
        expert_config("huge", LATENT, TEXT)
    with pytest.raises(PresetError, match="no router preset"):
        router_config("dit-xl-2", LATENT, TEXT, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 1 << 20},
        {"depth": 0},
        {"heads": 5},
        {"heads": True},
        {"width": 32.0},
        {"surprise": 1},
        {"rotary_base": 0.0},
    ],
)
def test_numbers_that_make_no_network_are_refused_before_it_is_built(change):
    with pytest.raises(RecordError):
        build_expert({**expert_config("nano", LATENT, TEXT), **change})


def test_a_missing_number_is_refused():
    config = expert_config("nano", LATENT, TEXT)
    del config["width"]
    with pytest.raises(RecordError, match="'width'"):
        build_expert(config)
