"""A file is the old one or the new, whole, with the permissions it should have, and no litter beside it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from paris_p2p.disk import explained, free_bytes, replacing, temporary_for, write_atomic
from paris_p2p.errors import DiskFullError, ReadOnlyError, StoreError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, read in ((b"old, and longer", b"old, and longer"), ("n\u00e9w", "n\u00e9w".encode())):
        write_atomic(path, data)
        assert path.read_bytes() == read
        assert names(tmp_path) == ["file"]


def test_a_block_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_file_that_may_not_be_overwritten_stays_and_the_error_says_so(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_atomic(path, b"old", overwrite=False)
    with pytest.raises(FileExistsError, match="key"):
        write_atomic(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["key"]


@pytest.mark.parametrize("refused", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_takes_a_new_file_and_keeps_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    def link(*_: object) -> None:
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "key"
    write_atomic(path, b"old", mode=0o600, overwrite=False)
    with pytest.raises(FileExistsError, match="key"):
        write_atomic(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    assert mode_of(path) == 0o600
    assert names(tmp_path) == ["key"]


def test_a_secret_is_never_readable_by_others_not_even_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"was open to all")
    path.chmod(0o644)
    with replacing(path, mode=0o600) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert mode_of(path) == 0o600


def test_a_new_file_has_the_permissions_of_any_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(b"")
    write_atomic(tmp_path / "new", b"")
    assert mode_of(tmp_path / "new") == mode_of(tmp_path / "any")
    (tmp_path / "any").chmod(0o640)
    write_atomic(tmp_path / "any", b"again")
    assert mode_of(tmp_path / "any") == 0o640


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, os.fsdecode(b"\xff" * 250)])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, b"data")
    assert (tmp_path / name).read_bytes() == b"data"


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path: Path) -> None:
    path, barrier = tmp_path / "file", threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        for _ in range(20):
            write_atomic(path, bytes([number]) * 5000, durable=False)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = path.read_bytes()
    assert len(data) == 5000
    assert len(set(data)) == 1
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_goes_when_the_file_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file[1]"  # no pattern for names
    left, living, other = temporary_for(path), temporary_for(path), temporary_for(tmp_path / "file")
    for each in (left, living, other):
        each.write_bytes(b"half")
    old = left.stat().st_ctime
    monkeypatch.setattr("paris_p2p.disk.time.time", lambda: old + 10)
    write_atomic(path, b"whole")
    assert left.exists()  # its writer may live
    monkeypatch.setattr("paris_p2p.disk.time.time", lambda: old + 4000)
    write_atomic(path, b"whole")
    assert names(tmp_path) == sorted([other.name, path.name])


def test_an_error_of_the_system_names_the_file_and_not_its_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "nowhere" / "file", b"")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOSPC, DiskFullError, r"no space left for .*file \([0-9.]+ MB are free\); free some"),
        (errno.EDQUOT, DiskFullError, "no space left"),
        (errno.EROFS, ReadOnlyError, "cannot write .*Read-only file system; choose another"),
        (errno.EIO, StoreError, "cannot write .*Input/output error; check the disk"),
    ],
)
def test_an_error_of_the_disk_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError], said: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(kind, match=said), explained(path):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_free_space_is_known_before_the_folder_is_made(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*nowhere"), explained(tmp_path / "nowhere"):
        (tmp_path / "nowhere" / "file").write_bytes(b"")
