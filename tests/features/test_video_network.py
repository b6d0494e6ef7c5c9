import hashlib
import warnings
from collections.abc import Iterator

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from paris_p2p.errors import BlobError, PresetError, UsageError
from paris_p2p.features import video_network as video_module
from paris_p2p.features.image import load_features
from paris_p2p.features.video_network import load_i3d

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 4,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}


class Tiny(torch.nn.Module):
    """Is called as the I3D of FVD is; needs ten frames, as that does."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        if x.size(2) < 10:
            raise RuntimeError("kernel size bigger than input")
        if not (rescale and resize and return_features):
            raise RuntimeError("called otherwise")
        return torch.stack(
            [x.amin((1, 2, 3, 4)), x.amax((1, 2, 3, 4)), x.diff(dim=2).mean((1, 2, 3, 4))], dim=1
        )


class Classifier(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3, 4))


class Pair(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool
    ) -> list[torch.Tensor]:
        return [x, x]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scripted(folder, module: torch.nn.Module):
    path = folder / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(path)
    return path


def brightening(frames: int = 16, clips: int = 5) -> torch.Tensor:
    """Returns clips that start at 0, 1, 2, … and get brighter by 10 in every frame."""
    levels = 10 * torch.arange(frames)[None] + torch.arange(clips)[:, None]
    return levels[..., None, None, None].expand(-1, -1, 8, 8, 3).to(torch.uint8)


def test_i3d_sees_all_frames_in_order_as_0_to_255(tmp_path):
    features = load_features(f"i3d:{scripted(tmp_path, Tiny())}")(brightening())
    assert features.tolist() == [[start, 150 + start, 10] for start in range(5)]
    assert features.dtype == torch.float32


def test_the_files_hash_is_the_networks_and_pins_it_before_any_of_it_runs(tmp_path, monkeypatch):
    path = scripted(tmp_path, Tiny())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_features(f"i3d:{path}", sha256=sha256).sha256 == sha256
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("code with another hash was loaded"))
    with pytest.raises(BlobError, match="it was not used"):
        load_features(f"i3d:{path}", sha256="0" * 64)


def test_only_the_known_file_is_titled_i3d(tmp_path, monkeypatch):
    path = scripted(tmp_path, Tiny())
    other = load_i3d(path)
    assert other.title == f"i3d_torchscript {other.sha256[:8]} (TorchScript)"
    monkeypatch.setattr(video_module, "I3D_SHA256", other.sha256)
    assert load_i3d(path).title == "I3D"


def test_what_i3d_refuses_is_reported_with_its_own_words(tmp_path):
    with pytest.raises(UsageError, match=r"clips of 8 frames .*kernel size bigger than input"):
        load_i3d(scripted(tmp_path, Tiny()))(brightening(8))
    with pytest.raises(UsageError, match="refused clips of 16 frames"):
        load_i3d(scripted(tmp_path, Classifier()))(brightening())
    with pytest.raises(UsageError, match=r"no \[clips, features\] for 4 clips"):
        load_i3d(scripted(tmp_path, Pair()))(brightening())


def test_files_that_are_no_torchscript_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    with pytest.raises(UsageError, match="No such file"):
        load_i3d(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="not a TorchScript file"):
        load_i3d(path)
    monkeypatch.setattr(video_module, "MAX_TORCHSCRIPT_BYTES", 10)
    with pytest.raises(UsageError, match="at most 10 are read"):
        load_i3d(path)


@pytest.mark.parametrize("model", [VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_a_videomae_folder_gives_its_averaged_tokens(tmp_path, model):
    torch.manual_seed(0)
    saved = model(VideoMAEConfig(**SMALL)).eval()
    saved.save_pretrained(tmp_path / "mae")
    features = load_features(f"videomae:{tmp_path / 'mae'}")
    assert features.title == "VideoMAE mae"
    assert features.frames == 4
    video = torch.randint(
        0, 256, (5, 4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((video / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        tokens = getattr(saved, "videomae", saved)(pixel_values=pixels).last_hidden_state.mean(1)
        expected = saved.fc_norm(tokens) if model is VideoMAEForVideoClassification else tokens
    assert torch.allclose(features(video), expected, atol=1e-5)


def test_videomae_spreads_its_frames_over_longer_and_shorter_clips(tmp_path):
    torch.manual_seed(0)
    VideoMAEModel(VideoMAEConfig(**SMALL)).save_pretrained(tmp_path)
    features = load_features(f"videomae:{tmp_path}")
    long = brightening(8, 1)
    assert torch.equal(features(long), features(long[:, [1, 3, 5, 7]]))
    assert torch.equal(features(long[:, :2]), features(long[:, [0, 0, 1, 1]]))


def test_a_folder_with_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["TimesformerModel"]}')
    with pytest.raises(PresetError, match="TimesformerModel, not a VideoMAE known here"):
        load_features(f"videomae:{tmp_path}")
