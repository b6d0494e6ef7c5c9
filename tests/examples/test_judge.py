"""The demo's judge fails what it must: mean frames, frozen or shuffled ones, noise, copies, wrong
scenarios.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from examples.demo.judge import Probe, Verdict, judge
from examples.demo.picture import FRAME_PIXELS, gif, picture
from examples.demo.sizes import SIZES, Promise
from tests.examples.widths import printed

SCENARIOS = ("red", "green", "blue")


def moving(scenario: str, count: int, rng_seed: int) -> np.ndarray:
    """Makes clips of a coloured square that moves over a still, noisy ground: uint8 [N, 8, 16, 16, 3]."""
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
    """Judges clips of which two neighbours always share a prompt."""
    prompts = [f"a {label} thing, {at // 2}" for at, label in enumerate(labels)]
    return judge(probe, generated, prompts, labels, world(10, 100), world(20, 0)[0])


def failed(verdict: Verdict) -> str:
    return "; ".join(verdict.failures)


def test_other_real_clips_pass(probe: Probe) -> None:
    assert verdict_on(probe, *world(20, 500)).failures == []


def test_a_mean_frame_fails_motion_and_variance(probe: Probe) -> None:
    clips, labels = world(20, 500)
    means = np.stack(
        [clips[np.asarray(labels) == name].mean(axis=(0, 1)).astype(np.uint8) for name in labels]
    )
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
    assert [failure.split(",")[0] for failure in verdict_on(probe, shuffled, labels).failures] == ["flicker"]


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
    assert "real clips recognised" in failed(verdict_on(blind, clips, labels))


def test_what_is_judged_is_what_was_promised(probe: Probe) -> None:
    clips, labels = world(20, 500)
    prompts = [f"a {label} thing, {at // 2}" for at, label in enumerate(labels)]

    def failures(promise: Promise) -> list[str]:
        return judge(probe, clips, prompts, labels, world(10, 100), world(20, 0)[0], promise).failures

    assert failures(Promise()) == []
    assert [failure.split(",")[0] for failure in failures(Promise(liveliness=9.0))] == [
        "motion",
        "variance in a prompt",
    ]
    assert [failure.split(",")[0] for failure in failures(Promise(flicker=-1.0))] == ["flicker"]


def test_every_size_promises_more_than_chance_motion_variance_and_order() -> None:
    for size in SIZES:
        promise = size.promise
        assert promise.real_accuracy >= 0.9
        assert promise.accuracy >= 0.6  # three scenarios: chance is 0.33
        assert promise.chance_slack <= 0.15
        assert promise.liveliness > promise.liveliness_worst > 0
        assert promise.flicker < 1


def test_the_judges_table_is_whole_in_a_log_of_80_columns(probe: Probe) -> None:
    verdict = verdict_on(probe, *world(20, 500))
    text = printed(verdict.table(), 80)
    assert "…" not in text
    assert all(check.name in text for check in verdict.checks)
    assert all(name in text for name in verdict.notes)


def test_the_picture_has_a_row_per_prompt_large_enough_to_be_looked_at(tmp_path: Path) -> None:
    clips, labels = world(1, 0)
    rows = [(label * 100, clip, clip) for label, clip in zip(labels, clips, strict=True)]
    picture(rows, tmp_path / "three.png")
    picture(rows[:1], tmp_path / "one.png")
    with Image.open(tmp_path / "three.png") as three, Image.open(tmp_path / "one.png") as one:
        assert three.width == one.width > 6 * FRAME_PIXELS
        assert three.height - one.height > 2 * FRAME_PIXELS
        # the reds of the red row's squares are where its real and its generated half are
        red = np.asarray(three).astype(int)[: one.height]
        columns = np.flatnonzero(((red[..., 0] > 200) & (red[..., 1] < 100)).any(axis=0))
        assert columns.min() < three.width / 2 < columns.max()


def test_a_gif_is_large_endless_and_has_delays_that_browsers_play(tmp_path: Path) -> None:
    clip = moving("red", 1, 0)[0]
    gif(clip, tmp_path / "clip.gif")
    with Image.open(tmp_path / "clip.gif") as image:
        assert image.info["loop"] == 0
        assert min(image.size) >= 192
        frames = getattr(image, "n_frames", 1)
        assert frames == 2 * len(clip) - 2
        for number in range(frames):
            image.seek(number)
            assert 20 <= image.info["duration"] <= 100
