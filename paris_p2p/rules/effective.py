"""The RunSpec that follows from the owner's and from what notices changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paris_p2p.owner_records import Extend
from paris_p2p.rules.chain import Notice
from paris_p2p.rules.growth import grown
from paris_p2p.spec import RunSpec


def effective_spec(spec: RunSpec, notices: Sequence[Notice]) -> RunSpec:
    """Returns the RunSpec with all that the notices changed in it."""
    changes = [notice.record.change for notice in notices]
    for change in changes:
        if isinstance(change, Extend):
            spec = extended(spec, change)
    return grown(spec, changes)


def extended(spec: RunSpec, change: Extend) -> RunSpec:
    """Returns the RunSpec with the numbers that one `extend` names."""
    named = {name: value for name, value in change.model_dump().items() if value is not None}

    def of(*names: str) -> dict[str, Any]:
        return {name: named[name] for name in names if name in named}

    return spec.model_copy(
        update={
            "training": spec.training.model_copy(update=of("total_steps", "decay_steps")),
            "timing": spec.timing.model_copy(update=of("checkpoint_s")),
            "gate": spec.gate.model_copy(update=of("tolerance")),
            **of("previews"),
        }
    )
