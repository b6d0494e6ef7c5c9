"""The first lines of an evaluation say what its clips can carry, and nothing else."""

from dataclasses import replace

from paris_p2p.evaluation.evidence import ModelFacts
from paris_p2p.evaluation.headline import MIN_SAID_CLIPS, headline
from paris_p2p.evaluation.scorecard import Card
from paris_p2p.generation.trained import Trained
from paris_p2p.score.agreement import Agreement
from paris_p2p.score.fidelity import Fidelity
from paris_p2p.score.intervals import Floor, Interval, Score

SCORE = Score(
    "Fréchet distance, X",
    246.1,
    240.0,
    250.0,
    0.95,
    600,
    50,
    600,
    50,
    1,
    277.1,
    Floor(164.4, 150.0, 180.0, 300),
)


class Clip:
    def __init__(self, video: int, file: int):
        self.video, self.source = str(video), f"{file}.mp4"


class Gathered:
    """What the headline asks of the evidence."""

    def __init__(self, clips: int, videos: int, files: int = 1000, **trained: Trained):
        self.clips = [Clip(i % videos, i % files) for i in range(clips)]
        self.facts = {"experts": ModelFacts("ab" * 32, "mine", {}, trained, ())}


def agreed(own: float, above: float, low: float) -> Agreement:
    return Agreement(Interval(own, own, own), Interval(own - above, 0, 1), Interval(above, low, above + 0.1))


def test_of_six_clips_nothing_is_said():
    lines = headline({"experts": Card(scores=[SCORE])}, Gathered(6, 6))
    assert "Nothing can be said" in lines[-1]
    assert not any("246" in line or "277" in line or "164" in line for line in lines)


def test_many_clips_of_few_videos_say_nothing_either():
    assert "Nothing can be said" in headline({"experts": Card(scores=[SCORE])}, Gathered(1000, 3))[-1]


def test_parts_of_one_film_are_one_video_and_files_of_one_video_are_too():
    film = headline({"experts": Card(scores=[SCORE])}, Gathered(1000, 20, files=1))
    assert film[0].endswith("of as many held-out clips of 1 video (20 parts).")
    assert "Nothing can be said about quality from 1000 clips of 1 video (20 parts)" in film[-1]
    for videos, files, silent in ((1, 20, True), (20, 10, False)):
        said = headline({"experts": Card(scores=[SCORE])}, Gathered(1000, videos, files))[-1]
        assert ("Nothing can be said" in said) == silent


def test_a_distance_stands_beside_a_floor_of_its_own_counts():
    line = headline({"experts": Card(scores=[SCORE])}, Gathered(600, 50))[-1]
    assert "277.1 with 300 clips a side" in line
    assert "164.4" in line
    assert "246" not in line
    assert "told apart from real clips" in line
    near = replace(SCORE, matched=170.0)
    assert (
        "not told apart by this number" in headline({"experts": Card(scores=[near])}, Gathered(600, 50))[-1]
    )


def test_fidelity_is_quoted_only_when_prompts_were_heeded():
    real, score = agreed(1.0, 0.5, 0.4), SCORE
    heedless = Card(fidelity=Fidelity("f", real, real, agreed(1.0, 0.02, -0.05), score, ()))
    heeding = Card(fidelity=Fidelity("f", real, real, agreed(0.9, 0.4, 0.3), score, ()))
    said = headline({"experts": heedless}, Gathered(MIN_SAID_CLIPS, 50))[-1]
    assert "100%" not in said
    assert "not shown to be heeded" in said
    assert "40% above chance" in headline({"experts": heeding}, Gathered(MIN_SAID_CLIPS, 50))[-1]


def test_a_barely_trained_model_is_said_to_be_one():
    early = Trained("expert-0", 89, 712, 16.0, 0.9)
    lines = headline({"experts": Card(scores=[SCORE])}, Gathered(600, 50, **{"expert-0": early}))
    assert any("barely trained" in line and "89 steps" in line for line in lines)


def test_a_model_at_the_floor_of_a_distance_is_still_told_apart_by_a_classifier():
    near = replace(SCORE, matched=170.0)
    area = replace(SCORE, name="Classifier AUC, X", value=0.83, low=0.80, high=0.86)
    line = headline({"experts": Card(scores=[near, near, area])}, Gathered(600, 50))[-1]
    assert "not told apart by this number" in line
    assert "an area of 0.83 under its curve (0.80 to 0.86; 0.5 is chance)" in line
