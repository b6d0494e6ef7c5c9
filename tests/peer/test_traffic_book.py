"""What was sent and fetched stays counted when the clock is set, also while no peer runs."""

from __future__ import annotations

from datetime import UTC, date
from pathlib import Path

import pytest

from paris_p2p.byte_budget import budget_in
from paris_p2p.peer import traffic_book
from paris_p2p.peer.traffic_book import TrafficBook
from paris_p2p.rules.traffic import day_at
from paris_p2p.rules.wake import Clocks

NOON_S = 1_794_744_000.0  # 2026-11-15 12:00
MONTH_S = 31 * 86400.0
BUDGET = budget_in("1GB/month")


def used(book: TrafficBook, today: date) -> int:
    return book.traffic.used_bytes(BUDGET, "up", today)


@pytest.mark.parametrize("set_s", [-MONTH_S, MONTH_S])
def test_a_clock_that_is_set_opens_no_budget(tmp_path: Path, set_s: float) -> None:
    book = TrafficBook(tmp_path)
    book.follow(Clocks(1000.0, NOON_S), UTC)
    book.count(day_at(NOON_S, UTC), 900, 0, 0.0)
    then = day_at(NOON_S + set_s, UTC)
    book.follow(Clocks(1003.0, NOON_S + set_s + 3.0), UTC)
    book.count(then, 950, 0, 3.0)
    assert used(book, then) == 950
    book.follow(Clocks(1006.0, NOON_S + 6.0), UTC)
    assert used(book, day_at(NOON_S, UTC)) == 950


def test_a_clock_that_is_set_between_two_starts_opens_none_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_book, "boot_id", lambda: "one start")
    book = TrafficBook(tmp_path)
    book.follow(Clocks(1000.0, NOON_S), UTC)
    book.count(day_at(NOON_S, UTC), 900, 0, 0.0)
    book.write()
    ahead_s = NOON_S + MONTH_S
    again = TrafficBook(tmp_path)
    again.follow(Clocks(1100.0, ahead_s), UTC)
    assert used(again, day_at(ahead_s, UTC)) == 900
    monkeypatch.setattr(traffic_book, "boot_id", lambda: "another")
    later = TrafficBook(tmp_path)  # a month may well have passed since
    later.follow(Clocks(5.0, ahead_s), UTC)
    assert used(later, day_at(ahead_s, UTC)) == 0


def started(book_dir: Path, monkeypatch: pytest.MonkeyPatch, boot: str, wall_s: float, more: int) -> int:
    """A peer's life in one start of the machine, in which it sends `more`; what the month says then."""
    monkeypatch.setattr(traffic_book, "boot_id", lambda: boot)
    book, today = TrafficBook(book_dir), day_at(wall_s, UTC)
    book.follow(Clocks(10.0, wall_s), UTC)
    book.count(today, more, 0, 0.0)
    book.follow(Clocks(13.0, wall_s + 3.0), UTC)
    book.write()
    return used(book, today)


def test_a_clock_that_lost_its_battery_over_a_start_of_the_machine_gives_no_second_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(tmp_path, monkeypatch, "1", NOON_S, 900) == 900
    assert started(tmp_path, monkeypatch, "2", 1_577_836_800.0, 7) == 907  # 2020-01-01
    assert started(tmp_path, monkeypatch, "3", 1_577_836_900.0, 1) == 908
    assert started(tmp_path, monkeypatch, "4", NOON_S + 86400.0, 1) == 909  # mended
    assert started(tmp_path, monkeypatch, "5", NOON_S + MONTH_S, 2) == 2  # a month passed
    assert started(tmp_path, monkeypatch, "6", NOON_S + 2 * MONTH_S, 0) == 0


def test_a_clock_that_lost_its_battery_is_mended_while_the_peer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(tmp_path, monkeypatch, "1", NOON_S, 900) == 900
    monkeypatch.setattr(traffic_book, "boot_id", lambda: "2")
    book = TrafficBook(tmp_path)
    book.follow(Clocks(10.0, 1_577_836_800.0), UTC)
    assert used(book, date(2020, 1, 1)) == 900
    book.follow(Clocks(13.0, NOON_S + 86400.0), UTC)
    assert used(book, day_at(NOON_S + 86400.0, UTC)) == 900
    assert used(book, date(2026, 12, 1)) == 0


def test_a_clock_that_was_ten_years_ahead_over_a_start_locks_nothing_and_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(tmp_path, monkeypatch, "1", NOON_S, 900) == 900
    assert started(tmp_path, monkeypatch, "2", NOON_S + 10 * 365 * 86400.0, 50) == 50
    assert started(tmp_path, monkeypatch, "3", NOON_S + 86400.0, 1) == 951  # mended: all of it counts
    assert started(tmp_path, monkeypatch, "4", NOON_S + MONTH_S, 3) == 3


def test_a_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "traffic.json").write_text('{"version": 1, "days": {"2026-11-15": [7, 8]}}')
    assert used(TrafficBook(tmp_path), date(2026, 11, 15)) == 7
    (tmp_path / "traffic.json").write_text('{"days": {"2026-11-15": [7, 8]}, "clocks": ["x", null, []]}')
    assert used(TrafficBook(tmp_path), date(2026, 11, 15)) == 7
    (tmp_path / "traffic.json").write_text(
        '{"days": {"2026-11-15": [7, 8]}, "clocks": ["x", 1, 2], "behind": [NaN, 1]}'
    )
    assert used(TrafficBook(tmp_path), date(2026, 11, 15)) == 7
