"""Tests the expert network."""

import pytest
import torch

from paris_p2p.model.dit import VideoDiT
from paris_p2p.model.presets import build_expert, expert_config
from tests.model.conftest import LATENT, TEXT


def some(clips: int = 3, frames: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = torch.tensor([True, True, True, False, False]).repeat(clips, 1)
    return torch.randn(clips, 4, frames, 4, 4), torch.rand(clips), torch.randn(clips, 5, 8), mask


def test_a_fresh_expert_answers_zero_and_every_parameter_learns_after_a_few_steps():
    network = build_expert(expert_config("nano", LATENT, TEXT))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, t, tokens, mask = some()
    mask[0] = False
    assert not network(x, t, tokens, mask).any()
    for _ in range(4):
        optimizer.zero_grad()
        (network(x, t, tokens, mask) - 1).square().mean().backward()
        optimizer.step()
    assert [
        name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])
    ] == []


def test_the_shape_is_kept_and_an_image_is_a_clip_of_one_frame(expert):
    for frames in (1, 2, 5):
        x, t, tokens, mask = some(frames=frames)
        assert expert(x, t, tokens, mask).shape == x.shape


def test_padded_tokens_do_not_matter_and_real_ones_do(expert):
    x, t, tokens, mask = some()
    changed = tokens.clone()
    changed[:, 3:] = 1e3
    torch.testing.assert_close(expert(x, t, changed, mask), expert(x, t, tokens, mask))
    changed[:, 0] += 1
    assert not torch.allclose(expert(x, t, changed, mask), expert(x, t, tokens, mask), atol=1e-4)


def test_without_text_the_tokens_do_not_matter_and_nothing_is_nan(expert):
    x, t, tokens, mask = some()
    mask[1] = False
    answer = expert(x, t, tokens, mask)
    assert answer.isfinite().all()
    torch.testing.assert_close(expert(x, t, torch.randn_like(tokens), mask)[1], answer[1])


def test_a_clip_does_not_see_the_others_of_its_batch(expert):
    x, t, tokens, mask = some()
    alone = torch.cat(
        [expert(x[i : i + 1], t[i : i + 1], tokens[i : i + 1], mask[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(expert(x, t, tokens, mask), alone, rtol=1e-4, atol=1e-4)


def test_every_frame_sees_every_other(expert):
    x, t, tokens, mask = some(clips=1)
    x.requires_grad_()
    expert(x, t, tokens, mask)[:, :, 0].square().sum().backward()
    assert x.grad[:, :, 1].abs().sum() > 0


def test_autocast_to_bfloat16_changes_little(expert):
    x, t, tokens, mask = some()
    with torch.autocast("cpu", torch.bfloat16):
        half = expert(x, t, tokens, mask)
    full = expert(x, t, tokens, mask)
    assert ((half.float() - full).norm() / full.norm()) < 0.05


def test_it_runs_with_all_its_weights_in_bfloat16(expert):
    x, t, tokens, mask = some()
    full = expert(x, t, tokens, mask)
    half = expert.to(torch.bfloat16)(x, t, tokens, mask)
    assert ((half.float() - full).norm() / full.norm()) < 0.05


def test_it_compiles_in_one_graph(expert):
    x, t, tokens, mask = some()
    compiled = torch.compile(expert, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, tokens, mask), expert(x, t, tokens, mask))


def test_recomputing_activations_gives_the_same_gradients(expert):
    x, t, tokens, mask = some()

    def gradients() -> dict[str, torch.Tensor]:
        expert.zero_grad()
        expert(x, t, tokens, mask).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in expert.named_parameters()}

    plain = gradients()
    expert.enable_gradient_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_saved_and_loaded_it_is_the_same(expert, tmp_path):
    expert.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = VideoDiT.from_pretrained(tmp_path).eval()
    inputs = some()
    assert torch.equal(loaded(*inputs), expert(*inputs))


@pytest.mark.parametrize("shape", [(1, 4, 2, 3, 4), (1, 4, 2, 4, 5)])
def test_latents_of_odd_size_are_refused_with_their_size(expert, shape):
    _, t, tokens, mask = some(1)
    with pytest.raises(ValueError, match=f"{shape[2]}x{shape[3]}x{shape[4]}"):
        expert(torch.zeros(shape), t, tokens, mask)
