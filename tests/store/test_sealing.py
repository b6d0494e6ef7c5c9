"""Sealed blobs: what goes in comes out under its own key, and nothing that was tampered with does."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import SealError, StoreError
from paris_p2p.store import sealing
from paris_p2p.store.sealing import (
    HEADER_BYTES,
    PLAIN_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    BlobKey,
    hint_of,
    open_blob,
    opened_bytes,
    seal_file,
    sealed_bytes,
)
from tests.store.made import made_bytes


@dataclass(frozen=True)
class Key:
    hint: bytes
    blobs: bytes


KEY = Key(b"hint-one", bytes(range(32)))
OTHER = Key(b"hint-two", bytes(range(1, 33)))
SIZES = (0, 1, PLAIN_BYTES - 1, PLAIN_BYTES, PLAIN_BYTES + 1, 2 * PLAIN_BYTES, 2 * PLAIN_BYTES + 77)


class Recorder:
    """AESGCM that notes what each key and nonce encrypted, and refuses to let them meet other bytes."""

    met: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
    original = sealing.AESGCM

    def __init__(self, key: bytes):
        self.key, self.cipher = key, Recorder.original(key)

    def encrypt(self, nonce: bytes, data: bytes, header: bytes) -> bytes:
        before = Recorder.met.setdefault((self.key, nonce), (bytes(data), header))
        assert before == (data, header), "one key and nonce met two plaintexts"
        return self.cipher.encrypt(nonce, data, header)

    def decrypt(self, nonce: bytes, data: bytes, header: bytes) -> bytes:
        return self.cipher.decrypt(nonce, data, header)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.met = {}
    monkeypatch.setattr(sealing, "AESGCM", Recorder)
    return Recorder


def sealed(folder: Path, data: bytes, key: BlobKey = KEY) -> bytes:
    source, out = folder / "plain", io.BytesIO()
    source.write_bytes(data)
    seal_file(source, key, out)
    return out.getvalue()


def opened(folder: Path, blob: bytes, key: BlobKey = KEY) -> bytes:
    path, out = folder / f"{'ab' * 32}.data", io.BytesIO()
    path.write_bytes(blob)
    open_blob(path, key, out)
    return out.getvalue()


def segments(blob: bytes) -> list[bytes]:
    body = blob[HEADER_BYTES:]
    return [body[at : at + SEGMENT_BYTES] for at in range(0, len(body), SEGMENT_BYTES)]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_out_as_it_went_in_and_its_length_is_known_before(tmp_path: Path, size: int) -> None:
    data = made_bytes(size)
    blob = sealed(tmp_path, data)
    assert opened(tmp_path, blob) == data
    assert len(blob) == sealed_bytes(size)
    assert opened_bytes(len(blob)) == size


@given(st.binary(max_size=200), st.integers(0, 3), st.binary(min_size=32, max_size=32))
def test_any_bytes_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, end: bytes, whole: int, secret: bytes
) -> None:
    folder = tmp_path_factory.mktemp("round")
    data, key = made_bytes(PLAIN_BYTES) * whole + end, Key(b"12345678", secret)
    assert opened(folder, sealed(folder, data, key), key) == data


def test_nothing_of_the_file_stands_in_its_blob(tmp_path: Path) -> None:
    blob = sealed(tmp_path, b"a caption of a clip " * 1000)
    assert b"caption" not in blob
    assert b"a caption of a clip" in opened(tmp_path, blob)


def test_the_same_file_makes_the_same_blob_and_a_changed_one_shares_nothing_with_it(tmp_path: Path) -> None:
    data = made_bytes(3 * PLAIN_BYTES)
    changed = data[:-1] + bytes([data[-1] ^ 1])
    first, again, other = (sealed(tmp_path, each) for each in (data, data, changed))
    assert first == again
    assert all(mine != of_other for mine, of_other in zip(segments(first), segments(other), strict=True))
    assert sealed(tmp_path, data, OTHER)[HEADER_BYTES:] != first[HEADER_BYTES:]


def test_no_key_and_nonce_meet_twice(tmp_path: Path, recorder: type[Recorder]) -> None:
    """Files that begin alike, end alike, are each other's beginnings, or differ in a bit; again and again."""
    base = made_bytes(2 * PLAIN_BYTES + 5)
    files = [b"", base, base[:-5], base[:PLAIN_BYTES], base + b"x", b"y" + base, base[::-1]]
    files += [base[:at] + bytes([base[at] ^ 1]) + base[at + 1 :] for at in (0, PLAIN_BYTES, len(base) - 1)]
    segments_in_all = sum(max(1, -(-len(data) // PLAIN_BYTES)) for data in files)
    for _ in range(2):  # a crash between sealing and publishing seals once more
        for key in (KEY, OTHER):
            for data in files:
                sealed(tmp_path, data, key)
    assert len(recorder.met) == 2 * segments_in_all


def test_a_file_that_changes_while_it_is_sealed_gives_no_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key belongs to what it held before: sealed under it, it could meet a nonce that was used."""
    source = tmp_path / "plain"
    source.write_bytes(b"before")
    digest = sealing._digest

    def change_after_hashing(path: Path) -> bytes:
        found = digest(path)
        path.write_bytes(b"after!")
        return found

    monkeypatch.setattr(sealing, "_digest", change_after_hashing)
    with pytest.raises(StoreError, match="changed while it was sealed"):
        seal_file(source, KEY, io.BytesIO())


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


DATA = made_bytes(3 * PLAIN_BYTES + 100)
TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "its first byte changed": (lambda blob: flipped(blob, 0), "is not sealed"),
    "another key named": (lambda blob: flipped(blob, 16), "is sealed under key"),
    "its salt changed": (lambda blob: flipped(blob, 30), "segment 0 of .* does not open"),
    "the header's zeros changed": (lambda blob: flipped(blob, 63), "is not sealed"),
    "a byte changed": (lambda blob: flipped(blob, HEADER_BYTES + 10), "segment 0 of .* does not open"),
    "the last tag changed": (lambda blob: flipped(blob, len(blob) - 1), "segment 3 of .* does not open"),
    "cut at a segment's end": (
        lambda blob: blob[: HEADER_BYTES + 2 * SEGMENT_BYTES],
        "was cut off after segment 1",
    ),
    "cut within a segment": (lambda blob: blob[:-30], "segment 3 of .* does not open"),
    "cut within a tag": (lambda blob: blob[: HEADER_BYTES + SEGMENT_BYTES + 3], "no sealed blob has"),
    "all but its header gone": (lambda blob: blob[:HEADER_BYTES], "no sealed blob has"),
    "cut in its header": (lambda blob: blob[:40], "no sealed blob has"),
    "two segments swapped": (
        lambda blob: b"".join([blob[:HEADER_BYTES], *[segments(blob)[at] for at in (1, 0, 2, 3)]]),
        "segment 0 of .* does not open",
    ),
    "a segment repeated": (
        lambda blob: b"".join([blob[:HEADER_BYTES], *[segments(blob)[at] for at in (0, 0, 1, 2, 3)]]),
        "segment 1 of .* does not open",
    ),
    "lengthened": (lambda blob: blob + bytes(TAG_BYTES), "segment 3 of .* does not open"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_blob_does_not_open(tmp_path: Path, how: str) -> None:
    tamper, words = TAMPERED[how]
    blob = sealed(tmp_path, DATA)
    assert opened(tmp_path, blob) == DATA
    with pytest.raises(SealError, match=words):
        opened(tmp_path, tamper(blob))


def test_a_blob_that_ends_with_a_whole_segment_cannot_be_lengthened(tmp_path: Path) -> None:
    data = made_bytes(2 * PLAIN_BYTES)
    blob = sealed(tmp_path, data)
    with pytest.raises(SealError, match="goes on after segment 1, its last"):
        opened(tmp_path, blob + segments(blob)[0])


def test_a_segment_of_another_blob_under_the_same_key_does_not_open(tmp_path: Path) -> None:
    mine, other = (sealed(tmp_path, made_bytes(2 * PLAIN_BYTES + 9, seed)) for seed in (1, 2))
    for index in range(3):
        parts = segments(mine)
        parts[index] = segments(other)[index]
        with pytest.raises(SealError, match=f"segment {index} of .* does not open"):
            opened(tmp_path, mine[:HEADER_BYTES] + b"".join(parts))


def test_another_key_opens_nothing_also_under_the_same_name(tmp_path: Path) -> None:
    blob = sealed(tmp_path, DATA)
    with pytest.raises(SealError, match=f"sealed under key {KEY.hint.hex()}, not {OTHER.hint.hex()}"):
        opened(tmp_path, blob, OTHER)
    with pytest.raises(SealError, match="does not open"):
        opened(tmp_path, blob, Key(KEY.hint, OTHER.blobs))


def test_random_bytes_are_no_sealed_blob(tmp_path: Path) -> None:
    for size in (0, 10, HEADER_BYTES + TAG_BYTES, 5000):
        with pytest.raises(SealError):
            opened(tmp_path, random.Random(size).randbytes(size))


def test_a_blob_names_its_key_and_a_plain_file_names_none(tmp_path: Path) -> None:
    (tmp_path / "sealed").write_bytes(sealed(tmp_path, b"clip"))
    (tmp_path / "short").write_bytes(b"clip")
    assert hint_of(tmp_path / "sealed") == KEY.hint
    assert hint_of(tmp_path / "short") is None


def test_opening_ends_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    path, out = tmp_path / "blob", io.BytesIO()
    path.write_bytes(sealed(tmp_path, DATA))
    answers = iter([True, True, False])
    with pytest.raises(SealError, match="not wanted any more"):
        open_blob(path, KEY, out, wanted=lambda: next(answers))
    assert out.getvalue() == DATA[: 2 * PLAIN_BYTES]
