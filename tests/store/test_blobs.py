"""The blob store: what goes in comes out, and nothing damaged does."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from paris_p2p.errors import DiskFullError, ManifestError, MissingBlobError, ReadOnlyError, StoreError
from paris_p2p.records import CHUNK_BYTES, Manifest
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.data_dir import default_cap_bytes
from paris_p2p.store.partial import PROMISED_BYTES
from tests.store.made import CHUNK, add_bytes, chunk_of, made_bytes, manifest_of, ref_of

DATA = made_bytes(9 * CHUNK + 17)
MANIFEST = manifest_of(DATA)
ID = MANIFEST.blob_id


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tiny"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root; the injected errors below cover the same ground")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fetched(store: BlobStore, data: bytes = DATA) -> str:
    """Put a blob in as a download does."""
    manifest = manifest_of(data)
    partial = store.begin(manifest.blob_id, manifest.to_bytes(), len(data))
    for index in partial.missing():
        partial.write_chunk(index, chunk_of(data, index))
    return partial.finish().id


def test_a_file_comes_out_as_it_went_in(store: BlobStore, tmp_path: Path) -> None:
    data = made_bytes(2 * CHUNK_BYTES + 5)
    (tmp_path / "file").write_bytes(data)
    ref = store.add_file(tmp_path / "file")
    assert ref == ref_of(data, CHUNK_BYTES)
    assert store.path(ref.id).read_bytes() == data
    assert b"".join(store.read_chunk(ref.id, index) for index in range(3)) == data
    room = memoryview(bytearray(CHUNK_BYTES))
    assert b"".join(bytes(store.read_chunk(ref.id, index, room)) for index in range(3)) == data
    assert store.read_chunk(ref.id, 0, room[:10]) == data[:CHUNK_BYTES]  # too small a room is left alone
    assert store.have(ref.id) == b"\x07"
    assert store.ids() == [ref.id]


def test_moving_a_file_in_leaves_nothing_outside_but_never_eats_the_stores_own(
    store: BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    ref = store.add_file(tmp_path / "file", move=True)
    assert not (tmp_path / "file").exists()
    assert store.add_file(store.path(ref.id), move=True) == ref
    assert store.path(ref.id).read_bytes() == DATA


def test_the_same_bytes_twice_cost_nothing_more(store: BlobStore) -> None:
    add_bytes(store, DATA)
    used = store.used_bytes()
    add_bytes(store, DATA)
    assert store.used_bytes() == used
    assert len(store.ids()) == 1


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    ref = add_bytes(store, b"")
    assert store.path(ref.id).read_bytes() == b""
    manifest = store.manifest_bytes(ref.id)
    assert manifest is not None
    other = BlobStore(store.root.parent / "other")
    assert other.begin(ref.id, manifest, 0).finish() == ref


def test_a_file_is_copied_where_links_do_not_work(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "other device")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "file").write_bytes(DATA)
    ref = store.add_file(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"changed later")
    assert store.path(ref.id).read_bytes() == DATA


def test_what_is_not_here_is_missing(store: BlobStore) -> None:
    assert not store.has(ID)
    assert (store.have(ID), store.manifest(ID), store.manifest_bytes(ID)) == (b"", None, None)
    for ask in (lambda: store.path(ID), lambda: store.read_chunk(ID, 0), lambda: store.verify(ID)):
        with pytest.raises(MissingBlobError):
            ask()
    fetched(store)
    for index in (-1, 10, 1 << 40):
        with pytest.raises(MissingBlobError):
            store.read_chunk(ID, index)


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 63 + "/"]
)
def test_only_a_hash_names_a_blob(store: BlobStore, name: str) -> None:
    with pytest.raises(StoreError, match="not a blob id"):
        store.read_chunk(name, 0)
    with pytest.raises(StoreError, match="not a blob id"):
        store.delete(name)


def test_a_damaged_chunk_is_never_served_and_a_fetch_heals_it(store: BlobStore) -> None:
    fetched(store)
    path = store.path(ID)
    path.write_bytes(DATA[:3500] + b"\0" + DATA[3501:])
    again = BlobStore(store.root)
    assert again.read_chunk(ID, 0) == chunk_of(DATA, 0)
    with pytest.raises(MissingBlobError):
        again.read_chunk(ID, 3)
    assert not again.has(ID)
    partial = again.begin(ID, MANIFEST.to_bytes(), len(DATA))
    assert partial.missing() == [3]
    assert again.read_chunk(ID, 4) == chunk_of(DATA, 4)
    partial.write_chunk(3, chunk_of(DATA, 3))
    partial.finish()
    assert again.path(ID).read_bytes() == DATA


def test_verify_names_bad_chunks_and_leaves_a_linked_original_alone(store: BlobStore, tmp_path: Path) -> None:
    original = tmp_path / "file"
    fetched(store)
    os.link(store.path(ID), original)
    assert store.verify(ID) == []
    damaged = made_bytes(CHUNK, 1) + DATA[CHUNK : 8 * CHUNK]  # one chunk wrong, two lost
    original.write_bytes(damaged)
    assert store.verify(ID) == [0, 8, 9]
    assert store.begin(ID, MANIFEST.to_bytes(), len(DATA)).missing() == [0, 8, 9]
    fetched(store)
    assert store.path(ID).read_bytes() == DATA
    assert original.read_bytes() == damaged


def test_a_damaged_manifest_is_made_again_from_the_data(store: BlobStore) -> None:
    data = made_bytes(3000)
    blob_id = add_bytes(store, data).id
    manifest = store.manifest_bytes(blob_id)
    store.path(blob_id).with_suffix(".manifest").write_bytes(b"garbage")
    again = BlobStore(store.root)
    assert again.manifest_bytes(blob_id) is None
    assert again.verify(blob_id) == []
    assert again.manifest_bytes(blob_id) == manifest


def test_data_and_manifest_both_damaged_are_gone(store: BlobStore) -> None:
    blob_id = add_bytes(store, DATA).id
    store.path(blob_id).with_suffix(".manifest").write_bytes(b"garbage")
    store.path(blob_id).write_bytes(b"rubbish")
    again = BlobStore(store.root)
    with pytest.raises(MissingBlobError, match="fetch it again"):
        again.verify(blob_id)
    assert again.ids() == []


def test_a_cap_is_kept_by_downloads_side_by_side(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", max_bytes=100_000)
    first, second = made_bytes(60_000, 1), made_bytes(60_000, 2)
    store.begin(ref_of(first).id, manifest_of(first).to_bytes(), len(first))  # no chunk is here yet
    with pytest.raises(DiskFullError, match=r"--max-disk"):
        store.begin(ref_of(second).id, manifest_of(second).to_bytes(), len(second))
    with pytest.raises(DiskFullError, match=r"--max-disk"):
        add_bytes(store, second)
    assert store.used_bytes() <= 100_000
    assert fetched(store, first) == ref_of(first).id


def test_a_manifest_alone_takes_no_room_and_keeps_no_other_download_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", max_bytes=200 << 20)
    size = 150 << 20
    manifests = [
        Manifest(size_bytes=size, chunks=tuple(os.urandom(32) for _ in range(150))) for _ in range(3)
    ]
    begun = [store.begin(manifest.blob_id, manifest.to_bytes(), size) for manifest in manifests[:2]]
    assert store.used_bytes() < 1 << 20
    assert fetched(store) == ID
    assert sum(partial.promised_bytes for partial in begun) == 2 * PROMISED_BYTES
    with pytest.raises(DiskFullError, match="kept for other downloads"):
        # though a blob too large is told before it comes
        store._check_cap(size, sum(partial.promised_bytes for partial in begun) + (20 << 20))
    for manifest in manifests[:2]:
        store.leave(manifest.blob_id)
    assert [file.stem for file in store.root.rglob("*") if file.is_file()] == [ID] * 2
    assert store.have(manifests[0].blob_id) == b""


def test_the_room_kept_for_a_download_grows_with_what_came(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.store.partial.PROMISED_BYTES", CHUNK)
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    assert partial.promised_bytes == CHUNK
    for index in range(3):
        partial.write_chunk(index, chunk_of(DATA, index))
    assert partial.promised_bytes == 4 * CHUNK
    for index in range(3, 8):
        partial.write_chunk(index, chunk_of(DATA, index))
    assert partial.promised_bytes == len(DATA) - 8 * CHUNK
    partial.close()
    assert partial.promised_bytes == 0


def test_a_cap_is_kept_while_downloads_fill_and_what_came_stays(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", max_bytes=100_000)
    data = made_bytes(60_000, 1)
    partial = store.begin(ref_of(data).id, manifest_of(data).to_bytes(), len(data))
    partial.write_chunk(0, chunk_of(data, 0))
    store.max_bytes = 10_000  # others took the rest
    with pytest.raises(DiskFullError, match="--max-disk"):
        [partial.write_chunk(index, chunk_of(data, index)) for index in range(1, 60)]
    assert store.used_bytes() <= 10_000 + 4096  # disks give room in blocks
    store.max_bytes = 100_000
    assert fetched(store, data) == ref_of(data).id


def test_a_download_left_with_something_here_is_kept_and_an_empty_one_is_gone_also_after_a_kill(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made_bytes(5000, 7)
    store.begin(ID, MANIFEST.to_bytes(), len(DATA)).write_chunk(3, chunk_of(DATA, 3))
    store.leave(ID)
    store.begin(ref_of(other).id, manifest_of(other).to_bytes(), len(other))  # and the process is killed
    BlobStore(store.root)
    assert len(list(store.root.rglob("*.part"))) == 2  # its process may live
    monkeypatch.setattr("paris_p2p.store.blob_files.FORGOTTEN_S", -1.0)
    again = BlobStore(store.root)
    assert [file.stem for file in store.root.rglob("*") if file.is_file()] == [ID] * 2
    assert again.begin(ID, MANIFEST.to_bytes(), len(DATA)).missing() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_where_nobody_said_how_much_half_of_the_disk_stays_free() -> None:
    assert default_cap_bytes(0, 100) == 50
    assert default_cap_bytes(40, 60) == 50  # the same after it filled
    assert default_cap_bytes(30, 40, own_bytes=30) == 50  # an owner's own data is not counted against it


def test_a_blob_of_another_size_than_announced_is_refused_before_a_byte_is_written(store: BlobStore) -> None:
    with pytest.raises(ManifestError, match="should have 5 bytes"):
        store.begin(ID, MANIFEST.to_bytes(), 5)
    with pytest.raises(ManifestError):
        store.begin("0" * 64, MANIFEST.to_bytes(), len(DATA))
    assert store.used_bytes() == 0


def test_used_bytes_follows_what_comes_and_goes(store: BlobStore) -> None:
    assert store.used_bytes() == 0
    add_bytes(store, made_bytes(200_000, 1))
    fetched(store)
    used = store.used_bytes()
    assert 200_000 + len(DATA) <= used <= 250_000
    assert BlobStore(store.root).used_bytes() == used
    for blob_id in store.ids():
        store.delete(blob_id)
    assert store.used_bytes() == 0


def test_used_bytes_looks_at_no_file_once_it_has_counted(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [add_bytes(store, bytes([number])) for number in range(20)]
    used = store.used_bytes()

    def unexpected(*_: object, **__: object) -> None:
        raise RuntimeError("the disk was looked at")

    with monkeypatch.context() as patched:
        for name in ("stat", "iterdir", "exists"):
            patched.setattr(Path, name, unexpected)
        assert store.used_bytes() == used
    store.delete(refs[0].id)
    assert store.used_bytes() < used


def test_eviction_takes_the_oldest_first_and_never_what_is_to_be_kept(store: BlobStore) -> None:
    ids = [add_bytes(store, made_bytes(50_000, number)).id for number in range(4)]
    for age, blob_id in enumerate(ids):
        os.utime(store.path(blob_id), (1e9 + age, 1e9 + age))
    assert store.evict({ids[0]}, 60_000) == 100_000
    assert set(store.ids()) == {ids[0], ids[3]}
    assert store.evict({ids[0]}, 1 << 40) == 50_000
    assert store.ids() == [ids[0]]


def test_eviction_takes_downloads_that_were_given_up_but_not_those_on_their_way(store: BlobStore) -> None:
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    assert store.evict(set(), 1 << 40) == 0
    partial.write_chunk(3, chunk_of(DATA, 3))
    partial.close()
    assert store.read_chunk(ID, 3) == chunk_of(DATA, 3)
    assert store.evict({ID}, 1 << 40) == 0
    assert CHUNK <= store.evict(set(), 1 << 40) < len(DATA)  # what it took, which is not its whole length
    assert store.used_bytes() == 0


def test_a_download_that_was_left_is_gone_on_with_and_holds_no_file_open_meanwhile(store: BlobStore) -> None:
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    partial.write_chunk(3, chunk_of(DATA, 3))
    partial.close()
    with pytest.raises(MissingBlobError, match="start it again"):
        partial.write_chunk(4, chunk_of(DATA, 4))
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [file for file in opened if file.startswith(str(store.root))]
    assert store.begin(ID, MANIFEST.to_bytes(), len(DATA)).missing() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    fetched(store)
    assert store.path(ID).read_bytes() == DATA


def test_deleting_a_download_ends_it_and_no_late_write_lands_in_another_file(
    store: BlobStore, tmp_path: Path
) -> None:
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    partial.write_chunk(0, chunk_of(DATA, 0))
    store.delete(ID)
    with (tmp_path / "innocent").open("w+b") as innocent:  # gets the descriptor's number that was closed
        with pytest.raises(MissingBlobError, match="deleted meanwhile"):
            partial.write_chunk(1, chunk_of(DATA, 1))
        assert innocent.read() == b""
    assert store.have(ID) == b""


def test_a_full_disk_is_said_before_the_download_and_leaves_nothing_behind(tiny_disk: Path) -> None:
    store, data = BlobStore(tiny_disk / "blobs"), made_bytes(2 << 20)
    with pytest.raises(DiskFullError, match=r"2\.1 MB needed, 1\.0 MB free"):
        store.begin(ref_of(data).id, manifest_of(data).to_bytes(), len(data))
    with pytest.raises(DiskFullError, match="free some"):
        add_bytes(store, data)
    assert [file for file in tiny_disk.rglob("*") if file.is_file()] == []
    assert fetched(store) == ID


def test_two_downloads_that_only_fit_alone_do_not_both_begin(tiny_disk: Path) -> None:
    store = BlobStore(tiny_disk / "blobs")
    first, second = made_bytes(600_000, 1), made_bytes(600_000, 2)
    store.begin(ref_of(first).id, manifest_of(first).to_bytes(), len(first))
    with pytest.raises(DiskFullError):
        store.begin(ref_of(second).id, manifest_of(second).to_bytes(), len(second))
    assert fetched(store, first) == ref_of(first).id


def test_a_read_only_disk_says_so(tiny_disk: Path) -> None:
    store = BlobStore(tiny_disk / "blobs")
    fetched(store)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(ReadOnlyError, match="cannot write"):
        add_bytes(store, b"more")
    with pytest.raises(ReadOnlyError, match="cannot write"):
        store.delete(ID)
    assert BlobStore(tiny_disk / "blobs").path(ID).read_bytes() == DATA  # reading goes on


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EROFS, ReadOnlyError),
        (errno.EACCES, ReadOnlyError),
        (errno.EIO, StoreError),
    ],
)
def test_a_failing_disk_is_one_of_our_errors_and_the_download_can_go_on(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    partial.write_chunk(0, chunk_of(DATA, 0))

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(kind):
            partial.write_chunk(1, chunk_of(DATA, 1))
    assert partial.missing() == list(range(1, 10))
    assert fetched(store) == ID
    assert store.path(ID).read_bytes() == DATA


def test_a_write_that_stops_short_is_gone_on_with(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:300], offset))
    fetched(store)
    assert store.path(ID).read_bytes() == DATA


def test_what_a_crash_left_half_written_is_never_believed(store: BlobStore) -> None:
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    for index in (0, 5, 9):
        partial.write_chunk(index, chunk_of(DATA, index))
    part = store.root / ID[:2] / f"{ID}.part"
    torn = bytearray(part.read_bytes())
    torn[5 * CHUNK + 500 : 6 * CHUNK] = bytes(500)  # the second half of chunk 5 did not reach the disk
    part.write_bytes(torn)
    again = BlobStore(store.root)
    assert again.have(ID) == b""
    assert again.begin(ID, MANIFEST.to_bytes(), len(DATA)).missing() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert again.have(ID) == bytes([0b0000_0001, 0b0000_0010])


def test_a_blob_can_be_read_while_it_comes_and_when_it_ends(store: BlobStore) -> None:
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    partial.write_chunk(2, chunk_of(DATA, 2))
    wrong: list[bytes] = []

    def read() -> None:
        while not store.has(ID):
            wrong.extend(chunk for chunk in [store.read_chunk(ID, 2)] if chunk != chunk_of(DATA, 2))

    reader = threading.Thread(target=read)
    reader.start()
    fetched(store)
    reader.join()
    assert wrong == []


def test_two_stores_on_one_folder_may_end_the_same_download(store: BlobStore) -> None:
    other = BlobStore(store.root)
    first = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    second = other.begin(ID, MANIFEST.to_bytes(), len(DATA))
    for index in range(10):
        first.write_chunk(index, chunk_of(DATA, index))
        second.write_chunk(index, chunk_of(DATA, index))
    assert first.finish() == second.finish()
    assert other.path(ID).read_bytes() == DATA


def test_a_download_of_what_is_whole_has_nothing_to_ask_for(store: BlobStore) -> None:
    fetched(store)
    partial = store.begin(ID, MANIFEST.to_bytes(), len(DATA))
    assert partial.missing() == []
    assert partial.finish().id == ID


def test_a_file_taken_in_ends_the_download_of_the_same_blob(store: BlobStore) -> None:
    data = made_bytes(3000)
    manifest = manifest_of(data, CHUNK_BYTES)
    partial = store.begin(manifest.blob_id, manifest.to_bytes(), len(data))
    add_bytes(store, data)
    with pytest.raises(MissingBlobError, match="closed"):
        partial.write_chunk(0, data)
    assert store.path(manifest.blob_id).read_bytes() == data
    assert not list(store.root.rglob("*.part"))


def test_leftovers_of_dead_writers_are_swept_and_those_of_living_ones_stay(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(store)
    leftover, somebodys = (store.root / ID[:2] / name for name in (".x.data.1-1-abcdef.tmp", "x.tmp"))
    for path in (leftover, somebodys):
        path.write_bytes(b"half")
    BlobStore(store.root)
    assert leftover.exists()
    monkeypatch.setattr("paris_p2p.disk.FORGOTTEN_S", -1.0)
    BlobStore(store.root)
    assert not leftover.exists()
    assert somebodys.exists()
    assert store.has(ID)


def test_files_of_others_in_a_store_are_none_of_its_blobs(store: BlobStore) -> None:
    fetched(store)
    folder = store.root / ID[:2]
    for name in ("film.data", "film.part", "film.manifest"):
        (folder / name).write_bytes(b"somebody's")
    assert store.ids() == [ID]
    assert store.evict(set(), 1 << 40) > 0
    assert len(list(folder.iterdir())) == 3
