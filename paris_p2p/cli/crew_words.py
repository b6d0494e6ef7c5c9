"""Says in words how a run's crews work: what `create` chose and what `state` shows."""

from __future__ import annotations

from typing import Any

from paris_p2p.crew_records import CrewSpec
from paris_p2p.rules.update_sizes import bits_an_entry


def crew_words(crew: CrewSpec | None) -> str:
    """Returns one sentence on who trains a slot together, and what they send each other."""
    if crew is None:
        return "one machine trains a slot"
    bits = bits_an_entry(crew.step) / crew.parts
    share = "" if crew.parts == 1 else f", of one chunk in {crew.parts} a round"
    return (
        f"up to {crew.peers} machines train a slot together, in rounds of {crew.least_steps} to "
        f"{crew.most_steps} steps; an update takes about {bits:.2g} bits a parameter, {32 / bits:.0f} times "
        f"less than float32{share}"
    )


def crew_json(crew: CrewSpec | None) -> dict[str, Any] | None:
    """Returns a run's numbers for crews as JSON holds them; null where one machine trains a slot."""
    return None if crew is None else crew.model_dump(mode="json")
