import json

import diffusers
import pytest
import torch

from paris_p2p.codec.video import latent_shape, load_codec
from paris_p2p.errors import BlobError, PresetError, UsageError
from paris_p2p.spec import ClipShape
from paris_p2p.weights import find_model_files

TINY = {  # name -> (configuration, frames it can take)
    "AutoencoderKL": (
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (4, 8),
            "norm_num_groups": 2,
            "shift_factor": 0.1,
            "scaling_factor": 0.5,
        },
        4,
    ),
    "AutoencoderTiny": (
        {
            "encoder_block_out_channels": (4, 4),
            "decoder_block_out_channels": (4, 4),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
        4,
    ),
    "AutoencoderKLHunyuanVideo": (
        {"block_out_channels": (4,) * 4, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4},
        9,
    ),
    "AutoencoderKLWan": ({"base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}, 9),
    "AutoencoderKLQwenImage": (
        {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        9,
    ),
    "AutoencoderKLLTXVideo": (
        {
            "latent_channels": 8,
            "block_out_channels": (8,) * 4,
            "decoder_block_out_channels": (8,) * 4,
            "layers_per_block": (1,) * 5,
            "decoder_layers_per_block": (1,) * 5,
            "patch_size": 2,
        },
        9,
    ),
    "AutoencoderKLCogVideoX": (
        {"block_out_channels": (4,) * 4, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4},
        9,
    ),
    "AutoencoderKLMochi": (
        {
            "encoder_block_out_channels": (32,) * 4,
            "decoder_block_out_channels": (32,) * 4,
            "layers_per_block": (1,) * 5,
            "latent_channels": 12,
        },
        7,
    ),
}


def saved(name: str, folder) -> torch.nn.Module:
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**TINY[name][0])
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("name", TINY)
def test_an_autoencoder_folder_codes_clips_there_and_back(tmp_path, name):
    saved(name, tmp_path)
    codec = load_codec(f"diffusers:{tmp_path}")
    clip = ClipShape(frames=TINY[name][1], height=32, width=32, fps=8.0)
    shape = latent_shape(codec, clip).shape
    video = torch.randint(0, 256, (2, clip.frames, 32, 32, 3), dtype=torch.uint8)
    latents = codec.encode(video)
    assert latents.shape == (2, *shape)
    assert latents.dtype == torch.float32
    assert codec.decode(latents).shape == video.shape
    assert torch.allclose(codec.encode(video[1:]), latents[1:], atol=1e-4)


def test_image_latents_are_shifted_and_scaled_as_the_configuration_says(tmp_path):
    model = saved("AutoencoderKL", tmp_path)
    video = torch.randint(0, 256, (1, 2, 16, 16, 3), dtype=torch.uint8)
    latents = load_codec(f"diffusers:{tmp_path}").encode(video)
    frame = video[0, 1].permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = (model.encode(frame).latent_dist.mode() - 0.1) * 0.5
    assert torch.allclose(latents[:, :, 1], expected, atol=1e-5)


def test_wan_latents_use_its_mean_and_std_per_channel(tmp_path):
    model = saved("AutoencoderKLWan", tmp_path)
    video = torch.randint(0, 256, (1, 5, 16, 16, 3), dtype=torch.uint8)
    latents = load_codec(f"diffusers:{tmp_path}").encode(video)
    raw = model.encode(video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).latent_dist.mode()
    mean, std = (
        torch.tensor(model.config[key])[:, None, None, None] for key in ("latents_mean", "latents_std")
    )
    assert torch.allclose(latents, (raw - mean) / std, atol=1e-4)


def test_frames_that_a_video_autoencoder_cannot_keep_are_refused_with_those_it_can(tmp_path):
    saved("AutoencoderKLWan", tmp_path)
    codec = load_codec(f"diffusers:{tmp_path}")
    with pytest.raises(UsageError, match=r"makes 5 frames .* --frames 5"):
        latent_shape(codec, ClipShape(frames=7, height=32, width=32, fps=8.0))


def test_a_folder_given_beside_the_name_is_read_instead_of_it(tmp_path):
    saved("AutoencoderTiny", tmp_path)
    assert load_codec("diffusers:/nowhere/else", tmp_path).name == "diffusers:/nowhere/else"


def test_a_class_outside_the_table_is_refused(tmp_path):
    saved("AutoencoderTiny", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    with pytest.raises(PresetError, match="UNet2DModel, not an autoencoder known here"):
        load_codec(f"diffusers:{tmp_path}")


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path):
    saved("AutoencoderTiny", tmp_path)
    pinned = find_model_files(str(tmp_path)).sha256
    load_codec(f"diffusers:{tmp_path}", sha256=pinned)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BlobError, match="the run was made with"):
        load_codec(f"diffusers:{tmp_path}", sha256=pinned)


def test_weights_as_a_pickle_are_never_read(tmp_path):
    model = saved("AutoencoderTiny", tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_codec(f"diffusers:{tmp_path}")
