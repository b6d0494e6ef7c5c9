"""One node per data directory, and a directory that survives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paris_p2p.errors import StoreError
from paris_p2p.store.data_dir import DataDirLock

HOLD = "import sys; from pathlib import Path; from paris_p2p.store.data_dir import DataDirLock\n" \
    "with DataDirLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"  # fmt: skip


def test_a_second_process_on_a_data_directory_is_refused_and_told_which_one_runs(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder, holder.stdout, holder.stdin:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(StoreError, match=rf"another node \(process {holder.pid}\) already runs"),
            DataDirLock(tmp_path),
        ):
            pass
        holder.kill()  # a killed node leaves no lock behind
        holder.wait()
    with DataDirLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_can_be_had_again_once_it_was_left(tmp_path: Path) -> None:
    for _ in range(2):
        with DataDirLock(tmp_path / "new" / "place"):
            pass


@pytest.mark.parametrize(("mode", "said"), [(0o755, True), (0o770, True), (0o700, False)])
def test_a_data_folder_is_this_users_alone_and_a_wider_one_is_mended_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, said: bool
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    with DataDirLock(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (f"mode {mode:o}" in caplog.text) is said


def test_a_new_data_folder_is_made_private_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DataDirLock(tmp_path / "new" / "data"):
        assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700
    assert not caplog.text
