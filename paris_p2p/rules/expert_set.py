"""Which experts generate together: always those that the router knows (docs/protocol.md, "Sets of experts").

a router tip:           the experts of the run as of the notice that its card names, less those dropped since
no router tip:          the experts of the run as of now
an expert without tip:  stands in as the expert that it was split from, whose weights it starts from
"""

from __future__ import annotations

from collections.abc import Container

from paris_p2p.family import ancestors
from paris_p2p.rules.run_state import RunState
from paris_p2p.spec import RunSpec


def generating_spec(state: RunState, router_notices: int | None) -> RunSpec:
    """Returns the RunSpec with the set of experts that generate, and the shards that these had.

    `router_notices` is the number that the card of the router's tip names, None where there is no tip. A
    number beyond the state's says that the router knows notices that are not known here: the caller asks for
    them first.
    """
    now = state.spec
    if router_notices is None:
        return now
    then = state.spec_at(router_notices)
    return now.model_copy(
        update={
            "experts": then.experts,
            "parents": then.parents,
            "router": then.router,
            # those of now may be of clusters that this set does not have
            "train_shards": then.train_shards,
            "gate_shards": then.gate_shards,
            "dropped_experts": tuple(k for k in now.dropped_experts if k < then.experts),
        }
    )


def stands_for(spec: RunSpec, slot: str, present: Container[str]) -> str:
    """Returns the slot whose weights an expert generates with: its own, else its nearest ancestor's of those
    that are `present`; empty where there are none.
    """
    return next((one for one in (slot, *ancestors(spec, slot)) if one in present), "")
