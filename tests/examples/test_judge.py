"""The demo's judge fails what it must fail: mean frames, frozen and shuffled ones, noise, copies, wrong scenarios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from examples.demo.judge import Probe, Verdict, judge
from examples.demo.picture import picture

SCENARIOS = ("red", "green", "blue")


def moving(scenario: str, count: int, rng_seed: int) -> np.ndarray:
    """Clips of a coloured square that moves over a still, noisy ground: uint8 [N, 8, 16, 16, 3]."""
    rng = np.random.default_rng(rng_seed)
    clips = np.repeat(rng.integers(0, 60, (count, 1, 16, 16, 3), dtype=np.uint8), 8, axis=1)
    for clip in clips:
        x, y = rng.integers(0, 8, 2)
        for t in range(8):
            clip[t, y : y + 8, (x + t) % 8 : (x + t) % 8 + 8, SCENARIOS.index(scenario)] = 230
    return clips


def world(each: int, rng_seed: int) -> tuple[np.ndarray, list[str]]:
    clips = [moving(name, each, rng_seed + k) for k, name in enumerate(SCENARIOS)]
    return np.concatenate(clips), [name for name in SCENARIOS for _ in range(each)]


def colours(clips: np.ndarray) -> np.ndarray:
    return clips.astype(np.float64).mean(axis=(1, 2, 3)) / 255


@pytest.fixture(scope="module")
def probe() -> Probe:
    clips, labels = world(20, 0)
    return Probe(LogisticRegression(C=1e4).fit(colours(clips), labels), colours)


def verdict_on(probe: Probe, generated: np.ndarray, labels: list[str]) -> Verdict:
    """Judge clips of which two neighbours always share a prompt."""
    prompts = [f"a {label} thing, {at // 2}" for at, label in enumerate(labels)]
    return judge(probe, generated, prompts, labels, world(10, 100), world(20, 0)[0])


def failed(verdict: Verdict) -> str:
    return "; ".join(verdict.failures)


def test_other_real_clips_pass(probe: Probe) -> None:
    assert verdict_on(probe, *world(20, 500)).failures == []


def test_a_mean_frame_fails_motion_and_variance(probe: Probe) -> None:
    clips, labels = world(20, 500)
    means = np.stack([clips[np.asarray(labels) == name].mean(axis=(0, 1)).astype(np.uint8) for name in labels])
    verdict = verdict_on(probe, np.repeat(means[:, None], 8, axis=1), labels)
    assert "motion" in failed(verdict)
    assert "variance" in failed(verdict)


def test_frozen_frames_fail_motion_alone(probe: Probe) -> None:
    clips, labels = world(20, 500)
    verdict = verdict_on(probe, np.repeat(clips[:, :1], 8, axis=1), labels)
    assert {failure.split(",")[0] for failure in verdict.failures} == {"motion"}


def test_frames_in_a_wrong_order_fail_flicker_alone(probe: Probe) -> None:
    clips, labels = world(20, 500)
    rng = np.random.default_rng(2)
    shuffled = np.stack([clip[rng.permutation(8)] for clip in clips])
    assert [failure.split(":")[0] for failure in verdict_on(probe, shuffled, labels).failures] == ["flicker"]


def test_one_frozen_scenario_is_not_made_up_for_by_two_lively_ones(probe: Probe) -> None:
    clips, labels = world(20, 500)
    clips[:20] = clips[:20, :1]
    assert "motion" in failed(verdict_on(probe, clips, labels))


def test_the_same_clip_whenever_a_prompt_is_given_fails_variance_alone(probe: Probe) -> None:
    clips, labels = world(20, 500)
    copies = clips.copy()
    copies[1::2] = copies[::2]
    assert {failure.split(" ")[0] for failure in verdict_on(probe, copies, labels).failures} == {"variance"}


def test_noise_fails_the_probe(probe: Probe) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 8, 16, 16, 3), dtype=np.uint8)
    assert "recognised" in failed(verdict_on(probe, noise, world(20, 0)[1]))


def test_clips_that_ignore_the_prompt_fail(probe: Probe) -> None:
    clips, labels = world(20, 500)
    assert "recognised" in failed(verdict_on(probe, np.roll(clips, 20, axis=0), labels))


def test_one_scenario_for_every_prompt_does_not_pass(probe: Probe) -> None:
    assert "recognised" in failed(verdict_on(probe, moving("red", 60, 7), world(20, 0)[1]))


def test_a_bad_probe_is_said(probe: Probe) -> None:
    clips, labels = world(20, 0)
    blind = Probe(LogisticRegression().fit(np.zeros((60, 1)), labels), lambda some: np.zeros((len(some), 1)))
    assert "held-out real" in failed(verdict_on(blind, clips, labels))


def test_the_picture_has_a_row_per_prompt(tmp_path: Path) -> None:
    clips, labels = world(1, 0)
    rows = [(label, clip, clip) for label, clip in zip(labels, clips, strict=True)]
    picture(rows, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (2 * 8 * 16 * 2 + 16, 18 + 3 * (18 + 32))
