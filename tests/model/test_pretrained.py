"""Tests first weights from other families: exact parts compute the same, and misfits are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, PixArtTransformer2DModel
from torch import Tensor, nn

from paris_p2p.errors import RecordError, UsageError
from paris_p2p.model.layers import MODULATIONS, time_features
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.model.pretrained import fitted_config, start_from
from paris_p2p.spec import LatentShape, TextShape
from tests.model.conftest import stir

IMAGE = LatentShape(channels=4, frames=1, height=8, width=8)
TEXT = TextShape(tokens=5, dim=24, pooled_dim=20)
HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}  # nano's


def made_flux(**changes: Any) -> Any:
    sizes = {
        "num_layers": 1,
        "num_single_layers": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 20,
        "axes_dims_rope": (4, 6, 6),
    }
    return stir(FluxTransformer2DModel(patch_size=1, in_channels=16, **(HEADS | sizes | changes)))


def made_pixart(**changes: Any) -> Any:
    sizes = {
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "cross_attention_dim": 24,
        "sample_size": 8,
    }
    return stir(PixArtTransformer2DModel(use_additional_conditions=False, **(HEADS | sizes | changes)))


def made_dit() -> Any:
    return stir(
        DiTTransformer2DModel(
            in_channels=4, out_channels=8, num_layers=2, sample_size=8, norm_eps=1e-6, **HEADS
        )
    )


def started(theirs: Any, preset: str = "nano", **changes: Any) -> tuple[Any, Any]:
    """Returns (our network after the map, the account) of a diffusers model's tensors."""
    source = theirs if isinstance(theirs, dict) else theirs.state_dict()
    config = fitted_config(
        expert_config(preset, IMAGE, TEXT) | changes, source, {} if theirs is source else theirs.config
    )
    network = build_expert(config)
    start = start_from(network, source)
    network.load_state_dict(start.tensors)
    return network.eval(), start


@torch.no_grad()
@pytest.mark.parametrize(("guidance", "axes"), [(False, (8, 4, 4)), (True, (4, 6, 6))])
def test_an_mmdit_started_from_flux_answers_images_as_flux_does(
    guidance: bool, axes: tuple[int, ...]
) -> None:
    theirs = made_flux(guidance_embeds=guidance, axes_dims_rope=axes)
    ours, start = started(theirs, "mmdit-nano")
    x, t, tokens, pooled = (
        torch.randn(2, 4, 1, 8, 8),
        torch.tensor([0.2, 0.9]),
        torch.randn(2, 5, 24),
        torch.randn(2, 20),
    )
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))
    packed = ours.patch.cut(x)
    velocity = theirs(
        packed,
        tokens,
        pooled,
        t,
        places,
        torch.zeros(5, 3),
        torch.ones(2) if guidance else None,
        return_dict=False,
    )[0]
    answer = ours(x, t, tokens, torch.ones(2, 5, dtype=torch.bool), pooled)
    torch.testing.assert_close(answer, ours.patch.join(velocity, (1, 4, 4)), rtol=1e-4, atol=1e-4)
    assert set(start.left) == {"null_token", "null_pooled"}
    assert start.unused == ()


@torch.no_grad()
@pytest.mark.parametrize("theirs", [made_pixart(), made_dit()], ids=["pixart", "dit"])
def test_but_for_norms_and_rotary_of_queries_and_keys_our_block_is_the_checkpoints(theirs: Any) -> None:
    ours, _ = started(theirs)
    x, text, steer = torch.randn(2, 16, 32), torch.randn(2, 5, 24), torch.randn(2, MODULATIONS, 32)
    mine, block = ours.blocks[1], theirs.transformer_blocks[1]
    for attention in (mine.attention, mine.text):
        attention.q_norm, attention.k_norm = nn.Identity(), nn.Identity()
    still = torch.ones(16, 16), torch.zeros(16, 16)
    around = steer + torch.tensor([0.0, 1, 0, 0, 1, 0])[:, None]
    if isinstance(theirs, PixArtTransformer2DModel):
        answer = mine(x, around, still, text, torch.ones(2, 1, 1, 5, dtype=torch.bool))
        block.scale_shift_table.zero_()
        expected = block(x, encoder_hidden_states=text, timestep=steer.flatten(1))
    else:
        answer = mine(x, around, still)
        block.norm1.emb.forward = lambda *_, **__: torch.zeros(2, 32)
        block.norm1.linear = Constant(steer.flatten(1))
        expected = block(x, timestep=torch.zeros(2), class_labels=torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)


class Constant(nn.Module):
    def __init__(self, value: Tensor):
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


