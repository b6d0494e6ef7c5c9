"""Says what experts may be expected to be worth at a run's size: only where it was measured, never between.

The places are those of docs/experiments.md, each with one model of the same training compute beside it. A run
is held against the place it is closest to, and what lies further away from all of them than LIKE allows is
not known. That a place is like a run in size says nothing of its clips, which are other clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

Worth = Literal["pays", "level", "loses", "undecided"]


@dataclass(frozen=True)
class RunSize:
    """Holds what is compared of a run, or of a place where experts were measured."""

    images: bool  # clips of one frame
    experts: int
    parameters: int  # of one expert
    clips: int  # that are trained on, in all clusters
    passes: float  # over them, of all experts together: how often each clip is seen; 0: nobody knows
    narrow: bool = False  # experts are narrower than their patches have numbers, and no skip helps them


@dataclass(frozen=True)
class MeasuredPlace:
    """Holds one measured comparison of experts with one model of the same training compute.

    Experts pay where the interval of the ratio of distances lies above 1 by all measures, lose where below by
    all, are level where all hold 1; undecided where measures disagree.
    """

    name: str
    size: RunSize
    worth: Worth
    found: (
        str  # the ratios: one model's distance from real clips over the experts'; above 1 experts are nearer
    )
    changes: str  # what was seen to change it there
    section: str  # of docs/experiments.md


@dataclass(frozen=True)
class Expectation:
    """Holds the closest place, and in what the run differs from it by more than LIKE allows."""

    size: RunSize
    place: MeasuredPlace
    differs: tuple[str, ...]

    @property
    def worth(self) -> Worth | Literal["not known"]:
        return "not known" if self.differs else self.place.worth


# by how many times two sizes may differ and still be called alike: chosen, not measured
LIKE: Final = {"experts": 1.5, "parameters": 2.0, "clips": 3.0, "passes": 3.0}

PLACES: Final = (
    MeasuredPlace(
        "three clusters of clips, 0.91 M",
        RunSize(images=False, experts=3, parameters=912_640, clips=3896, passes=66.5),
        "level",
        "1.08 (0.76 to 1.44) by TransNetV2, 0.99 (0.97 to 1.01) by EfficientNet-lite0, three seeds",
        "by exact guidance with two experts they were 0.76 (0.61 to 0.95) times as far as by top-1, "
        "0.88 (0.74 to 1.04) with the mix of kinds put right; on a trained codec nearer by one of two "
        "networks (1.06, 1.01 to 1.11)",
        "three-seeds-does-round-2-hold",
    ),
    MeasuredPlace(
        "three clusters of clips that no network learned, all from one seed model, 0.93 M",
        RunSize(images=False, experts=3, parameters=928_576, clips=12_876, passes=4),
        "level",
        "0.92 (0.64 to 1.33) by TransNetV2, 0.99 (0.93 to 1.05) by EfficientNet-lite0, three seeds",
        "one model that is told the cluster was level with the experts, too (0.85, 0.61 to 1.18, and 1.00, "
        "0.98 to 1.02). All networks stayed far from real clips",
        "clips-from-a-shared-seed-model-do-experts-win",
    ),
    MeasuredPlace(
        "three clusters of clips, 0.49 M, narrower than their patches",
        RunSize(images=False, experts=3, parameters=489_856, clips=3896, passes=66.5, narrow=True),
        "loses",
        "0.90 (0.83 to 0.99) by TransNetV2, 0.93 (0.92 to 0.95) by EfficientNet-lite0, one seed",
        "wider networks on fewer channels were level",
        "round-1-are-experts-of-049-m-parameters-nearer-than-one-model",
    ),
    MeasuredPlace(
        "eight clusters of single frames, 0.48 M",
        RunSize(images=True, experts=8, parameters=477_472, clips=3896, passes=98.6),
        "undecided",
        "0.97 (0.96 to 0.99) from real images, 1.22 (1.07 to 1.39) from real images through the codec, "
        "one seed",
        "which of the two counts: most of the first is the codec's loss",
        "images-does-it-hold-with-eight-experts-on-single-frames",
    ),
    MeasuredPlace(
        "ten clusters of pictures that no network learned, 80 k",
        RunSize(images=True, experts=10, parameters=80_416, clips=60_000, passes=4),
        "level",
        "1.00 (0.98 to 1.02) by Fréchet and 0.99 (0.96 to 1.02) by kernel distance, three seeds",
        "nothing that was tried; top-1 at each step was further than one kept expert (1.03, 1.02 to 1.05). "
        "All networks stayed far from real pictures, and the router was calibrated on four kinds of ten",
        "pictures-by-the-products-networks-do-experts-win",
    ),
    MeasuredPlace(
        "ten clusters of pictures that no network learned, 184 k",
        RunSize(images=True, experts=10, parameters=183_680, clips=60_000, passes=4),
        "level",
        "0.93 (0.75 to 1.14) by Fréchet and 0.88 (0.69 to 1.11) by kernel distance, three seeds",
        "one model that is told the cluster was nearer than the experts (0.96, 0.92 to 0.99, as far), one "
        "network of all their parameters nearest (0.84, 0.80 to 0.89). All networks stayed far from real "
        "pictures",
        "pictures-again-by-networks-twice-as-wide-do-experts-win",
    ),
    MeasuredPlace(
        "ten clusters of digits without captions, 59 k",
        RunSize(images=True, experts=10, parameters=59_300, clips=360_000, passes=1),
        "undecided",
        "2.19 (1.92 to 2.51) by a network that tells digits, 0.86 (0.80 to 0.93) on pixels, five seeds",
        "one model that is told the cluster was level with the experts by the first (1.07, 0.97 to 1.18), "
        "nearer by the second",
        "when-do-experts-win-a-map-on-digits",
    ),
    MeasuredPlace(
        "three clusters of digits without captions, 59 k",
        RunSize(images=True, experts=3, parameters=59_300, clips=360_000, passes=1),
        "undecided",
        "1.41 (1.31 to 1.53) by a network that tells digits, 0.99 (0.90 to 1.09) on pixels, five seeds",
        "one model that is told the cluster was level with the experts by both (1.01 and 0.95)",
        "when-do-experts-win-a-map-on-digits",
    ),
)


def expectation(size: RunSize, places: tuple[MeasuredPlace, ...] = PLACES) -> Expectation:
    """Returns what is known of experts at a run's size, which has two experts or more.

    The closest place is one of the same kind (images or clips; there must be one) with the fewest
    differences, then the one whose numbers are nearest in ratio.
    """
    kind = [place for place in places if place.size.images == size.images]
    place = min(kind, key=lambda one: (len(differences(size, one.size)), _apart(size, one.size)))
    return Expectation(size, place, differences(size, place.size))


def differences(size: RunSize, other: RunSize) -> tuple[str, ...]:
    """Returns the names of what differs by more than LIKE allows; passes that nobody knows do not differ."""
    found = [name for name, most in LIKE.items() if _ratio(size, other, name) > most]
    return (*(["narrow"] if size.narrow != other.narrow else []), *found)


def _ratio(size: RunSize, other: RunSize, name: str) -> float:
    """Returns how many times as large the larger is, 1 where one of them is not known."""
    mine, theirs = getattr(size, name), getattr(other, name)
    if not mine or not theirs:
        return 1.0
    return float(max(mine / theirs, theirs / mine))


def _apart(size: RunSize, other: RunSize) -> float:
    return sum(math.log(_ratio(size, other, name)) for name in LIKE)
