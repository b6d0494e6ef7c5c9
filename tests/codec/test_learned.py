from pathlib import Path

import pytest
import torch

from paris_p2p.codec import learned
from paris_p2p.codec.learned import Kind, LearnedOptions, fit_autoencoder, options_key
from paris_p2p.codec.learned_image import LearnedImage
from paris_p2p.codec.learned_video import LearnedVideo, pair_components
from paris_p2p.codec.pca import fit_pca
from paris_p2p.codec.video import Codec, check_first_latent, latent_shape, load_codec
from paris_p2p.errors import UsageError
from paris_p2p.spec import ClipShape

OPTIONS = LearnedOptions(patch_pixels=4, channels=4, steps=12, batch_frames=4, learning_rate=5e-3)
KINDS = [LearnedImage(), LearnedVideo()]
FRAMES = {"image": 1, "video": 5}


def pictures(count: int = 16, frames: int = 1) -> torch.Tensor:
    """Returns smooth ramps of different colours that drift to others: [N, T, 16, 16, 3]."""
    rng = torch.Generator().manual_seed(0)
    ends = torch.rand(2, count, 3, 2, 2, generator=rng)
    along = torch.linspace(0, 1, frames)[:, None, None, None, None]
    low = (ends[0] + (ends[1] - ends[0]) * along).flatten(0, 1)  # (T N) 3 2 2
    x = torch.nn.functional.interpolate(low, size=(16, 16), mode="bilinear", align_corners=True)
    return (x * 255).to(torch.uint8).unflatten(0, (frames, count)).permute(1, 0, 3, 4, 2).contiguous()


def examples(kind: Kind) -> torch.Tensor:
    return pictures(frames=FRAMES[kind.name])


def noise(count: int, frames: int) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, frames, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def fit(
    folder: Path, kind: Kind = KINDS[0], options: LearnedOptions = OPTIONS, progress=lambda *_: None
) -> Path:
    return fit_autoencoder(kind, examples(kind), options, folder, "cpu", progress)


def error_of(codec: Codec, video: torch.Tensor) -> float:
    return float((codec.decode(codec.encode(video)).float() - video).square().mean())


def weights(folder: Path) -> bytes:
    return (folder / "diffusion_pytorch_model.safetensors").read_bytes() + (
        folder / "config.json"
    ).read_bytes()


