"""Judges the demo's clips: are they what was asked for, do they move, in order, vary, and copy nothing?

The probe is fitted on real train clips, before anything is generated: EfficientNet-Lite0 features of several
frames and a logistic regression that names the scenario. It counts only if it is right on held-out clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from examples.demo.sizes import Promise
from paris_p2p.features.image import load_features

Clips = np.ndarray  # uint8 [N, T, H, W, 3]
FEATURES, FEATURE_FRAMES, BATCH_CLIPS = "efficientnet-lite0", 2, 32
ORDERED = 0.90  # a scenario whose real clips come nearer to shuffled ones than this shows no order to judge
PERMUTATIONS = 200
PROMISE = Promise()


@dataclass(frozen=True)
class Probe:
    """Names the scenario of clips."""

    model: object  # scikit-learn pipeline
    embed: Callable[[Clips], np.ndarray]  # [N, F]

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(features))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Check:
    """Holds one number and its limit."""

    name: str
    value: float
    limit: float
    at_least: bool = True  # otherwise at most

    @property
    def passed(self) -> bool:
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)


@dataclass(frozen=True)
class Verdict:
    """Holds all numbers of the judge; `notes` are printed and not judged."""

    checks: tuple[Check, ...]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        return [f"{c.name}: {c.value:.3f}, wanted {limit_of(c)}" for c in self.checks if not c.passed]

    @property
    def passed(self) -> bool:
        return not self.failures

    def table(self) -> Table:
        """Fits 80 columns; the notes stand beneath it, a line each."""
        notes = "\n".join(f"{name}: {words}" for name, words in self.notes.items())
        table = Table(title="the judge", caption=notes, caption_justify="left")
        for name in ("what", "measured", "wanted", ""):
            table.add_column(name, justify="right" if name == "measured" else "left", no_wrap=True)
        for check in self.checks:
            table.add_row(
                check.name, f"{check.value:.3f}", limit_of(check), "pass" if check.passed else "FAIL"
            )
        return table


def fit_probe(clips: Clips, labels: Sequence[str]) -> Probe:
    """Fits the probe on real clips."""
    network = load_features(FEATURES, frames=FEATURE_FRAMES)

    def embed(some: Clips) -> np.ndarray:
        batches = (torch.from_numpy(some[at : at + BATCH_CLIPS]) for at in range(0, len(some), BATCH_CLIPS))
        return np.concatenate([network(batch).numpy() for batch in batches])

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(embed(clips), np.asarray(labels))
    return Probe(model, embed)


def judge(
    probe: Probe,
    generated: Clips,
    prompts: Sequence[str],
    prompted: Sequence[str],
    real: tuple[Clips, Sequence[str]],
    train: Clips,
    promise: Promise = PROMISE,
) -> Verdict:
    """Compares generated clips with held-out real ones by what was promised; `train` has the neighbours.

    `prompts` are the captions the clips were made for; where one stands twice or more, its clips' variance
    counts. Motion, variance and flicker are measured per scenario.
    """
    labels, names = np.asarray(prompted), np.asarray(real[1])
    named = probe.predict(probe.embed(generated))
    signs = {
        name: Signs.of(generated[labels == name], np.asarray(prompts)[labels == name], real[0][names == name])
        for name in sorted(set(real[1]))
    }
    recognised, chance = float(np.mean(named == labels)), 1 / len(signs) + promise.chance_slack
    real_recognised = float(np.mean(probe.predict(probe.embed(real[0])) == names))
    checks = (
        Check("real clips recognised by the probe", real_recognised, promise.real_accuracy),
        Check(f"prompted scenario recognised, {len(generated)} clips", recognised, promise.accuracy),
        Check("the same with shuffled prompts", shuffled(named, labels), chance, at_least=False),
        *_liveliness("motion, of real", [sign.motion for sign in signs.values()], promise),
        *_liveliness("variance in a prompt, of real", [sign.variance for sign in signs.values()], promise),
        Check(
            "flicker, worst (real 0, shuffled 1)",
            max(s.flicker for s in signs.values()),
            promise.flicker,
            at_least=False,
        ),
    )
    return Verdict(checks, _notes(signs, generated, real[0], train))


@dataclass(frozen=True)
class Signs:
    """Says how a scenario's generated clips compare with its real ones."""

    motion: float  # of the real clips'
    variance: float  # of the real clips', among clips of one prompt
    flicker: (
        float  # 0 as real clips, 1 as real clips with their frames shuffled; 0 where real clips show no order
    )
    ordered: bool  # do the real clips show an order?

    @classmethod
    def of(cls, generated: Clips, prompts: np.ndarray, real: Clips) -> Signs:
        order = disorder(real)
        flicker = (disorder(generated) - order) / (1 - order) if order < ORDERED else 0.0
        return cls(
            motion(generated) / motion(real),
            prompt_variance(generated, prompts) / variance(real),
            flicker,
            order < ORDERED,
        )

    def __str__(self) -> str:
        return (
            f"{self.motion:.2f}, {self.variance:.2f}, "
            f"{f'{self.flicker:.2f}' if self.ordered else 'no order to see'}"
        )


