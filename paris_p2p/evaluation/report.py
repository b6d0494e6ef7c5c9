"""An evaluation as report.html and results.json: the same numbers for a person and for a program."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError
from paris_p2p.evaluation.evidence import Evidence, Side
from paris_p2p.evaluation.headline import facts_rows, headline
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.scorecard import Card, RouterScore, score_model, score_router, specialisation_of
from paris_p2p.pasted import invites_in
from paris_p2p.progress import Progress
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
from paris_p2p.score.intervals import Interval, Plan
from paris_p2p.score.page import (
    ClipRow,
    ClipWall,
    Figure,
    Part,
    Report,
    Section,
    Table,
    looping,
    number,
    render,
    score_table,
)

SHOWN_CLIPS = 9
MAX_LOSS_LINES = 1_000_000
Facts = dict[str, str]


def write_evaluation(
    out: Path,
    evidence: Evidence,
    losses: Path | None,
    made: Facts,
    progress: Progress,
    plan: Plan | None = None,
) -> None:
    """out/results.json, then out/report.html; each whole or not at all."""
    plan, cards = plan or Plan(), {}
    curves = read_losses(losses) if losses else []
    for done, side in enumerate(evidence.models):
        progress("score", done, len(evidence.models))
        cards[side.name] = score_model(evidence, side, plan)
    progress("score", len(evidence.models), len(evidence.models))
    routers = {side.name: score_router(side.inspection, plan) for side in evidence.models if side.inspection}
    special = {
        side.name: specialisation_of(side.inspection, plan) for side in evidence.models if side.inspection
    }
    models = {name: _numbers(card, routers.get(name), special.get(name)) for name, card in cards.items()}
    about = {name: asdict(facts) for name, facts in evidence.facts.items()}
    results = {"made": made, "about": about, "networks": evidence.networks, "models": models}
    _write(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False, default=float) + "\n")
    sections = [
        Section("Clips", parts=(_wall(evidence),)),
        Section("What was evaluated", parts=(_about(evidence),)),
        Section("Distances and tests", (_LEFT_OUT_TEXT,), (*_scores(cards), *_left_out(cards))),
        Section("Motion and prompts", parts=tuple(_values(cards))),
    ]
    sections += [_inside(side, routers[side.name], special[side.name], evidence) for side in evidence.models]
    if curves:
        sections.append(Section("Training", parts=(loss_curves("Held-out loss", curves, "clips seen"),)))
    title = f"Is it any good? {', '.join(cards)} against {len(evidence.clips)} held-out clips"
    kept = tuple(section for section in sections if section.parts)
    _write(out / "report.html", render(Report(title, headline(cards, evidence), kept, tuple(made.items()))))


def made_by(command: Sequence[str], options: EvaluateOptions) -> Facts:
    """What a number needs to be believed: what it was made from, with what, and when. An invite is a key:
    its peers stay out.
    """
    shown = [next(invites_in(word), "").partition("?")[0] or word for word in command]
    names = ("paris-p2p", "torch", "numpy", "scikit-learn", "matplotlib")
    return {
        "command": shlex.join(shown),
        "options": options.model_dump_json(),
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def read_losses(path: Path) -> list[Curve]:
    """JSON lines of {"model": name, "clips": seen, "loss": held-out loss}: a curve for each name.
    DataError.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for count, line in enumerate(file, 1):
                if count > MAX_LOSS_LINES:
                    raise DataError(f"{path} has more than {MAX_LOSS_LINES} lines; keep one in a few")
                if line.strip():
                    row = json.loads(line)
                    point = float(row["clips"]), float(row["loss"])
                    if not np.isfinite(point).all():
                        raise ValueError(f"line {count} is not finite")
                    found.setdefault(str(row["model"])[:100], []).append(point)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} cannot be read ({error}); each line must be {{"model": …, "clips": …, "loss": …}}'
        ) from error
    return [Curve(name, *np.array(sorted(points)).T) for name, points in found.items()]


_LEFT_OUT_TEXT = (
    "Real clips are the owner's own pixels, so that what the codec loses counts against the model. "
    "A generated clip belongs to the source video whose caption it was made from."
)


def _about(evidence: Evidence) -> Table:
    columns = ("model", "run", "slot", "tip", "trained")
    return Table("Runs, tips and training", columns, tuple(facts_rows(evidence.facts)), text_columns=5)


def _scores(cards: dict[str, Card]) -> list[Part]:
    scores = {name: card.scores for name, card in cards.items()}
    if not any(scores.values()):
        return []
    away = {name: [s for s in group if "istance" in s.name] for name, group in scores.items()}
    drawing: list[Part] = [distances("Distance to real clips", away)] if any(away.values()) else []
    return [*drawing, score_table("All numbers", scores)]


def _left_out(cards: dict[str, Card]) -> list[Part]:
    rows = tuple(
        (name, metric, reason) for name, card in cards.items() for metric, reason in card.left_out.items()
    )
    return [Table("Left out", ("model", "metric", "why"), rows, text_columns=3)] if rows else []