def test_an_untrained_image_autoencoder_is_pca():
    for patch, channels in ((2, 5), (4, 7), (8, 16)):
        model = LearnedImage().build(LearnedOptions(patch, channels, 1), noise(64, 1))
        pca = fit_pca([noise(64, 1)], patch, channels)
        video = noise(64, 1)[:8]
        z = model.encode(LearnedImage().arrange(video).float() / 127.5 - 1).latent
        torch.testing.assert_close(z, pca.encode(video)[:, :, 0], atol=1e-4, rtol=1e-4)
        given_back = ((model.decode(z).sample + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
        # the norm bends a little
        assert (given_back - pca.decode(z[:, :, None])[:, 0].float()).abs().max() <= 3


def test_an_untrained_video_autoencoder_is_pca_of_pairs_of_frames():
    """Its latents are the coordinates of (first, first), (second, third), ...; what it gives back are the
    frames those span.
    """
    for patch, channels in ((2, 5), (4, 7), (8, 16)):
        clips = noise(64, 5)
        model = LearnedVideo().build(LearnedOptions(patch, channels, 1), clips)
        mean, components, std = pair_components(clips, patch, channels)
        assert torch.allclose(components.T @ components, torch.eye(channels), atol=1e-5)
        x = clips[:4].float() / 127.5 - 1
        for latent, (one, two) in enumerate(((0, 0), (1, 2), (3, 4))):
            # B 2 h p w p 3
            patches = (
                torch.stack([x[:, one], x[:, two]], 1).unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
            )
            # B h w D
            rows = patches.permute(0, 2, 4, 1, 3, 5, 6).flatten(3)
            wanted = (rows - mean) @ components / std
            z = model.encode(LearnedVideo().arrange(x)).latent_dist.mode()[:, :, latent].permute(0, 2, 3, 1)
            assert (z - wanted).square().mean() < 0.02**2  # of unit variance; the norm bends a little
            back = model.decode(model.encode(LearnedVideo().arrange(x)).latent_dist.mode()).sample
            spanned = (wanted * std) @ components.T + mean
            # B 2 H W 3
            spanned = (
                spanned.unflatten(3, (2, patch, patch, 3))
                .permute(0, 3, 1, 4, 2, 5, 6)
                .flatten(4, 5)
                .flatten(2, 3)
            )
            assert (back[:, :, two].permute(0, 2, 3, 1) - spanned[:, 1]).abs().mean() < 0.01
            # so few channels do not hold noise
            assert (back[:, :, two].permute(0, 2, 3, 1) - x[:, two]).abs().mean() > 0.1


def test_fitting_beats_pca_and_the_folder_is_a_codec_of_diffusers(tmp_path):
    codec = load_codec(f"diffusers:{fit(tmp_path / 'codec', options=LearnedOptions(4, 4, 150, 4))}")
    assert error_of(codec, pictures()) < 0.8 * error_of(fit_pca([pictures()], 4, 4), pictures())
    assert latent_shape(codec, ClipShape(frames=3, height=16, width=16, fps=8.0)).shape == (4, 3, 4, 4)


def test_fitting_a_video_autoencoder_beats_pca_of_as_many_numbers(tmp_path):
    video = pictures(frames=5)
    codec = load_codec(f"diffusers:{fit(tmp_path / 'codec', KINDS[1], LearnedOptions(4, 5, 100, 20))}")
    assert codec.encode(video).shape == (16, 5, 3, 4, 4)
    untrained = load_codec(f"diffusers:{fit(tmp_path / 'untrained', KINDS[1], LearnedOptions(4, 5, 0, 20))}")
    assert error_of(codec, video) < 0.7 * error_of(untrained, video)
    # 3 channels in each of 5 frames, against 5 in each of 3
    assert error_of(codec, video) < error_of(fit_pca([video], 4, 3), video)


def test_a_video_autoencoder_is_causal_so_that_clips_can_start_from_an_image(tmp_path):
    codec = load_codec(f"diffusers:{fit(tmp_path / 'codec', KINDS[1])}")
    for frames in (3, 5, 9):  # also other than it was fitted on
        assert latent_shape(codec, ClipShape(frames=frames, height=16, width=16, fps=8.0)).shape == (
            4,
            (frames + 1) // 2,
            4,
            4,
        )
    check_first_latent(codec, ClipShape(frames=9, height=16, width=16, fps=8.0))
    whole = codec.encode(noise(1, 9))
    torch.testing.assert_close(codec.encode(noise(1, 9)[:, :5]), whole[:, :, :3], atol=1e-4, rtol=1e-4)
    shown, start = codec.decode(whole).int(), codec.decode(whole[:, :, :3]).int()
    assert (shown[:, :5] - start).abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_channel_has_zero_mean_and_unit_variance_and_decoding_undoes_just_that(tmp_path, kind):
    codec = load_codec(f"diffusers:{fit(tmp_path / 'codec', kind)}")
    latents = codec.encode(examples(kind))  # N C T' h w
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.var((0, 2, 3, 4), correction=0), torch.ones(4), atol=1e-3)
    raw = learned.latents_of(codec.model.encode(kind.arrange(examples(kind)).float() / 127.5 - 1))
    own = ((codec.model.decode(raw).sample.detach() + 1) * 127.5).round().clamp(0, 255)
    assert (kind.arrange(codec.decode(latents)).float() - own).abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_stopped_fit_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(learned, "CHECKPOINT_STEPS", 3)
    whole = weights(fit(tmp_path / "whole", kind))
    done: list[int] = []

    def stop(_: str, step: int, __: int) -> None:
        done.append(step)
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", kind, progress=stop)
    assert weights(fit(tmp_path / "stopped", kind, progress=lambda _, step, __: done.append(step))) == whole
    assert done == [*range(1, 9), *range(7, 13)]
    assert (
        weights(fit(tmp_path / "stopped", kind, progress=lambda *_: pytest.fail("it was fitted again")))
        == whole
    )
    assert not list(tmp_path.glob("*.training.*"))
    assert weights(fit(tmp_path / "other", kind, LearnedOptions(4, 4, 12, 4, 5e-3, rng_seed=1))) != whole


def test_a_patch_that_is_no_power_of_two_is_refused():
    with pytest.raises(
        UsageError, match="patch side is 2, 4, 8 or 16, not 6; choose a height and width that 8 divides"
    ):
        LearnedOptions(6, 4, 1)


def test_a_fitted_codec_is_another_for_another_kind_layout_or_option():
    keys = [
        repr(options_key(kind, OPTIONS))
        for kind in (*KINDS, LearnedVideo(layers=(1, 2)), LearnedImage(deep_layers=(1, 1)))
    ]
    keys.append(repr(options_key(KINDS[0], LearnedOptions(4, 4, 13))))
    assert len(set(keys)) == 5


@pytest.mark.parametrize(("frames", "better"), [(1, 3), (2, 3), (8, 9)])
def test_frames_that_do_not_pair_are_refused_with_a_number_that_does(frames, better):
    with pytest.raises(
        UsageError, match=rf"3 or more, not {frames}; prepare with --frames {better}, or with --codec train"
    ):
        LearnedVideo().check_frames(frames)
    LearnedVideo().check_frames(better)