def motion(clips: Clips, lag_frames: int = 1) -> float:
    """Returns the mean absolute change over some frames, in grey levels."""
    return float(np.abs(clips[:, lag_frames:].astype(np.float32) - clips[:, :-lag_frames]).mean())


def disorder(clips: Clips) -> float:
    """Returns the change over one frame as a share of that over half a clip; 1 when frames are shuffled."""
    far = motion(clips, clips.shape[1] // 2)
    return motion(clips) / far if far > 0 else 0.0


def variance(clips: Clips) -> float:
    """Returns the unbiased variance across clips, averaged over pixels and frames.

    Any counts may be compared.
    """
    return float(clips.astype(np.float32).var(axis=0, ddof=1).mean())


def prompt_variance(clips: Clips, prompts: np.ndarray) -> float:
    """Returns variance among clips of one prompt, averaged over the prompts that have several.

    0 when none has.
    """
    several = [clips[prompts == prompt] for prompt in dict.fromkeys(prompts) if np.sum(prompts == prompt) > 1]
    return float(np.mean([variance(some) for some in several])) if several else 0.0


def shuffled(named: np.ndarray, labels: np.ndarray) -> float:
    """Returns the accuracy when prompts are dealt out anew, averaged: chance, unless the clips do not
    depend on them.
    """
    rng = np.random.default_rng(0)
    return float(np.mean([np.mean(named == rng.permutation(labels)) for _ in range(PERMUTATIONS)]))


def nearest(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the root mean square pixel distance of each clip to the nearest of `others`: [N], grey
    levels.
    """
    flat, wide = (
        some.reshape(len(some), -1).astype(np.float32),
        others.reshape(len(others), -1).astype(np.float32),
    )
    squares = (flat**2).sum(1)[:, None] + (wide**2).sum(1)[None] - 2 * flat @ wide.T
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0) / flat.shape[1]))


def _liveliness(name: str, ratios: list[float], promise: Promise) -> tuple[Check, Check]:
    return Check(name, float(np.mean(ratios)), promise.liveliness), Check(
        f"{name}, worst", min(ratios), promise.liveliness_worst
    )


def _notes(signs: dict[str, Signs], generated: Clips, real: Clips, train: Clips) -> dict[str, str]:
    words = {f"{name} (motion, variance, flicker)": str(sign) for name, sign in signs.items()}
    made, held_out = nearest(generated, train), nearest(real, train)
    words["nearest train clip, grey levels"] = (
        f"median {np.median(made):.1f}, least {made.min():.1f}; real {np.median(held_out):.1f}, "
        f"{held_out.min():.1f}"
    )
    return words


def limit_of(check: Check) -> str:
    """Says a check's limit in words: "at least 0.80"."""
    return f"{'at least' if check.at_least else 'at most'} {check.limit:.2f}"
