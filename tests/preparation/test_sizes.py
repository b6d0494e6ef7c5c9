import pytest

from paris_p2p.preparation.sizes import expert_tokens, size_advice
from paris_p2p.spec import ClipShape, LatentShape


def shape(height: int, width: int) -> ClipShape:
    return ClipShape(frames=8, height=height, width=width, fps=8.0)


def test_an_odd_size_is_reported_with_its_tokens_and_the_cheap_ones_near_it():
    advice = size_advice("pca", shape(50, 66))
    assert advice.startswith(
        "50 x 66 pixels are cut into patches of 2: 6,600 tokens a clip, 17.2 times the tokens"
    )
    assert advice.endswith(
        "cheap are --height 48 --width 64 (384 tokens), --height 64 --width 64 (128 tokens)"
    )


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (48, 64), (128, 128), (256, 256), (16, 16)])
def test_cheap_sizes_are_not_talked_about(size):
    assert size_advice("pca", shape(*size)) == ""


def test_other_codecs_refuse_what_they_cannot_take_themselves():
    assert size_advice("diffusers:somewhere", shape(50, 66)) == ""


def test_tokens_are_patches_of_two_where_the_latents_are_even():
    assert expert_tokens(LatentShape(channels=4, frames=8, height=8, width=8)) == 128
    assert expert_tokens(LatentShape(channels=4, frames=8, height=7, width=8)) == 8 * 7 * 4
