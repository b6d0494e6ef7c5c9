from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from paris_p2p.errors import BlobError, PresetError, UsageError
from paris_p2p.features.aesthetic import load_aesthetic
from paris_p2p.features.image import load_features
from paris_p2p.features.image_text import load_clip

TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CAPTIONS = ["a red ball rolls", "a ball", "red red red"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-clip"
    save_clip(path)
    return path


def save_clip(path: Path) -> None:
    """Saves a CLIP of random weights and seven words."""
    torch.manual_seed(0)
    text = {
        **TOWER,
        "vocab_size": 8,
        "max_position_embeddings": 6,
        "eos_token_id": 1,
        "bos_token_id": 0,
        "pad_token_id": 0,
    }
    vision = {**TOWER, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(path)
    words = {
        word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "red", "ball", "rolls"])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)


def clips(count: int, frames: int = 4) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, frames, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_text_times_a_clips_features_is_the_mean_cosine_of_caption_and_frames(folder):
    clip, model = load_clip(str(folder), frames=4), CLIPModel.from_pretrained(folder).eval()
    video = clips(3)
    similarity = (clip(video) * clip.text(CAPTIONS)).sum(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    words = tokenizer(CAPTIONS, padding="max_length", max_length=6, truncation=True, return_tensors="pt")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for i in range(3):
        pixels = ((video[i] / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.no_grad():
            told = model(
                input_ids=words["input_ids"][i : i + 1],
                attention_mask=words["attention_mask"][i : i + 1],
                pixel_values=pixels,
            )
        assert similarity[i].item() == pytest.approx(
            torch.cosine_similarity(told.image_embeds, told.text_embeds).mean().item(), abs=1e-5
        )


def test_captions_longer_than_clip_reads_are_cut_and_do_not_depend_on_their_neighbours(folder):
    clip = load_clip(str(folder), frames=1)
    long = clip.text(["ball " * 5000, *CAPTIONS])
    assert long.shape == (4, 12)
    assert torch.allclose(long.norm(dim=1), torch.ones(4))
    assert torch.allclose(long[1:2], clip.text(CAPTIONS[:1]), atol=1e-6)


def test_clip_is_a_feature_network_by_name_and_pinned_by_its_files(folder):
    features = load_features(f"clip:{folder}", frames=2)
    assert features.title == "CLIP tiny-clip"
    assert features(clips(3, frames=8)).shape == (3, 12)
    assert features(clips(1, frames=1)).shape == (1, 12)
    with pytest.raises(BlobError, match="hashes to"):
        load_features(f"clip:{folder}", sha256="0" * 64)


def test_a_vision_tower_alone_and_a_missing_tokenizer_are_refused(tmp_path, folder):
    CLIPVisionModel(CLIPVisionConfig(**TOWER, image_size=16, patch_size=8)).save_pretrained(
        tmp_path / "vision"
    )
    with pytest.raises(PresetError, match="CLIPVisionModel, not a CLIP with both towers"):
        load_features(f"clip:{tmp_path / 'vision'}")
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(UsageError, match="no tokenizer in"):
        load_features(f"clip:{tmp_path / 'bare'}")


def test_the_aesthetic_value_of_a_clip_is_the_mean_over_its_frames(folder, tmp_path):
    clip = load_clip(str(folder), frames=4)
    save_file({"weight": torch.randn(1, 12), "bias": torch.tensor([5.0])}, tmp_path / "v1.safetensors")
    head, video = load_aesthetic(tmp_path / "v1.safetensors"), clips(1)
    by_frame = head(clip(video[0][:, None]))
    assert by_frame.shape == (4,)
    assert head(clip(video)).item() == pytest.approx(by_frame.mean().item(), abs=1e-5)


def test_the_second_version_is_its_layers_one_after_the_other(tmp_path):
    torch.manual_seed(0)
    widths = [12, 1024, 128, 64, 16, 1]
    layers = torch.nn.Sequential(
        *(
            layer
            for i in range(5)
            for layer in ([torch.nn.Linear(widths[i], widths[i + 1])] + [torch.nn.Dropout(0.2)] * (i < 3))
        )
    ).eval()
    save_file(
        {f"layers.{name}": tensor for name, tensor in layers.state_dict().items()},
        tmp_path / "v2.safetensors",
    )
    x = torch.randn(5, 12)
    assert torch.allclose(load_aesthetic(tmp_path / "v2.safetensors")(x), layers(x).squeeze(1), atol=1e-5)


def test_heads_that_are_not_known_or_do_not_fit_are_refused(tmp_path):
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "v1.safetensors")
    with pytest.raises(UsageError, match=r"takes 768 features, got \(3, 12\)"):
        load_aesthetic(tmp_path / "v1.safetensors")(torch.zeros(3, 12))
    with pytest.raises(BlobError, match="it was not used"):
        load_aesthetic(tmp_path / "v1.safetensors", sha256="0" * 64)
    save_file({"layers.0.weight": torch.zeros(4, 768)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"holds layers.0.weight \[4, 768\]"):
        load_aesthetic(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not one")
    with pytest.raises(UsageError, match="not a safetensors file"):
        load_aesthetic(tmp_path / "text.safetensors")
