"""A bootstrap node remembers which runs were ended and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.bootstrap import forgotten
from paris_p2p.bootstrap.forgotten import ForgottenRuns, end_heard_s
from paris_p2p.owner_records import End
from paris_p2p.store.ledger import Ledger
from tests.rules.made_notices import made_run, state_of

RUNS = [f"{number:064x}" for number in range(6)]


def test_forgotten_runs_are_known_after_a_restart(tmp_path: Path) -> None:
    runs = ForgottenRuns(tmp_path / "forgotten")
    assert RUNS[0] not in runs
    runs.add(RUNS[0])
    runs.add(RUNS[1])
    again = ForgottenRuns(tmp_path / "forgotten")
    assert RUNS[0] in again
    assert RUNS[1] in again
    assert RUNS[2] not in again


def test_they_take_a_bounded_place_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgotten, "_MAX_RUNS", 3)
    runs = ForgottenRuns(tmp_path / "forgotten")
    for run in RUNS[:5]:
        runs.add(run)
    runs.add(RUNS[2])
    runs.add(RUNS[5])
    assert [run in ForgottenRuns(runs.file) for run in RUNS] == [False, False, True, False, True, True]


def test_a_damaged_file_forgets_what_was_forgotten_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "forgotten").write_bytes(b"\xff\x00\n")
    runs = ForgottenRuns(tmp_path / "forgotten")
    runs.add(RUNS[0])
    assert RUNS[0] in ForgottenRuns(runs.file)
    runs.file.write_text(f"../../etc\n{RUNS[3]}\n")
    assert RUNS[3] in ForgottenRuns(runs.file)
    assert "../../etc" not in ForgottenRuns(runs.file)


def test_an_end_counts_from_when_it_was_heard_also_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run()
    now_s = 2e9
    monkeypatch.setattr("paris_p2p.bootstrap.forgotten.time.time", lambda: now_s)
    ledger = Ledger(tmp_path / "ledger")
    assert end_heard_s(ledger, state_of(run)) is None
    assert end_heard_s(ledger, state_of(run, End())) == 2e9  # though it is dated before
    now_s += 500.0
    assert end_heard_s(Ledger(tmp_path / "ledger"), state_of(run, End())) == 2e9
    for damage in (b"", b"soon", b"9" * 40, b"3000000000"):
        ledger.put("end-heard", damage)
        assert end_heard_s(ledger, state_of(run, End())) == now_s
