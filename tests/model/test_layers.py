"""Tests patches, positions and attention."""

import pytest
import torch

from paris_p2p.model import layers
from paris_p2p.model.layers import Patch, Positions, attend, gelu, time_features, turn, with_null


def test_cutting_into_patches_and_joining_them_gives_the_clip_back():
    x = torch.randn(2, 3, 4, 6, 8)
    for patch in (Patch(1, 2, 2), Patch(2, 3, 4), Patch(1, 1, 1)):
        tokens = patch.cut(x)
        grid = patch.grid(x)
        assert tokens.shape == (2, grid[0] * grid[1] * grid[2], 3 * patch.volume)
        assert torch.equal(patch.join(tokens, grid), x)


def test_latents_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="1x5x4 cannot be cut into patches of 1x2x2"):
        Patch(1, 2, 2).grid(torch.zeros(1, 3, 1, 5, 4))


@pytest.mark.parametrize("head_width", [16, 32, 64, 72])
def test_rotary_positions_are_relative(head_width):
    grid = (3, 4, 5)
    _, cos, sin = Positions(64, head_width, 100.0)(grid, torch.device("cpu"))
    assert cos.shape == (60, head_width)
    q, k = torch.randn(head_width), torch.randn(head_width)

    def score(query: tuple[int, int, int], key: tuple[int, int, int]) -> torch.Tensor:
        i, j = (t * 20 + h * 5 + w for t, h, w in (query, key))
        return turn(q, cos[i], sin[i]) @ turn(k, cos[j], sin[j])

    torch.testing.assert_close(score((0, 1, 2), (1, 0, 3)), score((1, 3, 1), (2, 2, 2)), rtol=1e-4, atol=1e-4)
    assert (score((0, 0, 0), (0, 0, 1)) - score((0, 0, 0), (0, 1, 0))).abs() > 1e-4
    assert (score((0, 0, 0), (0, 0, 1)) - score((0, 0, 0), (1, 0, 0))).abs() > 1e-4


def test_turning_keeps_lengths():
    _, cos, sin = Positions(64, 32, 100.0)((2, 3, 3), torch.device("cpu"))
    x = torch.randn(4, 2, 18, 32)
    torch.testing.assert_close(turn(x, cos, sin).norm(dim=-1), x.norm(dim=-1))


def test_position_tables_are_made_once():
    positions = Positions(64, 32, 100.0)
    assert positions((1, 2, 2), torch.device("cpu"))[0] is positions((1, 2, 2), torch.device("cpu"))[0]
    assert positions((1, 2, 2), torch.device("cpu"))[0].shape == (4, 64)


@pytest.mark.parametrize("masked", [False, True])
def test_plain_products_and_torchs_own_attention_agree(monkeypatch, masked):
    q, k, v = (torch.randn(2, 3, 6, 8, dtype=torch.bfloat16) for _ in range(3))
    mask = torch.rand(2, 1, 1, 6) > 0.3 if masked else None
    if mask is not None:
        mask[..., 0] = True
    plain = attend(q, k, v, mask)
    monkeypatch.setattr(layers, "_PLAIN_SCORES", 0)
    torch.testing.assert_close(plain, attend(q, k, v, mask), rtol=3e-2, atol=3e-2)


def test_a_clip_without_text_has_the_stand_in_as_its_one_token():
    tokens, null = torch.randn(2, 3, 4), torch.randn(4)
    text, seen = with_null(null, tokens, torch.tensor([[True, True, False], [False, False, False]]))
    assert seen[:, 0, 0].tolist() == [[True, True, False], [True, False, False]]
    assert torch.equal(text[0], tokens[0])
    assert torch.equal(text[1, 0], null)


def test_time_features_tell_times_apart():
    features = time_features(torch.linspace(0, 1, 101))
    distances = torch.cdist(features, features) + 100 * torch.eye(101)
    assert features.dtype == torch.float32
    assert distances.min() > 0.5


def test_gelu_is_one_function_up_to_bfloat16s_rounding():
    x = torch.linspace(-8, 8, 4001)
    torch.testing.assert_close(gelu(x.bfloat16()).float(), gelu(x.bfloat16().float()), rtol=2**-7, atol=5e-4)
