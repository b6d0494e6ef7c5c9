"""A router's crew goes on when a run gets one more expert: its state gets an output before the next round."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from paris_p2p.errors import CheckpointError
from paris_p2p.run_file import read_run, write_effective
from paris_p2p.spec import ROUTER
from paris_p2p.training.basis_state import load_basis
from paris_p2p.training.grown_state import grow_state
from paris_p2p.training.round_merge import CrewSlot
from paris_p2p.updates.merged_state import write_state
from paris_p2p.updates.outer_step import OuterState
from tests.made.made_crew import CREW, MadeCrew, basis_of, card_id, made_crew
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here
from tests.training.test_growing import PARENT, grown


def slots(tiny: TinyRun) -> tuple[CrewSlot, CrewSlot]:
    """Returns the router's slot before and after expert-1 was split."""
    old, new = (CrewSlot.of(tiny.run, ROUTER, spec, CREW) for spec in (tiny.spec, grown(tiny)))
    return old, new


def effective(tiny: TinyRun) -> Path:
    path = tiny.folder / "grown-spec.json"
    owner = read_run(tiny.spec_path, mend="").record.owner
    write_effective(path, grown(tiny).model_copy(update={"owner": owner}))
    return path


@pytest.mark.parametrize("full", [False, True], ids=["rounds", "a full card"])
def test_a_routers_crew_goes_on_with_one_output_more(tiny: TinyRun, full: bool) -> None:
    old, new = slots(tiny)
    first = basis_of(checkpoint_of(train_here(tiny.train_job(ROUTER, out="r", max_steps=6))), card_id("r"))
    with made_crew(tiny, 2, first, slot=ROUTER) as crew:
        for number in range(2):
            crew.round(2, full=full and number == 1)
        basis = crew.basis
    before, after = load_basis(old, basis), load_basis(new, basis)
    rows = new.layout.views(after.weights)["out.weight"]
    assert np.array_equal(rows[-1], rows[PARENT])
    bias, was = (slot.layout.views(s.weights)["out.bias"] for slot, s in ((new, after), (old, before)))
    assert bias[-1] == bias[PARENT] == pytest.approx(was[PARENT] - math.log(2))
    path = tiny.folder / f"state-{full}"
    write_state(path, tiny.run, ROUTER, before)
    kept = load_basis(new, basis.model_copy(update={"state_path": path}))
    assert new.hash_of(kept) == new.hash_of(after)
    # Trainers begin again when a notice changes their network, and go on in rounds.
    with made_crew(tiny, 2, basis, slot=ROUTER, first_clip=400, effective_path=effective(tiny)) as crew:
        ready = crew.round(2)
        assert new.hash_of(load_basis(new, crew.basis)) == ready.round.merged
        assert_a_newcomer_reads(crew, new)


def assert_a_newcomer_reads(crew: MadeCrew, new: CrewSlot) -> None:
    """Checks that rounds of before and after can be done again one after the other."""
    again = crew.round(2)
    assert new.hash_of(load_basis(new, crew.basis)) == again.round.merged


def test_one_leads_checkpoint_of_fewer_outputs_is_a_basis_too(tiny: TinyRun) -> None:
    old, new = slots(tiny)
    first = basis_of(checkpoint_of(train_here(tiny.train_job(ROUTER, out="s", max_steps=6))), card_id("s"))
    assert load_basis(old, first).weights.size < load_basis(new, first).weights.size == new.parameters
    assert not load_basis(new, first).momentum.any()


def test_a_state_of_another_network_is_refused(tiny: TinyRun) -> None:
    _, new = slots(tiny)
    odd = OuterState(*(np.zeros(77, np.float32) for _ in range(3)), steps=1, clips=4)
    with pytest.raises(CheckpointError, match="77 numbers"):
        grow_state(new, odd)
