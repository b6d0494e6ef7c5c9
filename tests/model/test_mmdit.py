"""Tests the multimodal expert network."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from paris_p2p.errors import PresetError, RecordError
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.model.experts import ExpertSet
from paris_p2p.model.mmdit import MMDiT
from paris_p2p.model.presets import MMDIT_PRESETS, Config, build_expert, count_parameters, expert_config
from paris_p2p.spec import LatentShape, TextShape
from tests.model.conftest import LATENT, TEXT, stir

# HunyuanVideo's autoencoder, 33 frames of 256x256
OPEN_SORA_LATENT = LatentShape(channels=16, frames=9, height=32, width=32)
OPEN_SORA_TEXT = TextShape(tokens=512, dim=4096, pooled_dim=768)  # T5-XXL and CLIP ViT-L/14

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def mmdit() -> MMDiT:
    return stir(build_expert(expert_config("mmdit-nano", LATENT, TEXT)))


def some(clips: int = 3, frames: int = 2) -> Inputs:
    mask = torch.tensor([True, True, True, False, False]).repeat(clips, 1)
    return (
        torch.randn(clips, 4, frames, 4, 4),
        torch.rand(clips),
        torch.randn(clips, 5, 8),
        mask,
        torch.randn(clips, 6),
    )


def test_a_fresh_expert_answers_zero_and_every_parameter_learns_after_a_few_steps():
    network = build_expert(expert_config("mmdit-nano", LATENT, TEXT))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    x, t, tokens, mask, pooled = some()
    mask[0] = False
    assert not network(x, t, tokens, mask, pooled).any()
    for _ in range(6):
        optimizer.zero_grad()
        (network(x, t, tokens, mask, pooled) - 1).square().mean().backward()
        optimizer.step()
    assert [
        name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])
    ] == []


def test_the_shape_is_kept_and_an_image_is_a_clip_of_one_frame(mmdit):
    for frames in (1, 2, 5):
        inputs = some(frames=frames)
        assert mmdit(*inputs).shape == inputs[0].shape


def test_padded_tokens_do_not_matter_and_real_ones_and_the_pooled_text_do(mmdit):
    x, t, tokens, mask, pooled = some()
    answer = mmdit(x, t, tokens, mask, pooled)
    changed = tokens.clone()
    changed[:, 3:] = 1e3
    torch.testing.assert_close(mmdit(x, t, changed, mask, pooled), answer)
    torch.testing.assert_close(mmdit(x, t, tokens[:, :3], mask[:, :3], pooled), answer, rtol=1e-4, atol=1e-4)
    changed[:, 0] += 1
    assert not torch.allclose(mmdit(x, t, changed, mask, pooled), answer, atol=1e-3)
    assert not torch.allclose(mmdit(x, t, tokens, mask, pooled + 1), answer, atol=1e-3)
    assert not torch.allclose(mmdit(x, t.flip(0), tokens, mask, pooled), answer, atol=1e-3)


def test_without_text_neither_tokens_nor_pooled_text_matter_and_nothing_is_nan(mmdit):
    x, t, tokens, mask, pooled = some()
    mask[1] = False
    answer = mmdit(x, t, tokens, mask, pooled)
    assert answer.isfinite().all()
    torch.testing.assert_close(
        mmdit(x, t, torch.randn_like(tokens), mask, torch.randn_like(pooled))[1], answer[1]
    )
    torch.testing.assert_close(mmdit(x, t, tokens, mask)[1], answer[1])


def test_a_clip_does_not_see_the_others_of_its_batch(mmdit):
    inputs = some()
    inputs[3][1] = False
    alone = torch.cat([mmdit(*(value[i : i + 1] for value in inputs)) for i in range(3)])
    torch.testing.assert_close(mmdit(*inputs), alone, rtol=1e-4, atol=1e-4)


def test_every_frame_sees_every_other_and_where_it_is(mmdit):
    x, *others = some(clips=1)
    x.requires_grad_()
    answer = mmdit(x, *others)
    answer[:, :, 0].square().sum().backward()
    assert x.grad[:, :, 1].abs().sum() > 0
    moved = mmdit(x.flip(2), *others).flip(2)
    assert not torch.allclose(moved, answer, atol=1e-3)


def test_autocast_to_bfloat16_changes_little_and_so_do_weights_in_it(mmdit):
    inputs = some()
    full = mmdit(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert ((mmdit(*inputs).float() - full).norm() / full.norm()) < 0.06
    half = mmdit.to(torch.bfloat16)(*inputs)
    assert half.dtype == torch.bfloat16
    assert ((half.float() - full).norm() / full.norm()) < 0.06


def test_it_compiles_in_one_graph(mmdit):
    inputs = some()
    torch.testing.assert_close(torch.compile(mmdit, backend="eager", fullgraph=True)(*inputs), mmdit(*inputs))


def test_recomputing_activations_gives_the_same_gradients(mmdit):
    inputs = some()

    def gradients() -> dict[str, torch.Tensor]:
        mmdit.zero_grad()
        mmdit(*inputs).square().mean().backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in mmdit.named_parameters()
            if parameter.grad is not None
        }

    plain = gradients()
    mmdit.enable_gradient_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_trained_on_a_few_clips_its_loss_goes_down():
    network = build_expert(expert_config("mmdit-nano", LATENT, TEXT))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    x0, _, tokens, mask, pooled = (value.repeat(8, *[1] * (value.dim() - 1)) for value in some(4))
    losses = []
    for _ in range(80):
        eps, t = torch.randn_like(x0), torch.rand(len(x0))
        loss = clip_losses(
            network(interpolate(x0, eps, t), t, tokens, mask, pooled), velocity(x0, eps)
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_saved_and_loaded_alone_or_in_a_set_of_experts_it_is_the_same(mmdit, tmp_path):
    inputs = some()
    mmdit.save_pretrained(tmp_path / "alone")
    assert torch.equal(MMDiT.from_pretrained(tmp_path / "alone").eval()(*inputs), mmdit(*inputs))
    experts = ExpertSet(2, [1], expert_config("mmdit-nano", LATENT, TEXT))
    experts.expert(1).load_state_dict(mmdit.state_dict())
    experts.save_pretrained(tmp_path / "set")
    loaded = ExpertSet.from_pretrained(tmp_path / "set")
    assert type(loaded.expert(1)) is MMDiT
    assert torch.equal(loaded.expert(1)(*inputs), mmdit(*inputs))


def test_latents_of_odd_size_are_refused_with_their_size(mmdit):
    _, *others = some(1)
    with pytest.raises(ValueError, match="2x3x4"):
        mmdit(torch.zeros(1, 4, 2, 3, 4), *others)


def test_the_largest_preset_is_open_soras_size_and_fluxs_layer_by_layer():
    """Compares with Open-Sora 2.0's layout, which is FLUX's without embedded guidance.

    It says 11B and has 11.89B; only the stand-ins for no text are added here.
    """
    count = count_parameters(expert_config("mmdit-11b", OPEN_SORA_LATENT, OPEN_SORA_TEXT))
    assert int(count / 1e9) == 11
    with torch.device("meta"):
        flux = FluxTransformer2DModel(in_channels=64, guidance_embeds=False)
    stand_ins = 4096 + 768
    assert count - stand_ins == sum(parameter.numel() for parameter in flux.parameters())


def test_every_preset_builds_and_answers_on_the_meta_device():
    with torch.device("meta"):
        for preset in MMDIT_PRESETS:
            network = build_expert(expert_config(preset, LATENT, TEXT))
            mask = torch.empty(2, 5, dtype=torch.bool)
            out = network(
                torch.empty(2, 4, 2, 4, 4), torch.empty(2), torch.empty(2, 5, 8), mask, torch.empty(2, 6)
            )
            assert out.shape == (2, 4, 2, 4, 4)


def test_a_config_without_an_architecture_is_a_video_dit_as_before():
    config = expert_config("nano", LATENT, TEXT)
    assert "architecture" not in config
    assert type(build_expert(config)) is type(build_expert({**config, "architecture": "video-dit"}))


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "paris_p2p.model.dit.VideoDiT"},
        {"architecture": 1},
        {"single_depth": 0},
        {"depth": 2},
        {"pooled_width": 1 << 20},
    ],
)
def test_an_architecture_or_number_that_is_not_in_the_tables_is_refused(change: Config):
    with pytest.raises(RecordError):
        build_expert({**expert_config("mmdit-nano", LATENT, TEXT), **change})


def test_an_unknown_preset_names_these_too():
    with pytest.raises(PresetError, match=r"nano, micro.*mmdit-nano"):
        expert_config("mmdit-huge", LATENT, TEXT)
