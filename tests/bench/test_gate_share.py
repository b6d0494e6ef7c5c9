"""bench.gate_share: what it tells of its figures, and that a gate passes the card that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gate_share import Costs, made_job, told
from paris_p2p.training.gate import check_card


def test_shares_are_of_the_cards_that_one_attestor_checks_an_interval() -> None:
    found = told(Costs((6.0, 5.0, 30.0), (3.0,), (250.0, 200.0)), cards=0.5)
    assert (found["first_card_s"], found["next_card_s"]) == (6.0, 3.0)
    assert found["default_worst_share"] == pytest.approx(0.5 * 6.0 / 600.0)
    assert found["default_best_share"] == pytest.approx(0.5 * 3.0 / 600.0)
    assert (found["resident_mib"], found["proportional_mib"]) == (250.0, 200.0)


def test_a_gate_passes_the_card_and_measures_it_beside_a_reference(tmp_path: Path) -> None:
    job = made_job(tmp_path, "nano", clips=8)
    result = check_card(job)
    assert (result.ok, result.gate_clips) == (True, 8)
    assert job.best_weights_path is not None
