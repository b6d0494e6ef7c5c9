"""Latents and pictures are turned and shrunk alike, and a codec fitted so decodes them alike."""

import pytest
import torch

from paris_p2p.codec.equivariance import changed_alike, shrunk
from paris_p2p.codec.learned import LearnedOptions, latents_of, options_key
from paris_p2p.codec.video import load_codec
from paris_p2p.data.cache import cache_key
from paris_p2p.preparation.networks import PrepareOptions, input_fingerprint
from tests.codec.test_learned import KINDS, OPTIONS, examples, fit, weights

EQUIVARIANT = LearnedOptions(4, 4, 12, 4, 5e-3, equivariance=0.5)


@pytest.mark.parametrize("frames", [(), (3,)], ids=["pictures", "clips"])
def test_pictures_that_are_their_own_latents_stay_so(frames: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, *frames, 6, 8, generator=rng)
    sides = set()
    for _ in range(40):
        latents, pixels = changed_alike(x, x, rng)
        assert torch.equal(latents, pixels)
        assert latents.shape[:-2] == x.shape[:-2]
        sides.add(tuple(latents.shape[-2:]))
    assert {min(pair) for pair in sides} <= {3, 4, 5, 6}
    assert {(6, 8), (8, 6)} & sides
    assert len(sides) > 10


def test_a_patch_stays_a_patch_and_what_is_even_stays_even() -> None:
    rng = torch.Generator().manual_seed(1)
    for _ in range(10):
        latents, pixels = changed_alike(torch.full((1, 4, 4, 4), 2.0), torch.full((1, 3, 32, 32), 0.5), rng)
        assert tuple(8 * side for side in latents.shape[-2:]) == tuple(pixels.shape[-2:])
        assert torch.allclose(latents, torch.tensor(2.0))
        assert torch.allclose(pixels, torch.tensor(0.5))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_fit_without_it_is_as_before_and_one_with_it_is_another(tmp_path, kind) -> None:
    assert weights(fit(tmp_path / "plain", kind)) != weights(fit(tmp_path / "even", kind, EQUIVARIANT))
    assert "equivariance" not in options_key(kind, OPTIONS)
    assert options_key(kind, EQUIVARIANT)["equivariance"] == 0.5


def test_what_was_prepared_before_there_was_such_an_option_is_found_again() -> None:
    wished = PrepareOptions().model_dump(exclude={"threads", "device", "codec_equivariance"})
    assert input_fingerprint([], [], PrepareOptions(), 1) == cache_key(1, [], [], wished, [[], [], []])
    other = input_fingerprint([], [], PrepareOptions(codec_equivariance=0.5), 1)
    assert other != input_fingerprint([], [], PrepareOptions(), 1)


def test_a_codec_fitted_so_decodes_shrunk_latents_to_shrunk_pictures_better(tmp_path) -> None:
    kind, errors = KINDS[0], []
    for share in (0.0, 0.5):
        options = LearnedOptions(4, 4, 100, 8, 5e-3, equivariance=share)
        codec = load_codec(f"diffusers:{fit(tmp_path / str(share), kind, options)}")
        x = kind.arrange(examples(kind)).float() / 127.5 - 1
        with torch.no_grad():
            latents = latents_of(codec.model.encode(x))
            made = codec.model.decode(shrunk(latents, 2, 3)).sample
        errors.append(float((made - shrunk(x, 8, 12)).square().mean()))
    assert errors[1] < errors[0]
