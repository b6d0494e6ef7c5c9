"""Past the page cache or not: the same bytes at the same places."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
from pathlib import Path

import pytest

from paris_p2p.records import CHUNK_BYTES, Manifest
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.past_cache import ALIGNMENT_BYTES, PastCache, PastCacheWriter


def test_aligned_pieces_land_where_they_belong_and_others_are_left_to_the_common_way(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * ALIGNMENT_BYTES))
    past = PastCache(path)
    piece = os.urandom(2 * ALIGNMENT_BYTES)
    if not past.write(piece, ALIGNMENT_BYTES):
        pytest.skip("this file system has no O_DIRECT")
    assert path.read_bytes() == bytes(ALIGNMENT_BYTES) + piece + bytes(ALIGNMENT_BYTES)
    assert not past.write(piece[:-1], 0)
    assert not past.write(piece, 1)
    assert not past.write(b"", 0)
    past.close()
    assert not past.write(piece, 0)


def test_memory_of_a_map_is_written_as_it_is_from_its_start_and_from_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(ALIGNMENT_BYTES))
    room = memoryview(mmap.mmap(-1, 3 * ALIGNMENT_BYTES))
    room[:] = os.urandom(len(room))
    past = PastCache(path)
    for piece in (room[:ALIGNMENT_BYTES], room[100 : 100 + ALIGNMENT_BYTES]):
        if past.write(piece, 0):  # a disk may want memory that starts at a page: then the common way is there
            assert path.read_bytes() == piece
    past.close()


def test_a_disk_that_refuses_is_no_error_and_a_full_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(ALIGNMENT_BYTES))
    past = PastCache(path)
    if not past.write(bytes(ALIGNMENT_BYTES), 0):
        pytest.skip("this file system has no O_DIRECT")

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", refuse)
    code = errno.EINVAL
    assert not past.write(bytes(ALIGNMENT_BYTES), 0)
    code = errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        past.write(bytes(ALIGNMENT_BYTES), 0)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("extra_bytes", [0, 1, 777])
def test_a_blob_written_past_the_cache_is_the_blob(
    tmp_path: Path, extra_bytes: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    data = os.urandom(2 * CHUNK_BYTES + extra_bytes)
    (tmp_path / "source").write_bytes(data)
    seeder, store = BlobStore(tmp_path / "seeder"), BlobStore(tmp_path / "store")
    ref = seeder.add_file(tmp_path / "source")
    manifest = seeder.manifest_bytes(ref.id)
    assert manifest is not None
    partial = store.begin(ref.id, manifest, ref.size_bytes)
    for index in range(len(Manifest.from_bytes(manifest, ref.id).chunks)):
        partial.write_chunk(index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    partial.finish()
    assert store.path(ref.id).read_bytes() == data


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * 4096, 3 * 4096 + 5])
@pytest.mark.parametrize("direct", [True, False])
def test_a_writer_writes_pieces_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr(PastCache, "write", lambda *_: False)
    data = random.Random(size).randbytes(size)
    with (tmp_path / "file").open("xb") as file, PastCacheWriter(file, 4096) as out:
        at, lengths = 0, itertools.cycle((1, 4095, 4096, 4097, 9000))
        while at < size:
            at += out.write(data[at : at + next(lengths)])
    assert (tmp_path / "file").read_bytes() == data
