"""What an evaluation's first lines say: only what its clips can carry, each distance beside a floor of the
same counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paris_p2p.data.splits import counted
from paris_p2p.evaluation.evidence import Evidence, ModelFacts
from paris_p2p.evaluation.scorecard import Card
from paris_p2p.generation.trained import warn_barely
from paris_p2p.score.agreement import Agreement
from paris_p2p.score.intervals import Score
from paris_p2p.score.page import number

# Below these a distance between halves of the real clips is as far as most models are: docs/evaluation.md,
# "What does each metric see?".
MIN_SAID_CLIPS, MIN_SAID_VIDEOS = 100, 10
CLASSIFIER_NAME = "Classifier AUC"
SURE_CLIPS = 2000  # halves of 1,000 a side


def headline(cards: Mapping[str, Card], evidence: Evidence) -> tuple[str, ...]:
    """Returns the lines above the report: what was compared, whether that is enough, then each model."""
    clips, (videos, of_videos) = len(evidence.clips), _videos(evidence)
    lines = [f"{clips} clips of each model, for the captions of as many held-out clips of {of_videos}."]
    lines += [line for name, facts in evidence.facts.items() if (line := _barely(name, facts))]
    if clips < MIN_SAID_CLIPS or videos < MIN_SAID_VIDEOS:
        lines.append(
            f"Nothing can be said about quality from {clips} clips of {of_videos}: "
            f"it takes at least {MIN_SAID_CLIPS} clips of {MIN_SAID_VIDEOS} videos, and 1,000 a side for a "
            "distance worth quoting. Look at the clips; the numbers below "
            "are there to show how they are made."
        )
        return tuple(lines)
    if clips < SURE_CLIPS:
        lines.append(
            f"With {clips} clips distances are rough: believe an order of models only where their ranges do "
            "not meet."
        )
    lines += [_model(name, card) for name, card in cards.items()]
    return tuple(lines)


def _videos(evidence: Evidence) -> tuple[int, str]:
    """Returns how many videos the clips are of, and that in words.

    Parts of one file are no videos of their own, nor are files that an owner says were cut from one video.
    """
    videos = len({clip.video for clip in evidence.clips})
    files = len({clip.source for clip in evidence.clips})
    if files >= videos:
        return videos, counted(videos, "video")
    return files, f"{counted(files, 'video')} ({videos} parts)"


def _model(name: str, card: Card) -> str:
    words = [_score(score) for score in card.scores[:2]]
    words += [_classified(score) for score in card.scores if score.name.startswith(CLASSIFIER_NAME)][:1]
    if card.fidelity:
        words.append(_fidelity(card.fidelity.generated, card.fidelity.real))
    if card.left_out:
        words.append(f"left out: {', '.join(card.left_out)}")
    return f"{name[:1].upper()}{name[1:]}: {'; '.join(words)}."


def _score(score: Score) -> str:
    """Returns a score at the floor's counts: the value with all clips has another bias than the floor and
    does not belong beside it.
    """
    floor = score.floor
    real = f"real against real {number(floor.value)} ({number(floor.low)} to {number(floor.high)})"
    verdict = "told apart from real clips" if score.above_floor else "not told apart by this number"
    return f"{score.name}: {number(score.matched)} with {floor.clips} clips a side, {real}: {verdict}"


def _classified(score: Score) -> str:
    """Returns what a classifier finds: clips at the floor of a distance may well be told apart by it."""
    return (
        f"a linear classifier tells generated from real with an area of {score.value:.2f} under its curve "
        f"({score.low:.2f} to {score.high:.2f}; 0.5 is chance)"
    )


def _fidelity(generated: Agreement, real: Agreement) -> str:
    """Returns what is above chance alone: a model that always makes the commonest kind has a high share and
    heeds nothing.
    """
    if not generated.heeded:
        return (
            "prompts are not shown to be heeded: a probe finds their clusters no more often than with "
            "prompts dealt out anew"
        )
    above, own = generated.above_chance, generated.own
    return (
        f"prompts are heeded: a probe finds the prompt's cluster in {own.value:.0%} of its clips, "
        f"{above.value:.0%} above chance "
        f"({above.low:.0%} to {above.high:.0%}); in real ones {real.own.value:.0%}, "
        f"{real.above_chance.value:.0%} above"
    )


def _barely(name: str, facts: ModelFacts) -> str:
    warning = warn_barely(facts.trained)
    return f"{name[:1].upper()}{name[1:]}: {warning.removeprefix('warning: ')}." if warning else ""


def facts_rows(facts: Mapping[str, ModelFacts]) -> Sequence[tuple[str, ...]]:
    """Returns (model, run, slot, tip, trained) for the table of what was evaluated."""
    rows = []
    for name, model in facts.items():
        run = f"{model.run_name} ({model.run[:16]}…)" if model.run_name else f"{model.run[:16]}…"
        for slot, trained in model.trained.items():
            card = model.cards.get(slot, "")
            rows.append((name, run, slot, f"{card[:16]}…" if card else "not known", trained.describe()))
        rows += [(name, run, slot, "missing", "") for slot in model.missing]
    return rows
