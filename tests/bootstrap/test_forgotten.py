"""A bootstrap node remembers which runs were ended and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.bootstrap import forgotten
from paris_p2p.bootstrap.forgotten import ForgottenRuns

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
