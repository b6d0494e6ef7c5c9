"""An evaluation's numbers for a program: results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.scorecard import Card, Mix, RouterScore, Scored, Specialisation


def results_json(made: Mapping[str, str], evidence: Evidence, scored: Mapping[str, Scored]) -> str:
    """Returns all numbers with what they were made from."""
    about = {name: asdict(facts) for name, facts in evidence.facts.items()}
    models = {name: _numbers(one) for name, one in scored.items()}
    results = {"made": dict(made), "about": about, "networks": evidence.networks, "models": models}
    return json.dumps(results, indent=1, ensure_ascii=False, default=float) + "\n"


def _numbers(scored: Scored) -> dict[str, Any]:
    found = _of_card(scored.card)
    if scored.router is not None:
        found["router"] = _of_router(scored.router)
    if scored.router_before is not None:
        found["router_before_calibration"] = _of_router(scored.router_before)
    if scored.routed is not None:
        found["held_out_loss"] = {
            name: {way: asdict(value) for way, value in each.items()}
            for name, each in scored.routed._asdict().items()
        }
    if scored.special is not None:
        found["specialisation"] = _of_experts(scored.special)
    return found


def _of_card(card: Card) -> dict[str, Any]:
    return {
        "scores": [asdict(score) for score in card.scores],
        "left_out": card.left_out,
        "motion": asdict(card.motion) if card.motion else None,
        "fidelity": asdict(card.fidelity) if card.fidelity else None,
        "mix": _of_mix(card.mix) if card.mix else None,
        "similarity": [asdict(similarity) for similarity in card.similarity],
        "aesthetic": asdict(card.aesthetic) if card.aesthetic else None,
    }


def _of_mix(mix: Mix) -> dict[str, Any]:
    names = ("frechet", "frechet_mix_right", "kernel", "kernel_mix_right")
    return {
        "clusters": list(mix.clusters),
        "real": mix.real.tolist(),
        "generated": mix.generated.tolist(),
        "distances": {title: dict(zip(names, each, strict=True)) for title, each in mix.distances.items()},
    }


def _of_router(router: RouterScore) -> dict[str, Any]:
    return {
        "t": router.t.tolist(),
        "accuracy": [asdict(accuracy) for accuracy in router.accuracy],
        "cross_entropy": [asdict(entropy) for entropy in router.cross_entropy],
        "calibration_error": list(router.calibration_error),
        "confusion": router.confusion.tolist(),
        "clips": len(router.right),
    }


def _of_experts(special: Specialisation) -> dict[str, Any]:
    losses = [[asdict(cell) for cell in row] for row in special.losses]
    return {"clusters": special.clusters, "losses": losses}