def _values(cards: dict[str, Card]) -> list[Part]:
    """Motion and fidelity: real beside generated."""
    rows = []
    for name, card in cards.items():
        if card.motion:
            motion = card.motion
            rows.append(
                (
                    motion.difference.name,
                    name,
                    _shown(motion.real),
                    _shown(motion.generated),
                    "",
                    _floor(motion),
                )
            )
        if card.aesthetic:
            aesthetic = card.aesthetic
            rows.append(
                (
                    aesthetic.difference.name,
                    name,
                    _shown(aesthetic.real),
                    _shown(aesthetic.generated),
                    "",
                    _floor(aesthetic),
                )
            )
        agreed: list[Fidelity | TextSimilarity] = [
            *([card.fidelity] if card.fidelity else []),
            *card.similarity,
        ]
        for fidelity in agreed:
            given = (
                fidelity.name,
                name,
                _shown(fidelity.real.own),
                _shown(fidelity.generated.own),
                _shown(fidelity.generated.shuffled),
            )
            rows.append((*given, _range(fidelity.difference.floor.low, fidelity.difference.floor.high)))
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
    return [
        Table(
            "One number per clip",
            columns,
            tuple(rows),
            "Means over clips, with intervals over source videos.",
            text_columns=2,
        )
    ]


def _inside(side: Side, router: RouterScore | None, special: Any, evidence: Evidence) -> Section:
    """What router and experts do."""
    parts: list[Part] = []
    if side.chosen is not None and side.chosen.shape[2] > 1:
        parts.append(_routing(side, evidence))
    if router is not None:
        names = [f"cluster {k}" for k in range(len(router.confusion))]
        parts.append(_over_time(router))
        parts.append(confusion("Where the router sends held-out clips, over all t", router.confusion, names))
        parts.append(
            calibration(
                "Is the router's confidence deserved?", router.confidence.ravel(), router.right.ravel()
            )
        )
    clusters, losses = special
    values = np.array([[cell.value for cell in row] for row in losses])
    assert side.inspection is not None
    names = [f"cluster {k} ({int((side.inspection.clusters == k).sum())})" for k in clusters]
    experts = [f"expert {k}" for k in side.inspection.experts]
    parts.append(
        specialisation("Held-out loss of each expert on each cluster's clips", values, experts, names)
    )
    columns = ("expert", *names)
    rows = tuple((name, *(_shown(cell) for cell in row)) for name, row in zip(experts, losses, strict=True))
    note = (
        "Velocity loss at times drawn as in training, the same noise and times for all; "
        "intervals over source videos; clips in brackets."
    )
    parts.append(Table("The same, with intervals", columns, rows, note))
    return Section(f"Inside: {side.name}", parts=tuple(parts))


def _routing(side: Side, evidence: Evidence) -> Figure:
    assert side.chosen is not None
    assert side.t is not None
    of_clip = np.array([clip.cluster for clip in evidence.clips])
    clusters = np.unique(of_clip)
    weights = np.stack([side.chosen[of_clip == k].astype(np.float64).mean(0) for k in clusters])  # G S K
    names = [f"captions of cluster {k} ({int((of_clip == k).sum())})" for k in clusters]
    experts = [f"expert {k}" for k in range(weights.shape[2])]
    return routing_over_time("Which expert denoises", side.t.astype(np.float64), weights, names, experts)


def _over_time(router: RouterScore) -> Table:
    rows = tuple(
        (f"{t:.3f}", _shown(accuracy), number(error), str(len(router.right)))
        for t, accuracy, error in zip(router.t, router.accuracy, router.calibration_error, strict=True)
    )
    return Table(
        "The router over t (1 is noise)", ("t", "accuracy", "expected calibration error", "clips"), rows
    )


def _wall(evidence: Evidence) -> ClipWall:
    """The same captions for all: spread over the clusters."""
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


def _numbers(card: Card, router: RouterScore | None, special: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"scores": [asdict(score) for score in card.scores], "left_out": card.left_out}
    found["motion"] = asdict(card.motion) if card.motion else None
    found["fidelity"] = asdict(card.fidelity) if card.fidelity else None
    found["similarity"] = [asdict(similarity) for similarity in card.similarity]
    found["aesthetic"] = asdict(card.aesthetic) if card.aesthetic else None
    if router is not None:
        found["router"] = {
            "t": router.t.tolist(),
            "accuracy": [asdict(accuracy) for accuracy in router.accuracy],
            "calibration_error": list(router.calibration_error),
            "confusion": router.confusion.tolist(),
            "clips": len(router.right),
        }
    if special is not None:
        found["specialisation"] = {
            "clusters": special[0],
            "losses": [[asdict(cell) for cell in row] for row in special[1]],
        }
    return found


def _shown(value: Interval) -> str:
    return f"{number(value.value)} ({_range(value.low, value.high)})"


def _floor(values: Any) -> str:
    return _range(values.difference.floor.low, values.difference.floor.high)


def _range(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def _write(path: Path, text: str) -> None:
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # a path need not be UTF-8
