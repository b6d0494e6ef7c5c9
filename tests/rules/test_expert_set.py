"""Tests which experts generate together."""

from __future__ import annotations

import pytest

from paris_p2p.node.generator import Fetched, FetchedSlot
from paris_p2p.owner_records import AnyChange, DropExpert, Pause
from paris_p2p.records import BlobRef
from paris_p2p.rules.expert_set import generating_spec, stands_for
from paris_p2p.rules.growth import grown
from paris_p2p.rules.run_state import RunState, run_state
from paris_p2p.spec import RunSpec
from tests.made.made_growth import both
from tests.rules.made import NOW, RUN
from tests.rules.made_notices import chain_of
from tests.rules.test_growth import a_run

SPLIT = both(1, 2)


def state(*changes: AnyChange) -> RunState:
    return run_state(RUN, a_run(), chain_of(RUN, changes), NOW)


def names(spec: RunSpec) -> list[str]:
    return [slot for slot in spec.slots if slot != "router"]


def test_until_the_routers_tip_knows_the_child_the_old_set_generates() -> None:
    now = state(Pause(), *SPLIT)
    for notices_known in (0, 1, 2, 3):
        old = generating_spec(now, notices_known)
        assert names(old) == ["expert-0", "expert-1"]
        assert old.router.config["experts"] == old.experts == 2
    assert names(generating_spec(now, 4)) == ["expert-0", "expert-1", "expert-2"]
    assert generating_spec(now, 4).router.config["experts"] == 3


def test_without_a_routers_tip_the_set_of_now_generates() -> None:
    assert names(generating_spec(state(*SPLIT), None)) == ["expert-0", "expert-1", "expert-2"]


@pytest.mark.parametrize("known", [0, 3, 4])
def test_a_dropped_expert_is_out_at_once_whatever_the_router_knows(known: int) -> None:
    assert "expert-0" not in names(generating_spec(state(*SPLIT, DropExpert(expert=0)), known))
    # a child that was dropped before the router knew it is no gap in the old set
    child = generating_spec(state(*SPLIT, DropExpert(expert=2)), known)
    assert names(child) == ["expert-0", "expert-1"]
    assert child.dropped_experts == ((2,) if known >= 3 else ())


def test_an_expert_without_weights_stands_in_as_its_nearest_ancestor() -> None:
    spec = grown(a_run(), [*both(1, 2, "a"), *both(2, 3, "b")])
    assert stands_for(spec, "expert-3", {"expert-3", "expert-2"}) == "expert-3"
    assert stands_for(spec, "expert-3", {"expert-1", "expert-2"}) == "expert-2"
    assert stands_for(spec, "expert-3", {"expert-0", "expert-1"}) == "expert-1"
    assert stands_for(spec, "expert-3", {"expert-0"}) == ""
    assert stands_for(spec, "router", {"expert-0"}) == ""


@pytest.mark.parametrize("known", [0, 1, 3, 4, None])
@pytest.mark.parametrize("more", [(), (DropExpert(expert=0),), (DropExpert(expert=2),)])
def test_the_set_that_generates_is_a_run_that_can_be_written_and_read(
    known: int | None, more: tuple[AnyChange, ...]
) -> None:
    spec = generating_spec(state(*SPLIT, *more), known)
    assert RunSpec.model_validate(spec.model_dump()) == spec
    slots = {slot: FetchedSlot(card="c", weights=BlobRef(id="0" * 64, size_bytes=1)) for slot in spec.slots}
    kept = Fetched(slots=slots, effective=spec)  # what `fetch` leaves on the disk
    assert Fetched.model_validate_json(kept.model_dump_json()).effective == spec