@torch.no_grad()
def test_the_first_and_last_layers_are_the_checkpoints_without_the_variances() -> None:
    theirs = made_pixart()
    ours, _ = started(theirs)
    x = torch.randn(2, 4, 1, 8, 8)
    torch.testing.assert_close(
        ours.embed(ours.patch.cut(x)), nn.Flatten(2)(theirs.pos_embed.proj(x[:, :, 0])).transpose(1, 2)
    )
    hidden = torch.randn(2, 16, 32)
    image = torch.einsum("nhwpqc->nchpwq", theirs.proj_out(hidden).reshape(2, 4, 4, 2, 2, 8)).reshape(
        2, 8, 8, 8
    )
    torch.testing.assert_close(ours.patch.join(ours.out(hidden), (1, 4, 4))[:, :, 0], image[:, :4])


@torch.no_grad()
@pytest.mark.parametrize("theirs", [made_pixart(), made_dit()], ids=["pixart", "dit"])
def test_our_steering_is_the_nearest_that_one_table_a_block_can_come(theirs: Any) -> None:
    ours, start = started(theirs, time_ratio=16)
    t = torch.tensor([0.0, 0.25, 0.6, 1.0])
    if isinstance(theirs, PixArtTransformer2DModel):
        wanted, _ = theirs.adaln_single(t * 1000, batch_size=4, hidden_dtype=torch.float32)
        tables = torch.stack([block.scale_shift_table for block in theirs.transformer_blocks])
        difference = ours._shared(t)[:, None] + ours.tables - (wanted.unflatten(1, (6, 32))[:, None] + tables)
        ones = difference[:, :, [1, 4]]
        assert (ones - 1).abs().mean() < 0.05 * wanted.std()
        assert difference[:, :, [0, 2, 3, 5]].abs().mean() < 0.05 * wanted.std()
    _, how = start.taken["tables"]
    assert "fitted to the checkpoint's steering by time" in how


@torch.no_grad()
def test_a_still_clip_is_embedded_as_its_image_and_every_frame_read_out_as_it() -> None:
    theirs = made_pixart()
    image, _ = started(theirs)
    video, _ = started(theirs, patch_frames=2)
    x = torch.randn(1, 4, 1, 8, 8)
    still = x.expand(-1, -1, 4, -1, -1)
    expected = image.embed(image.patch.cut(x))
    torch.testing.assert_close(video.embed(video.patch.cut(still)), expected.repeat(1, 2, 1))
    frames = video.patch.join(video.out(expected.repeat(1, 2, 1)), (2, 4, 4))
    torch.testing.assert_close(
        frames, image.patch.join(image.out(expected), (1, 4, 4)).expand(-1, -1, 4, -1, -1)
    )


def test_our_own_weights_come_back_as_they_are_and_inflate_too() -> None:
    for preset in ("nano", "mmdit-nano"):
        own = stir(build_expert(expert_config(preset, IMAGE, TEXT)))
        again, start = started(own.state_dict(), preset)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in own.state_dict().items())
        assert (start.left, start.unused) == ({}, ())
        video, _ = started(own.state_dict(), preset, patch_frames=2)
        assert torch.equal(video.embed.weight.unflatten(1, (4, 2, 4)).sum(2).flatten(1), own.embed.weight)
        same, _ = started(video.state_dict(), preset, patch_frames=2)
        assert torch.equal(same.out.weight, video.out.weight)


def test_the_original_dits_names_give_what_diffusers_names_give() -> None:
    theirs = made_dit()
    for block in theirs.transformer_blocks:  # the original has one embedding for all
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    of_diffusers, _ = started(theirs)
    of_original, start = started(as_original(theirs.state_dict()))
    for name, value in of_diffusers.state_dict().items():
        if not name.startswith(("null", "time_in")) and ".text." not in name:
            torch.testing.assert_close(of_original.state_dict()[name], value, msg=name)
    assert start.unused == ("pos_embed",)


