"""A file goes into the store sealed: within the cap, once, and with nothing of it beside."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from paris_p2p.errors import DiskFullError, StoreError
from paris_p2p.records import CHUNK_BYTES
from paris_p2p.store import sealed_blobs
from paris_p2p.store.blob_files import ChunkHasher, hash_file
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed
from paris_p2p.store.sealing import open_blob, sealed_bytes
from tests.store.made import made_bytes
from tests.store.test_sealing import KEY, OTHER

DATA = made_bytes(2 << 20)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "plain").write_bytes(DATA)
    return tmp_path / "plain"


def files_under(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_what_the_store_holds_and_serves_is_sealed_and_opens(tmp_path: Path, plain: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    ref = add_sealed(store, plain, KEY)
    out = io.BytesIO()
    open_blob(store.path(ref.id), KEY, out)
    assert out.getvalue() == DATA
    assert ref.size_bytes == sealed_bytes(len(DATA))
    assert store.verify(ref.id) == []
    assert files_under(store.root) == [f"{ref.id}.data", f"{ref.id}.manifest"]
    assert plain.exists()


def test_a_file_that_is_moved_in_is_gone_afterwards(tmp_path: Path, plain: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    assert store.has(add_sealed(store, plain, KEY, move=True).id)
    assert not plain.exists()


def test_the_same_file_once_more_costs_nothing_and_another_key_makes_another_blob(
    tmp_path: Path, plain: Path
) -> None:
    store = BlobStore(tmp_path / "blobs")
    first = add_sealed(store, plain, KEY)
    used = store.used_bytes()
    assert add_sealed(store, plain, KEY) == first
    assert store.used_bytes() == used
    assert add_sealed(store, plain, OTHER) != first


def test_a_cap_that_leaves_no_room_is_named_before_a_byte_is_sealed(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path / "blobs", max_bytes=1 << 20)
    monkeypatch.setattr(sealed_blobs, "seal_file", lambda *_: pytest.fail("it was sealed all the same"))
    with pytest.raises(DiskFullError, match="--max-disk"):
        add_sealed(store, plain, KEY, move=True)
    assert plain.exists()
    assert files_under(store.root) == []
    assert store.used_bytes() == 0


def test_an_error_on_the_way_leaves_nothing_of_the_blob(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(path: Path, key: object, out: io.BufferedWriter) -> None:
        out.write(b"half of it")
        raise OSError(5, os.strerror(5))

    store = BlobStore(tmp_path / "blobs")
    monkeypatch.setattr(sealed_blobs, "seal_file", break_off)
    with pytest.raises(StoreError, match="Input/output error"):
        add_sealed(store, plain, KEY)
    assert files_under(store.root) == []
    assert store.used_bytes() == 0


def test_room_beside_counts_into_the_cap_while_it_lasts(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", max_bytes=1000)
    with store.room_beside(700):
        assert store.used_bytes() == 700
        with pytest.raises(DiskFullError, match="--max-disk"), store.room_beside(301):
            pytest.fail("there was room")
    assert store.used_bytes() == 0


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 64])
def test_the_manifest_made_while_sealing_is_that_of_the_file(tmp_path: Path, size: int) -> None:
    store = BlobStore(tmp_path / "blobs")
    (tmp_path / "plain").write_bytes(made_bytes(size))
    ref = add_sealed(store, tmp_path / "plain", KEY)
    assert hash_file(store.path(ref.id)).to_bytes() == store.manifest_bytes(ref.id)


def test_bytes_hashed_in_any_pieces_make_one_manifest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    whole = hash_file(tmp_path / "file")
    for piece_bytes in (4097, CHUNK_BYTES - 1, CHUNK_BYTES + 1, len(DATA)):
        hasher = ChunkHasher(len(DATA))
        for at in range(0, len(DATA), piece_bytes):
            hasher.update(DATA[at : at + piece_bytes])
        assert hasher.manifest() == whole
