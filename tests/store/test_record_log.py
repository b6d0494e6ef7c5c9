"""A log of records loses what was damaged, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.store import record_log
from paris_p2p.store.record_log import RecordLog

ENTRIES = [b"one", b"", b"three" * 100, b"\xf1PH1 looks like a mark"]


def log_of(path: Path) -> RecordLog:
    log = RecordLog(path)
    for entry in ENTRIES:
        log.append(entry)
    return log


def test_entries_come_back_in_order_and_can_be_replaced(tmp_path: Path) -> None:
    assert RecordLog(tmp_path / "none" / "log").read() == []
    log = log_of(tmp_path / "new" / "log")
    assert log.read() == ENTRIES
    log.replace(ENTRIES[2:])
    log.append(b"later")
    assert log.read() == [*ENTRIES[2:], b"later"]
    assert log.size_bytes() == log.path.stat().st_size


def test_what_was_torn_off_costs_the_last_entry_and_the_next_is_whole(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log")
    data = log.path.read_bytes()
    log.path.write_bytes(data[:-3])
    assert log.read() == ENTRIES[:-1]
    log.append(b"after a power cut")
    assert log.read() == [*ENTRIES[:-1], b"after a power cut"]


@given(st.data())
def test_one_damaged_byte_costs_one_entry(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = log_of(Path(folder) / "log")
        whole = bytearray(log.path.read_bytes())
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        log.path.write_bytes(bytes(whole))
        left = log.read()
        assert len(left) == len(ENTRIES) - 1
        assert all(entry in ENTRIES for entry in left)


def test_a_long_log_is_read_in_parts_also_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_log, "_WINDOW_BYTES", 7)
    monkeypatch.setattr(record_log, "_MAX_ENTRY_BYTES", 600)
    log = log_of(tmp_path / "log")
    assert log.read() == ENTRIES
    data = log.path.read_bytes()
    log.path.write_bytes(b"\xf1PH" + data[:20] + b"\xff" * 50 + data)
    assert log.read() == [*ENTRIES[:1], *ENTRIES]
    entries = log.entries()
    assert next(entries) == ENTRIES[0]
    assert record_log.RecordLog(tmp_path / "none").read() == []