def as_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reverses diffusers' scripts/convert_dit_to_diffusers.py."""
    ends = {
        "pos_embed.proj": "x_embedder.proj",
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    inside = {
        "norm1.linear": "adaLN_modulation.1",
        "attn1.to_out.0": "attn.proj",
        "ff.net.0.proj": "mlp.fc1",
        "ff.net.2": "mlp.fc2",
    }
    emb = "transformer_blocks.0.norm1.emb"
    made = {
        "pos_embed": torch.zeros(1, 16, 32),
        "y_embedder.embedding_table.weight": state[f"{emb}.class_embedder.embedding_table.weight"],
    }
    for part in ("weight", "bias"):
        made |= {f"{new}.{part}": state[f"{old}.{part}"] for old, new in ends.items()}
        made |= {
            f"t_embedder.mlp.{2 * n}.{part}": state[f"{emb}.timestep_embedder.linear_{n + 1}.{part}"]
            for n in range(2)
        }
        for n in range(2):
            made |= {
                f"blocks.{n}.{new}.{part}": state[f"transformer_blocks.{n}.{old}.{part}"]
                for old, new in inside.items()
            }
            made[f"blocks.{n}.attn.qkv.{part}"] = torch.cat(
                [state[f"transformer_blocks.{n}.attn1.to_{name}.{part}"] for name in "qkv"]
            )
    return made


def test_with_a_caption_projection_text_starts_without_a_say_and_that_is_reported() -> None:
    ours, start = started(made_pixart(caption_channels=24, cross_attention_dim=32))
    assert not ours.blocks[0].text.out.weight.any()
    assert "caption_projection.linear_1.weight" in start.unused
    told = start.describe()
    assert (
        "blocks.N.attention.qkv.weight <- transformer_blocks.N.attn1.to_q.weight + "
        "transformer_blocks.N.attn1.to_k.weight" in told
    )
    assert "x2" in told
    assert "blocks.N.text.kv.weight: nothing in the checkpoint fits here" in told


def test_other_latents_and_text_leave_only_the_ends_as_they_start() -> None:
    _, start = started(made_pixart(in_channels=3, out_channels=6, cross_attention_dim=7))
    assert {name for name, why in start.left.items() if why.startswith("the checkpoint's is")} == {
        "embed.weight",
        "out.weight",
        "out.bias",
    }
    text = {name for name in start.tensors if ".text." in name}
    assert text | {"embed.weight", "out.weight", "out.bias", "null_token"} == set(start.left)


@pytest.mark.parametrize(
    ("theirs", "preset", "words"),
    [
        (
            made_pixart(),
            "micro",
            r"PixArt with width 32, depth 2, heads 2, .* width 128, depth 4, heads 4; --expert nano fits",
        ),
        (made_pixart(num_layers=3), "nano", r"depth 3.*; no preset has these sizes"),
        (made_flux(), "nano", r"FLUX.*video-dit.*--expert mmdit-nano fits"),
        (made_flux(axes_dims_rope=(2, 8, 6)), "mmdit-nano", r"rotary entries \[2, 8, 6\]"),
        ({"model.embed": torch.zeros(1)}, "nano", "no map for a checkpoint with tensors like"),
        (
            {name: value for name, value in made_pixart().state_dict().items() if "attn1.to_k" not in name},
            "nano",
            r"lacks transformer_blocks\.0\.attn1\.to_k\.bias",
        ),
        (
            {name: value for name, value in made_dit().state_dict().items() if "linear_1" not in name},
            "nano",
            "has no tensor .*linear_1",
        ),
        (
            made_pixart().state_dict() | {"transformer_blocks.0.ff.net.0.proj.weight": torch.zeros(64, 32)},
            "nano",
            r"blocks\.0\.up\.weight is \[128, 32\], made of the checkpoint's it would be \[64, 32\]",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_sizes_and_the_preset_that_would(
    theirs: Any, preset: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        started(theirs, preset)


def test_tensors_that_do_not_go_together_are_named() -> None:
    state = made_pixart().state_dict()
    with pytest.raises(UsageError, match="layers of time do not fit each other"):
        started(state | {"adaln_single.linear.bias": torch.zeros(3)})
    with pytest.raises(
        UsageError, match=r"blocks\.0\.attention\.qkv\.weight cannot be made of .*to_q\.weight.*\[3\]"
    ):
        started(state | {"transformer_blocks.0.attn1.to_q.weight": torch.zeros(3)})
    with pytest.raises(UsageError, match=r"lacks adaln_single\.linear\.weight as a matrix"):
        started(state | {"adaln_single.linear.weight": torch.zeros(())})


def test_rotary_pairs_for_frames_are_the_configs_and_bounded() -> None:
    config = expert_config("mmdit-nano", IMAGE, TEXT)
    assert build_expert(config | {"rotary_frame_pairs": 2}).positions.pairs == (2, 3, 3)
    assert build_expert(config).positions.pairs == (2, 3, 3)
    assert build_expert(config | {"rotary_frame_pairs": 4}).positions.pairs == (4, 2, 2)
    with pytest.raises(RecordError, match="rotary_frame_pairs is 9"):
        build_expert(config | {"rotary_frame_pairs": 9})


def test_times_are_embedded_as_pixart_embeds_its_steps() -> None:
    steps = torch.tensor([0.0, 251.0, 1000.0])
    torch.testing.assert_close(
        time_features(steps / 1000), made_pixart().adaln_single.emb.time_proj(steps), rtol=1e-4, atol=1e-4
    )
