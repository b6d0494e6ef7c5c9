"""Claims about the sets of the stages images and clips."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.when_experts_win.product_set import TEST, TRAIN, load, save, tiny, tiny_features
from paris_p2p.errors import DataError


def test_a_set_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = tiny(tmp_path / "set", frames=2)
    again = load(tmp_path / "set")
    assert again.about == made.about
    assert again.latents.shape == (240, *made.about.latent.shape)
    assert torch.equal(again.latents, made.latents)
    assert set(again.real) == set(made.real)
    assert again.networks == ["tiny"]
    assert (len(again.rows(TRAIN)), len(again.rows(TEST))) == (120, 60)
    assert sorted(again.cluster.unique().tolist()) == [0, 1, 2]


def test_its_codec_makes_the_pixels_that_its_features_are_of(tmp_path: Path) -> None:
    made = tiny(tmp_path)
    pixels = made.codec().decode(made.latents[made.rows(TEST)].float())
    assert torch.equal(torch.from_numpy(tiny_features(pixels)), torch.from_numpy(made.real["codec/tiny"]))


def test_whole_numbers_hold_latents_to_a_hundredth_of_each_channel(tmp_path: Path) -> None:
    made = tiny(tmp_path)
    save(made, tmp_path, int8=True)
    again = load(tmp_path).latents.float()
    largest = made.latents.float().abs().amax((0, 2, 3, 4))
    assert bool(((again - made.latents.float()).abs().amax((0, 2, 3, 4)) <= largest / 100).all())


def test_a_set_that_was_changed_is_refused(tmp_path: Path) -> None:
    made = tiny(tmp_path)
    save(replace(made, latents=made.latents + 1), tmp_path / "other")
    (tmp_path / "latents.safetensors").write_bytes((tmp_path / "other/latents.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"latents\.safetensors; make it again"):
        load(tmp_path)
    with pytest.raises(DataError, match="holds no set"):
        load(tmp_path / "nowhere")
