import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from paris_p2p.codec.pca import PcaCodec, default_patch, fit_pca
from paris_p2p.codec.video import latent_shape, load_codec
from paris_p2p.errors import DataError, PresetError, UsageError
from paris_p2p.spec import ClipShape


def smooth_video(clips: int, frames: int = 4, side: int = 16, rng_seed: int = 0) -> torch.Tensor:
    """Returns clips whose patches have few degrees of freedom: upsampled noise."""
    generator = torch.Generator().manual_seed(rng_seed)
    small = torch.rand(clips * frames, 3, side // 4, side // 4, generator=generator)
    big = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")
    return (
        (big * 255).to(torch.uint8).reshape(clips, frames, 3, side, side).permute(0, 1, 3, 4, 2).contiguous()
    )


def test_latents_of_the_fitted_clips_have_zero_mean_and_unit_variance_per_channel():
    video = smooth_video(64)
    latents = fit_pca(video.split(8), 4, 8).encode(video)
    assert latents.shape == (64, 8, 4, 4, 4)
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(8), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(8), atol=1e-2)


def test_with_all_components_decoding_gives_every_pixel_back():
    video = smooth_video(64)
    codec = fit_pca([video], 4, 48)
    assert torch.equal(codec.decode(codec.encode(video)), video)


def test_more_channels_never_reconstruct_worse():
    video = smooth_video(64)
    errors = []
    for channels in (1, 4, 16):
        codec = fit_pca([video], 4, channels)
        errors.append(float((codec.decode(codec.encode(video)).float() - video.float()).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_how_the_clips_are_batched_does_not_change_the_codec_beyond_rounding():
    video = smooth_video(32)
    one, many = fit_pca([video], 4, 6), fit_pca(video.split(5), 4, 6)
    assert torch.allclose(one.components, many.components, atol=1e-4)
    assert torch.allclose(one.std, many.std, atol=1e-4)


def test_a_saved_codec_loads_equal_and_saves_to_the_same_bytes(tmp_path):
    codec = fit_pca([smooth_video(16)], 4, 6)
    first = codec.save(tmp_path / "a").read_bytes()
    loaded = load_codec("pca", tmp_path / "a")
    assert isinstance(loaded, PcaCodec)
    assert torch.equal(loaded.components, codec.components)
    assert loaded.save(tmp_path / "b").read_bytes() == first


def test_black_clips_fit_without_dividing_by_zero():
    video = torch.zeros(8, 2, 8, 8, 3, dtype=torch.uint8)
    codec = fit_pca([video], 4, 4)
    assert torch.isfinite(codec.encode(video)).all()
    assert torch.equal(codec.decode(codec.encode(video)), video)


@pytest.mark.parametrize("damage", ["truncated", "nan", "shape", "metadata", "missing"])
def test_a_file_that_is_no_codec_is_refused(tmp_path, damage):
    codec = fit_pca([smooth_video(16)], 4, 6)
    path = codec.save(tmp_path)
    tensors = {"mean": codec.mean, "components": codec.components, "std": codec.std}
    metadata = {"paris": '{"patch_pixels": 4}'}
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "missing":
        path.unlink()
    else:
        if damage == "nan":
            tensors["std"] = torch.full((6,), float("nan"))
        if damage == "shape":
            tensors["mean"] = torch.zeros(7)
        save_file(tensors, path, {"other": "x"} if damage == "metadata" else metadata)
    with pytest.raises(DataError, match=r"pca\.safetensors is not a PCA codec"):
        load_codec("pca", tmp_path)


def test_sizes_the_patch_does_not_divide_and_other_dtypes_are_refused():
    codec = fit_pca([smooth_video(16)], 4, 6)
    with pytest.raises(UsageError, match="divisible by 4"):
        codec.encode(torch.zeros(1, 1, 10, 8, 3, dtype=torch.uint8))
    with pytest.raises(UsageError, match="uint8"):
        codec.encode(torch.zeros(1, 1, 8, 8, 3))


def test_default_patches_divide_the_picture():
    rng = np.random.default_rng(0)
    assert default_patch(64, 64) == (8, 16)
    for height, width in rng.integers(1, 300, (100, 2)):
        side, channels = default_patch(int(height), int(width))
        assert height % side == 0
        assert width % side == 0
        assert 1 <= channels <= 3 * side * side


def test_the_latent_shape_is_what_encode_gives():
    codec = fit_pca([smooth_video(16)], 4, 6)
    assert latent_shape(codec, ClipShape(frames=5, height=8, width=12, fps=8.0)).shape == (6, 5, 2, 3)


def test_an_unknown_codec_is_named():
    with pytest.raises(PresetError, match="no codec is called 'jpeg'"):
        load_codec("jpeg")
