"""Tests scores on real handwriting in motion, seen through the real networks.

They must put spoilt clips in the order that is known beforehand.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from paris_p2p.features.image import load_features
from paris_p2p.score.distances import score_frechet, score_kernel
from paris_p2p.score.fidelity import fit_probe, score_fidelity
from paris_p2p.score.intervals import Clips, Plan, Score
from paris_p2p.score.motion import motion_px_per_frame, score_motion

CLIPS, FRAMES, SIDE = 20, 6, 32
QUICK = Plan(resamples=20, splits=20)
SPOILING = {
    "transnetv2": ("shuffled", "static", "noise"),
    "efficientnet-lite0": ("shuffled", "one class", "noise"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digits(
    clips: int, rng_seed: int, classes: tuple[int, ...] = (0, 1, 4, 7)
) -> tuple[torch.Tensor, list[str]]:
    """Returns scanned digits, each drifting straight over a grey ground, and which digit each is.

    The clips are uint8 [B T H W 3].
    """
    rng, scans = np.random.default_rng(rng_seed), load_digits()
    labels = np.array(classes)[np.arange(clips) % len(classes)]
    chosen = [rng.choice(np.flatnonzero(scans.target == label)) for label in labels]
    # B 16 16
    ink = interpolate(torch.from_numpy(scans.images[chosen] / 16)[:, None], scale_factor=2, mode="bilinear")[
        :, 0
    ]
    start, angle = rng.uniform(6, 10, (clips, 2)), rng.uniform(0, 2 * np.pi, clips)
    step = 1.2 * np.stack([np.sin(angle), np.cos(angle)], 1)
    video = torch.full((clips, FRAMES, SIDE, SIDE), 40.0)
    for b in range(clips):
        for t in range(FRAMES):
            row, column = np.rint(start[b] + step[b] * (t - FRAMES / 2)).astype(int)
            video[b, t, row : row + 16, column : column + 16] += 200 * ink[b]
    return video.clamp(0, 255).to(torch.uint8)[..., None].repeat(1, 1, 1, 1, 3), [
        str(label) for label in labels
    ]


def spoilt(video: torch.Tensor) -> dict[str, torch.Tensor]:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    return {
        "real": video,
        "shuffled": torch.stack([clip[rng.permutation(FRAMES)] for clip in video]),
        "static": video[:, FRAMES // 2 : FRAMES // 2 + 1].expand(-1, FRAMES, -1, -1, -1).contiguous(),
        "noise": torch.randint(0, 256, video.shape, dtype=torch.uint8, generator=generator),
        "one class": digits(CLIPS, 2, (1,))[0],
    }


@pytest.fixture(scope="module")
def real() -> tuple[torch.Tensor, list[str]]:
    return digits(2 * CLIPS, 0)


@pytest.fixture(scope="module")
def others() -> dict[str, torch.Tensor]:
    return spoilt(digits(CLIPS, 1)[0])


@pytest.fixture(scope="module")
def seen(real, others):
    """Returns real clips, and the others by name, by network."""
    found = {}
    for name, spoiling in SPOILING.items():
        network = load_features(name, frames=1)
        sides = {
            key: Clips(network(others[key]).numpy(), 1000 + np.arange(CLIPS)) for key in ("real", *spoiling)
        }
        found[name] = Clips(network(real[0]).numpy(), np.arange(len(real[0]))), sides
    return found


def scores(seen, network: str, score):
    options = {"components": 8} if score is score_frechet else {}
    real, sides = seen[network]
    return {name: score(network, real, side, plan=QUICK, **options) for name, side in sides.items()}


def excess(score: Score) -> float:
    """Returns what is left above real against real at the same counts, whose bias is in both."""
    return score.matched - score.floor.value


@pytest.mark.parametrize("score", [score_frechet, score_kernel])
def test_temporal_features_put_real_clips_at_the_floor_then_spoilt_motion_then_noise(seen, score):
    found = scores(seen, "transnetv2", score)
    assert all(found[name].above_floor for name in ("shuffled", "static", "noise"))
    spoilt_motion = excess(found["shuffled"]), excess(found["static"])
    assert abs(excess(found["real"])) < min(spoilt_motion) / 2
    assert max(spoilt_motion) < excess(found["noise"])


@pytest.mark.parametrize("score", [score_frechet, score_kernel])
def test_image_features_see_missing_classes_and_noise_but_no_motion(seen, score):
    found = scores(seen, "efficientnet-lite0", score)
    assert found["one class"].above_floor
    assert excess(found["noise"]) > excess(found["one class"])
    assert max(abs(excess(found[name])) for name in ("real", "shuffled")) < excess(found["one class"]) / 2


@pytest.mark.parametrize("network", ["transnetv2", "efficientnet-lite0"])
def test_clips_are_at_no_distance_from_themselves_and_not_above_the_floor(seen, network):
    real, _ = seen[network]
    frechet, kernel = (
        score_frechet(network, real, real, components=8, plan=QUICK),
        score_kernel(network, real, real, plan=QUICK),
    )
    assert frechet.value == pytest.approx(0, abs=1e-6)
    assert kernel.value <= 0  # unbiased: below zero by what a clip has in common with itself
    assert not frechet.above_floor
    assert not kernel.above_floor


def test_optical_flow_puts_static_clips_below_real_ones_and_shuffled_frames_above(real, others):
    def motion(video: torch.Tensor, first: int) -> Clips:
        return Clips(motion_px_per_frame(video.numpy())[:, None], first + np.arange(len(video)))

    measured = {
        name: score_motion(motion(real[0], 0), motion(others[name], 1000), QUICK)
        for name in ("real", "static", "shuffled")
    }
    difference = measured["real"].difference
    assert difference.floor.low <= difference.matched <= difference.floor.high
    assert measured["static"].generated.value == pytest.approx(0, abs=1e-3)
    assert measured["static"].difference.high < 0 < measured["shuffled"].difference.low


def test_a_probe_recognises_prompted_digits_and_is_at_chance_with_prompts_dealt_out_anew(seen, real, others):
    clips, labels = seen["efficientnet-lite0"][0], real[1]
    probe = fit_probe("digit", "EfficientNet-lite0", clips, labels, QUICK)
    fresh, asked = (
        seen["efficientnet-lite0"][1]["real"],
        [str(d) for d in np.array((0, 1, 4, 7))[np.arange(CLIPS) % 4]],
    )
    heeded = score_fidelity(probe, fresh, asked, fresh, asked, QUICK)
    swapped = score_fidelity(probe, fresh, asked, fresh, [asked[0], *asked[:-1]], QUICK)
    assert probe.held_out.heeded
    assert heeded.generated.own.value > 0.6
    assert heeded.generated.shuffled.value == pytest.approx(0.25, abs=0.05)
    assert not swapped.generated.heeded
