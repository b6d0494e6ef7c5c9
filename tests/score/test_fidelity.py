import numpy as np
import pytest

from paris_p2p.errors import UsageError
from paris_p2p.score.fidelity import Fidelity, fit_probe, score_fidelity
from paris_p2p.score.intervals import Clips, Plan

QUICK = Plan(resamples=50, splits=10)
COLOURS = ("blue", "green", "red")
CENTRES = {colour: 3 * np.eye(6)[i] for i, colour in enumerate(COLOURS)}


def showing(labels, first: int, per_video: int = 2, rng_seed: int = 0) -> Clips:
    """Makes clips whose features lie about their label's centre.

    `per_video` neighbours are of one source video.
    """
    rng = np.random.default_rng([rng_seed, first])
    features = np.array([CENTRES[label] for label in labels]) + rng.normal(size=(len(labels), 6))
    return Clips(features, first + np.arange(len(labels)) // per_video)


def drawn(count: int, rng_seed: int, weights=(1 / 3, 1 / 3, 1 / 3)) -> list[str]:
    labels = np.random.default_rng(rng_seed).choice(COLOURS, count // 2, p=weights)
    return [str(label) for label in np.repeat(labels, 2)]


@pytest.fixture(scope="module")
def probe():
    labels = drawn(240, 0)
    return fit_probe("colour", "pixels", showing(labels, 0), labels, QUICK)


def scored(probe, shown, prompted) -> Fidelity:
    real = drawn(120, 1)
    return score_fidelity(probe, showing(real, 1000), real, showing(shown, 5000), prompted, QUICK)


def test_clips_that_show_what_was_asked_are_recognised_like_real_ones(probe):
    prompted = drawn(120, 2)
    result = scored(probe, prompted, prompted)
    assert result.name == "Prompt fidelity, colour, probe on pixels"
    assert result.generated.own.value > 0.85
    assert result.generated.own.low <= result.real.own.value
    assert abs(result.probe.own.value - result.real.own.value) < 0.08
    assert result.difference.floor.low <= result.difference.matched <= result.difference.floor.high


def test_clips_that_heed_no_prompt_are_recognised_at_the_chance_of_shuffled_prompts(probe):
    result = scored(probe, drawn(400, 3), drawn(400, 4))
    assert result.generated.shuffled.value == pytest.approx(1 / 3, abs=0.05)
    assert not result.generated.heeded
    assert result.difference.matched < result.difference.floor.low


def test_clips_that_always_show_the_commonest_class_are_no_better_than_chance(probe):
    prompted = drawn(200, 5, weights=(0.8, 0.1, 0.1))
    result = scored(probe, ["blue"] * 200, prompted)
    assert result.generated.own.value > 0.7
    assert result.generated.above_chance.value < 0.05
    by_class = {share.label: share.recognised for share in result.by_class}
    assert by_class["blue"] > 0.85 > 0.15 > max(by_class["green"], by_class["red"])
    assert sum(share.clips for share in result.by_class) == 200


def test_the_more_prompts_are_heeded_the_higher_the_share(probe):
    prompted = drawn(300, 6)
    shares = []
    for heeded in (0.0, 0.5, 1.0):
        keep = np.random.default_rng(0).random(300) < heeded
        shares.append(
            scored(
                probe, [a if kept else "red" for a, kept in zip(prompted, keep, strict=True)], prompted
            ).generated.own.value
        )
    assert shares[0] < shares[1] - 0.1 < shares[2] - 0.2


def test_the_probes_own_accuracy_does_not_come_from_remembering_source_videos():
    """Gives every video a direction of its own and a label by chance: only remembering tells."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(60, 200)), 4, axis=0)
    labels = [str(label) for label in np.repeat(rng.choice(["left", "right"], 60), 4)]
    probe = fit_probe("direction", "pixels", Clips(features, np.repeat(np.arange(60), 4)), labels, QUICK)
    assert 0.25 < probe.held_out.own.value < 0.75
    assert not probe.held_out.heeded


def test_the_probe_is_not_scored_on_the_videos_it_was_fitted_on(probe):
    labels = drawn(20, 0)
    with pytest.raises(UsageError, match="fitted on 10 of these source videos"):
        score_fidelity(probe, showing(labels, 0), labels, showing(labels, 5000), labels, QUICK)


def test_rare_classes_unknown_prompts_and_missing_labels_are_refused(probe):
    labels = drawn(40, 0)
    with pytest.raises(UsageError, match="colour 'gold' is in 1 source videos"):
        fit_probe("colour", "pixels", showing(labels, 0), ["gold", *labels[1:]], QUICK)
    with pytest.raises(UsageError, match="of 1 classes"):
        fit_probe("colour", "pixels", showing(labels, 0), ["red"] * 40, QUICK)
    with pytest.raises(UsageError, match="no real clip showed colour 'gold'"):
        scored(probe, labels, ["gold", *labels[1:]])
    with pytest.raises(UsageError, match="40 clips have 39 labels"):
        scored(probe, labels, labels[1:])
