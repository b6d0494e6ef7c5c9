"""A log of records loses what was damaged, and nothing else."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

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
