from pathlib import Path

import pytest
import torch

from paris_p2p.codec import learned
from paris_p2p.codec.learned import LearnedOptions, build_autoencoder, fit_autoencoder
from paris_p2p.codec.pca import fit_pca
from paris_p2p.codec.video import Codec, latent_shape, load_codec
from paris_p2p.errors import UsageError
from paris_p2p.spec import ClipShape

OPTIONS = LearnedOptions(patch_pixels=4, channels=4, steps=12, batch_pictures=4, learning_rate=5e-3)


def pictures(count: int = 16) -> torch.Tensor:
    """Smooth ramps of different colours: [N, 16, 16, 3]."""
    rng = torch.Generator().manual_seed(0)
    low = torch.rand(count, 3, 2, 2, generator=rng)
    x = torch.nn.functional.interpolate(low, size=(16, 16), mode="bilinear", align_corners=True)
    return (x * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def fit(folder: Path, options: LearnedOptions = OPTIONS, progress=lambda *_: None) -> Path:
    return fit_autoencoder(pictures(), options, folder, "cpu", progress)


def error_of(codec: Codec) -> float:
    video = pictures()[None]
    return float((codec.decode(codec.encode(video)).float() - video).square().mean())


def weights(folder: Path) -> bytes:
    return (folder / "diffusion_pytorch_model.safetensors").read_bytes() + (folder / "config.json").read_bytes()


def test_an_untrained_autoencoder_is_pca():
    noise = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for patch, channels in ((2, 5), (4, 7), (8, 16)):
        model = build_autoencoder(LearnedOptions(patch, channels, 1), noise)
        pca = fit_pca([noise[:, None]], patch, channels)
        x = noise[:8].permute(0, 3, 1, 2).float() / 127.5 - 1
        z = model.encode(x).latent
        torch.testing.assert_close(z, pca.encode(noise[:8, None])[:, :, 0], atol=1e-4, rtol=1e-4)
        given_back = ((model.decode(z).sample + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
        assert (given_back - pca.decode(z[:, :, None])[:, 0].float()).abs().max() <= 3  # the norm bends a little


def test_fitting_beats_pca_and_the_folder_is_a_codec_of_diffusers(tmp_path):
    codec = load_codec(f"diffusers:{fit(tmp_path / 'codec', LearnedOptions(4, 4, 150, 4))}")
    assert error_of(codec) < 0.8 * error_of(fit_pca([pictures()[None]], 4, 4))
    assert latent_shape(codec, ClipShape(frames=3, height=16, width=16, fps=8.0)).shape == (4, 3, 4, 4)


def test_each_channel_has_zero_mean_and_unit_variance_and_decoding_undoes_just_that(tmp_path):
    codec = load_codec(f"diffusers:{fit(tmp_path / 'codec')}")
    latents = codec.encode(pictures()[None])  # 1 C N h w
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.var((0, 2, 3, 4), correction=0), torch.ones(4), atol=1e-3)
    raw = codec.model.encode(pictures().permute(0, 3, 1, 2).float() / 127.5 - 1).latent
    own = ((codec.model.decode(raw).sample.detach() + 1) * 127.5).round().clamp(0, 255)
    assert (codec.decode(latents)[0].permute(0, 3, 1, 2).float() - own).abs().max() <= 1


def test_a_stopped_fit_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(learned, "CHECKPOINT_STEPS", 3)
    whole = weights(fit(tmp_path / "whole"))
    done: list[int] = []

    def stop(_: str, step: int, __: int) -> None:
        done.append(step)
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", progress=stop)
    assert weights(fit(tmp_path / "stopped", progress=lambda _, step, __: done.append(step))) == whole
    assert done == [*range(1, 9), *range(7, 13)]
    assert weights(fit(tmp_path / "stopped", progress=lambda *_: pytest.fail("it was fitted again"))) == whole
    assert not list(tmp_path.glob("*.training.*"))
    assert weights(fit(tmp_path / "other", LearnedOptions(4, 4, 12, 4, 5e-3, rng_seed=1))) != whole


def test_a_patch_that_is_no_power_of_two_is_refused():
    with pytest.raises(UsageError, match="patch side is 2, 4, 8 or 16, not 6"):
        build_autoencoder(LearnedOptions(6, 4, 1), pictures())
