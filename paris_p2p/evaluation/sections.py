"""The parts of an evaluation's page: clips side by side, what was evaluated, scores, and what is inside each
model.

Legend: N clips, S steps, K experts, G clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paris_p2p.evaluation.evidence import Evidence, Side
from paris_p2p.evaluation.headline import facts_rows
from paris_p2p.evaluation.inspect import Inspection
from paris_p2p.evaluation.scorecard import Card, RoutedLoss, RouterScore, Scored, Specialisation
from paris_p2p.score.agreement import TextSimilarity
from paris_p2p.score.fidelity import Fidelity
from paris_p2p.score.figures import (
    Curve,
    calibration,
    confusion,
    distances,
    loss_curves,
    routing_over_time,
    specialisation,
)
from paris_p2p.score.intervals import Interval
from paris_p2p.score.page import (
    ClipRow,
    ClipWall,
    Figure,
    Part,
    Section,
    Table,
    looping,
    number,
    score_table,
)
from paris_p2p.score.values import Values

SHOWN_CLIPS = 9
WAY_WORDS = {
    "told": "told each clip's cluster",
    "top_1": "routed: the most probable alone",
    "full": "routed: all, by the router's posterior",
}
_LEFT_OUT_TEXT = (
    "Real clips are the owner's own pixels, so that what the codec loses counts against the model. "
    "A generated clip belongs to the source video whose caption it was made from."
)


def sections_of(
    evidence: Evidence, scored: Mapping[str, Scored], curves: Sequence[Curve]
) -> tuple[Section, ...]:
    """Returns the page's sections in order, without those that have nothing in them."""
    cards = {name: one.card for name, one in scored.items()}
    sections = [
        Section("Clips", parts=(_wall(evidence),)),
        Section("What was evaluated", parts=(_about(evidence),)),
        Section(
            "Distances and tests", (_LEFT_OUT_TEXT,), (*_scores(cards), *_mixes(cards), *_left_out(cards))
        ),
        Section("Motion and prompts", parts=tuple(_values(cards))),
    ]
    for side in evidence.models:
        if side.inspection is not None:
            parts = _inside(side, side.inspection, scored[side.name], evidence)
            sections.append(Section(f"Inside: {side.name}", parts=tuple(parts)))
    if curves:
        sections.append(Section("Training", parts=(loss_curves("Held-out loss", curves, "clips seen"),)))
    return tuple(section for section in sections if section.parts)


def _about(evidence: Evidence) -> Table:
    columns = ("model", "run", "slot", "tip", "trained")
    rows = tuple(facts_rows(evidence.facts))
    return Table("Runs, tips and training", columns, rows, evidence.sampled, text_columns=5)


def _distances(cards: dict[str, Card]) -> tuple[Part, ...]:
    return (*_scores(cards), *_mixes(cards), *_left_out(cards))


def _scores(cards: dict[str, Card]) -> list[Part]:
    scores = {name: card.scores for name, card in cards.items()}
    if not any(scores.values()):
        return []
    away = {name: [s for s in group if "istance" in s.name] for name, group in scores.items()}
    drawing: list[Part] = [distances("Distance to real clips", away)] if any(away.values()) else []
    return [*drawing, score_table("All numbers", scores)]


def _mixes(cards: dict[str, Card]) -> list[Part]:
    """Returns the kinds of clips that models show beside the real ones', and distances with that put
    right.
    """
    mixes = {name: card.mix for name, card in cards.items() if card.mix}
    if not mixes:
        return []
    first = next(iter(mixes.values()))
    shares = [("real", first.real), *((name, mix.generated) for name, mix in mixes.items())]
    rows = [(name, *(f"{share:.2f}" for share in each)) for name, each in shares]
    note = (
        "As a probe fitted on real train clips sees them; what the codec does to generated clips may move it."
    )
    right = [
        (name, title, *(number(value) for value in each))
        for name, mix in mixes.items()
        for title, each in mix.distances.items()
    ]
    columns = ("model", "features", "Fréchet", "mix put right", "kernel", "mix put right")
    weighed = "Generated clips are weighted so that the kinds they show have the real clips' shares."
    return [
        Table("Which kinds of clips there are", ("clips", *first.clusters), tuple(rows), note),
        Table("Distances with the mix put right", columns, tuple(right), weighed, text_columns=2),
    ]


def _left_out(cards: dict[str, Card]) -> list[Part]:
    rows = tuple(
        (name, metric, reason) for name, card in cards.items() for metric, reason in card.left_out.items()
    )
    return [Table("Left out", ("model", "metric", "why"), rows, text_columns=3)] if rows else []


def _values(cards: dict[str, Card]) -> list[Part]:
    """Returns motion, aesthetic value and fidelity: real beside generated."""
    rows: list[tuple[str, ...]] = []
    for name, card in cards.items():
        rows += [_value_row(name, values) for values in (card.motion, card.aesthetic) if values]
        rows += [_agreement_row(name, card.fidelity)] if card.fidelity else []
        rows += [_agreement_row(name, similarity) for similarity in card.similarity]
    if not rows:
        return []
    columns = (
        "metric",
        "model",
        "real",
        "generated",
        "with prompts dealt out anew",
        "difference at the floor",
    )
    note = "Means over clips, with intervals over source videos."
    return [Table("One number per clip", columns, tuple(rows), note, text_columns=2)]


