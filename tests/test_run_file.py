"""A run.spec is believed only when size, signature and run id are right; what is wrong with one is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.errors import RecordError, StoreError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.kinds import MAX_ENVELOPE_BYTES
from paris_p2p.records import READER
from paris_p2p.run_file import RUN_FILE, read_run
from paris_p2p.spec import sign_run
from tests.test_spec import spec

SIGNED = sign_run(Identity.generate(), spec())
MEND = "take it from the backup"


def written(folder: Path, data: bytes) -> Path:
    path = folder / RUN_FILE
    path.write_bytes(data)
    return path


def test_a_good_file_is_read_as_it_was_signed(tmp_path: Path) -> None:
    path = written(tmp_path, SIGNED.data)
    assert read_run(path, mend=MEND) == read_run(path, SIGNED.id, mend=MEND) == SIGNED


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (SIGNED.data[:-20], "20 bytes are missing at the end"),
        (b"", "msgpack"),
        (SIGNED.data[:-1] + bytes([SIGNED.data[-1] ^ 1]), "signature"),
        (bytes(MAX_ENVELOPE_BYTES["run"] + 9), f"of {MAX_ENVELOPE_BYTES['run'] + 1} bytes is over the limit"),
        (sign_run(Identity.generate(), spec()).data, "hashes to"),
    ],
    ids=["cut", "empty", "garbled", "huge", "another run's"],
)
def test_a_damaged_file_is_named_with_its_fault_and_what_to_do(
    tmp_path: Path, data: bytes, fault: str
) -> None:
    path = written(tmp_path, data)
    with pytest.raises(RecordError, match=f"{path} is damaged: .*{fault}.*; {MEND}$"):
        read_run(path, SIGNED.id, mend=MEND)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"No such file or directory; {MEND}$"):
        read_run(tmp_path / RUN_FILE, mend=MEND)


def test_a_run_for_newer_readers_is_not_called_damaged(tmp_path: Path) -> None:
    path = written(tmp_path, sign_run(Identity.generate(), spec(oldest_reader=READER + 1)).data)
    with pytest.raises(VersionError, match="update paris-p2p"):
        read_run(path, mend=MEND)
