"""Looking at a store from outside: every kind of damage is named, and nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3

from paris_p2p.records import CHUNK_BYTES
from paris_p2p.store.blob_check import BlobFinding, blob_bytes, check_blobs
from paris_p2p.store.blob_files import blob_file
from paris_p2p.store.blobs import BlobStore
from tests.store.made import CHUNK, add_bytes, chunk_of, made_bytes, manifest_of

SIZE = 2 * CHUNK_BYTES + 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def states(root: Path) -> dict[str, str]:
    return {found.path.name: found.state for found in check_blobs(root)}


def one(root: Path) -> BlobFinding:
    (found,) = check_blobs(root)
    return found


def added(root: Path, rng_seed: int = 0) -> Path:
    ref = add_bytes(BlobStore(root), made_bytes(SIZE, rng_seed))
    return blob_file(root, ref.id, "data")


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, blake3(path.read_bytes()).digest())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_whole_blobs_are_right_and_every_byte_is_hashed(root: Path) -> None:
    added(root), added(root, 1)
    hashed: list[int] = []
    assert [found.state for found in check_blobs(root, hashed.append)] == ["right", "right"]
    assert sum(hashed) == blob_bytes(root) == 2 * SIZE
    assert max(hashed) <= CHUNK_BYTES  # at a time


def test_one_flipped_bit_is_found_and_named_and_the_look_changes_nothing(root: Path) -> None:
    path = added(root)
    data = bytearray(path.read_bytes())
    data[CHUNK_BYTES + 7] ^= 1
    path.write_bytes(data)
    before = snapshot(root)
    found = one(root)
    assert (found.state, found.blob_id) == ("damaged", path.stem)
    assert "1 of 3 chunks" in found.words
    assert snapshot(root) == before


@pytest.mark.parametrize("length", [SIZE - 1, SIZE + 1, 0])
def test_a_blob_of_another_length_is_damaged_and_the_store_mends_it(root: Path, length: int) -> None:
    path = added(root)
    whole = path.read_bytes()
    path.write_bytes((whole + b"x")[:length])
    assert one(root).state == "damaged"
    store = BlobStore(root)
    bad = store.verify(path.stem)
    assert bad
    partial = store.begin(path.stem, blob_file(root, path.stem, "manifest").read_bytes(), SIZE)
    for index in partial.missing():
        partial.write_chunk(index, chunk_of(whole, index, CHUNK_BYTES))
    partial.finish()
    assert one(root).state == "right"


def test_a_lost_manifest_is_told_from_a_lost_blob(root: Path) -> None:
    fine, both = added(root), added(root, 1)
    fine.with_suffix(".manifest").write_bytes(b"nonsense")
    both.with_suffix(".manifest").unlink()
    both.write_bytes(made_bytes(SIZE, 2))
    assert states(root) == {fine.name: "unnamed", both.name: "lost"}


def test_downloads_are_no_damage_and_what_killed_processes_left_is_named(root: Path) -> None:
    store, data = BlobStore(root), made_bytes(9 * CHUNK)
    manifest = manifest_of(data)
    partial = store.begin(manifest.blob_id, manifest.to_bytes(), len(data))
    partial.write_chunk(0, chunk_of(data, 0))
    part = blob_file(root, manifest.blob_id, "part")
    assert states(root) == {part.name: "part"}
    part.with_suffix(".manifest").unlink()
    (part.parent / ".x.1-2-abc123.tmp").write_bytes(b"half")
    (part.parent / "holiday.jpg").write_bytes(b"somebody's")
    (root / "zz").mkdir()
    (root / "zz" / part.name).write_bytes(b"in the wrong place")
    found = states(root)
    assert found.pop(".x.1-2-abc123.tmp") == "temporary"
    assert {one.path: one.state for one in check_blobs(root) if one.state != "temporary"} == {
        part: "orphan",
        part.parent / "holiday.jpg": "foreign",
        root / "zz" / part.name: "foreign",
    }


def test_only_the_blobs_that_are_asked_for_are_hashed(root: Path) -> None:
    first, _ = added(root), added(root, 1)
    hashed: list[int] = []
    assert [found.path for found in check_blobs(root, hashed.append, {first.stem})] == [first]
    assert sum(hashed) == SIZE


def test_a_blob_that_goes_away_meanwhile_is_no_finding(root: Path) -> None:
    paths = sorted([added(root), added(root, 1)])

    def superseded(_: int) -> None:
        for file in (paths[1], paths[1].with_suffix(".manifest")):
            file.unlink(missing_ok=True)

    assert [found.path for found in check_blobs(root, superseded)] == [paths[0]]


def test_no_store_is_no_finding(tmp_path: Path) -> None:
    assert list(check_blobs(tmp_path / "nowhere")) == []
    assert os.listdir(tmp_path) == []