def _value_row(name: str, values: Values) -> tuple[str, ...]:
    shown = _shown(values.real), _shown(values.generated)
    return (values.difference.name, name, *shown, "", _floor(values))


def _agreement_row(name: str, found: Fidelity | TextSimilarity) -> tuple[str, ...]:
    shown = _shown(found.real.own), _shown(found.generated.own), _shown(found.generated.shuffled)
    return (found.name, name, *shown, _floor(found))


def _inside(side: Side, seen: Inspection, scored: Scored, evidence: Evidence) -> list[Part]:
    """Returns what router and experts do."""
    parts: list[Part] = []
    if side.chosen is not None and side.t is not None and side.chosen.shape[2] > 1:
        parts.append(_routing(side.chosen, side.t, evidence))
    if scored.router is not None:
        parts += _router(scored.router, scored.router_before)
    if scored.routed is not None:
        parts.append(_routed(scored.routed, len(seen.losses)))
    if scored.special is not None:
        parts += _experts(seen, scored.special)
    return parts


def _routed(routed: RoutedLoss, clips: int) -> Table:
    """Returns the loss of experts that are told the cluster beside that of the flow that samples follow."""
    rows = tuple(
        (WAY_WORDS[way], _shown(loss), _shown(routed.over[way]) if way in routed.over else "", str(clips))
        for way, loss in routed.losses.items()
    )
    note = (
        "Velocity loss at times drawn as in training, the same clips, noise and times for all. Samples are "
        "routed, not told: compare models by the loss through the router."
    )
    columns = ("experts are", "loss", "less the baseline's full mixture", "clips")
    return Table("Held-out loss, told and through the router", columns, rows, note)


def _router(router: RouterScore, before: RouterScore | None) -> list[Part]:
    names = [f"cluster {k}" for k in range(len(router.confusion))]
    deserved = "Is the router's confidence deserved?"
    parts: list[Part] = [
        _over_time("The router over t (1 is noise)", router),
        confusion("Where the router sends held-out clips, over all t", router.confusion, names),
        calibration(deserved, router.confidence.ravel(), router.right.ravel()),
    ]
    if before is not None:
        parts += [
            _over_time("The router over t, before its calibration", before),
            calibration(
                f"{deserved} Before its calibration", before.confidence.ravel(), before.right.ravel()
            ),
        ]
    return parts


def _experts(seen: Inspection, special: Specialisation) -> list[Part]:
    values = np.array([[cell.value for cell in row] for row in special.losses])
    names = [f"cluster {k} ({int((seen.clusters == k).sum())})" for k in special.clusters]
    experts = [f"expert {k}" for k in seen.experts]
    rows = tuple(
        (name, *(_shown(cell) for cell in row)) for name, row in zip(experts, special.losses, strict=True)
    )
    note = (
        "Velocity loss at times drawn as in training, the same noise and times for all; "
        "intervals over source videos; clips in brackets."
    )
    title = "Held-out loss of each expert on each cluster's clips"
    return [
        specialisation(title, values, experts, names),
        Table("The same, with intervals", ("expert", *names), rows, note),
    ]


def _routing(chosen: NDArray[np.float32], t: NDArray[np.float32], evidence: Evidence) -> Figure:
    """Returns which experts denoise the captions of each cluster, step by step: chosen [N S K], t [S]."""
    of_clip = np.array([clip.cluster for clip in evidence.clips])
    clusters = np.unique(of_clip)
    weights = np.stack([chosen[of_clip == k].astype(np.float64).mean(0) for k in clusters])  # G S K
    names = [f"captions of cluster {k} ({int((of_clip == k).sum())})" for k in clusters]
    experts = [f"expert {k}" for k in range(weights.shape[2])]
    return routing_over_time("Which expert denoises", t.astype(np.float64), weights, names, experts)


def _over_time(title: str, router: RouterScore) -> Table:
    columns = router.t, router.accuracy, router.cross_entropy, router.calibration_error
    rows = tuple(
        (f"{t:.3f}", _shown(accuracy), _shown(entropy), number(error), str(len(router.right)))
        for t, accuracy, entropy, error in zip(*columns, strict=True)
    )
    heads = ("t", "accuracy", "cross-entropy", "expected calibration error", "clips")
    return Table(title, heads, rows)


def _wall(evidence: Evidence) -> ClipWall:
    """Returns the same captions of all sides, spread over the clusters."""
    by_cluster = sorted(range(len(evidence.clips)), key=lambda i: (evidence.clips[i].cluster, i))
    shown = [
        by_cluster[i]
        for i in np.unique(np.linspace(0, len(by_cluster) - 1, min(SHOWN_CLIPS, len(by_cluster))).astype(int))
    ]
    sides, fps = [evidence.real, *evidence.models], evidence.prepared.clip.fps
    rows = []
    for i in shown:
        caption = evidence.clips[i].caption
        clips = tuple(
            looping(side.look(range(i, i + 1))[0], fps, f"{side.name}: {caption}"[:300]) for side in sides
        )
        rows.append(ClipRow(caption[:300], clips))
    note = "Not chosen by how they look: evenly spaced among the evaluated clips, sorted by cluster."
    return ClipWall("Side by side", tuple(side.name for side in sides), tuple(rows), note)


def _shown(value: Interval) -> str:
    return f"{number(value.value)} ({_range(value.low, value.high)})"


def _floor(values: Values | Fidelity | TextSimilarity) -> str:
    return _range(values.difference.floor.low, values.difference.floor.high)


def _range(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"
