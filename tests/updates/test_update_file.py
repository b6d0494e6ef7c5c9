"""Updates' files: what goes in comes out, and nothing that no peer writes is believed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.chunk_codes import ChunkCodes, PackedChunks, inflated
from paris_p2p.updates.layout import chunk_slices
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import HEADER_BYTES, UpdateHeader, assembled, largest_block_bytes
from tests.updates.made_updates import content_of, dense_of, made_vector, update_bytes

SIZES = [1, 7, 4095, 4096, 4097, 8192, 3 * 4096 + 1001, 64 * 4096, 65 * 4096 + 2]


@st.composite
def headers(draw: st.DrawFn) -> UpdateHeader:
    parts = draw(st.sampled_from([1, 2, 3, 64]))
    return UpdateHeader(draw(st.sampled_from(SIZES)), parts, draw(st.integers(0, parts - 1)))


@given(
    header=headers(), seed=st.integers(0, 1000), zeros=st.sampled_from([0, 0.5, 1]), step=st.floats(0.26, 8)
)
def test_what_is_written_is_read(header: UpdateHeader, seed: int, zeros: float, step: float) -> None:
    rng = np.random.default_rng(seed)
    difference = made_vector(seed, header.parameters)
    difference[rng.random(header.parameters) < zeros] = 0
    difference[:4096] *= zeros < 1  # so that there is a chunk of zeros
    data = update_bytes(header, difference, step)
    assert len(data) <= header.largest_bytes
    update = Update.from_bytes(data, header.parameters)
    assert update.header == header
    dense = dense_of(update, header.parameters)
    assert update.square_norm == pytest.approx(float(np.square(dense, dtype=np.float64).sum()), rel=1e-12)
    present = np.zeros(header.parameters, np.bool_)
    for chunk in header.chunks:
        present[chunk * 4096 : (chunk + 1) * 4096] = True
    assert not dense[~present].any()
    assert np.array_equal(np.sign(dense[dense != 0]), np.sign(difference[dense != 0]))
    assert content_of(Update.from_bytes(update_bytes(header, difference, step), header.parameters)) == (
        content_of(update)
    )


@given(header=headers(), level=st.integers(0, 9))
def test_how_deflate_says_a_content_changes_nothing(header: UpdateHeader, level: int) -> None:
    data = update_bytes(header, made_vector(1, header.parameters))
    update, again = Update.from_bytes(data, header.parameters), []
    for first, last in chunk_slices(header.parameters):
        codes = update.read(first, last)[1]
        content = said(PackedChunks.of(codes)) if len(codes.steps) else b""
        again.append(deflated(content, level) if content else b"")
    other = Update.from_bytes(assembled(header, again), header.parameters)
    assert (content_of(other), other.square_norm) == (content_of(update), update.square_norm)


@pytest.mark.parametrize("parts", [1, 3, 64])
def test_a_chunk_reads_alike_alone_and_with_others(parts: int) -> None:
    header = UpdateHeader(130 * 4096 + 5, parts, parts - 1)
    update = Update.from_bytes(update_bytes(header, made_vector(1, header.parameters)), header.parameters)
    for first, last in chunk_slices(header.parameters):
        numbers, codes = update.read(first, last)
        assert numbers.tolist() == [chunk for chunk in range(first, last) if chunk in header.chunks]
        for row, chunk in enumerate(numbers.tolist()):
            (alone,), one = update.read(chunk, chunk + 1)
            assert (alone, one.steps[0]) == (chunk, codes.steps[row])
            assert np.array_equal(one.levels[0], codes.levels[row])
    for first, last in ((60, 70), (129, 131)):
        with pytest.raises(ValueError, match="more than one block"):
            update.read(first, last)


def test_two_bits_say_an_entry_and_a_byte_another_level() -> None:
    levels = np.array([[0, 1, -1, 0, 2, -2, 127, -127, 1]], np.int8)
    packed = PackedChunks.of(ChunkCodes(np.array([0.5], np.float16), levels))
    assert packed.codes.tolist() == [[0 | 1 << 2 | 3 << 4, 2 | 2 << 2 | 2 << 4 | 2 << 6, 1]]
    assert packed.others.tolist() == [0, 1, 250, 251]
    assert packed.squares().tolist() == [0.25 * (3 + 2 * 4 + 2 * 127**2)]
    assert np.array_equal(packed.unpack().levels, levels)
    assert packed.unpack().values().tolist() == (0.5 * levels).tolist()


def said(packed: PackedChunks) -> bytes:
    return packed.steps.astype("<f2").tobytes() + packed.codes.tobytes() + packed.others.tobytes()


def deflated(content: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


SMALL = [UpdateHeader(300), UpdateHeader(4096 + 77, 2, 1), UpdateHeader(131)]


@pytest.mark.parametrize("header", SMALL, ids=lambda header: str(header.parameters))
@pytest.mark.parametrize("zero", [False, True], ids=["numbers", "zeros"])
def test_a_file_with_one_bit_flipped_is_refused_or_another_well_formed_one(
    header: UpdateHeader, zero: bool
) -> None:
    data = update_bytes(header, made_vector(1, header.parameters) * np.float32(not zero))
    refused = 0
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        try:
            update = Update.from_bytes(bytes(flipped), header.parameters)
        except UpdateFormatError:
            refused += 1
        else:
            assert np.isfinite(update.norm)
            assert update.norm**2 == pytest.approx(
                float(np.square(dense_of(update, header.parameters), dtype=np.float64).sum()), rel=1e-12
            )
    assert refused >= 8 * header.table_end - 8  # of the header hardly a bit may differ


def head(n: int = 4096, parts: int = 1, part: int = 0, rest: bytes = b"") -> bytes:
    return struct.pack("<16sQII16s", b"paris-update/1\0\0", n, parts, part, rest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"paris-update/1\0\0",
        head(n=2**63),
        head(n=0),
        head(parts=0),
        head(parts=65),
        head(parts=2**31, part=5),
        head(parts=2, part=2),
        head(rest=b"\1"),
        b"paris-update/2\0\0" + head()[16:],
        head(n=2**40),
        head(),
        head() + bytes(3),
        head() + bytes(4),
        head() + bytes(85),
    ],
    ids=range(15),
)
def test_a_hostile_header_is_refused_before_anything_is_made_of_it(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "update"
    file.write_bytes(data)
    with pytest.raises(UpdateFormatError):
        Update.open(file, 4096)
    with pytest.raises(UpdateFormatError):
        Update.from_bytes(data, 4096)


def test_an_update_of_another_network_is_refused_by_name() -> None:
    data = update_bytes(UpdateHeader(5000), made_vector(1, 5000))
    with pytest.raises(UpdateFormatError, match=r"5,000 parameters, the slot's network has 6,000"):
        Update.from_bytes(data, 6000)


def test_a_file_is_mapped_and_reads_as_its_bytes_do(tmp_path: Path) -> None:
    data = update_bytes(UpdateHeader(5000), made_vector(1, 5000))
    (tmp_path / "update").write_bytes(data)
    opened, same = Update.open(tmp_path / "update", 5000), Update.from_bytes(data, 5000)
    assert content_of(opened) == content_of(same)
    assert opened.norm == same.norm


TABLES: dict[str, Callable[[list[int]], None]] = {
    "a size more": lambda sizes: sizes.__setitem__(0, sizes[0] + 1),
    "one to the next": lambda sizes: sizes.__setitem__(slice(2), [sizes[0] + sizes[1] - 1, 1]),
    "an empty block": lambda sizes: sizes.__setitem__(slice(2), [0, sizes[0] + sizes[1]]),
    "a giant": lambda sizes: sizes.__setitem__(0, 2**32 - 1),
    "two giants": lambda sizes: sizes.__setitem__(slice(2), [2**32 - 1, 2**32 - 1]),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_not_the_blocks_is_refused(name: str) -> None:
    header = UpdateHeader(70 * 4096)
    data = update_bytes(header, made_vector(1, header.parameters))
    sizes = list(struct.unpack_from("<2I", data, HEADER_BYTES))
    TABLES[name](sizes)
    with pytest.raises(UpdateFormatError):
        Update.from_bytes(data[:HEADER_BYTES] + struct.pack("<2I", *sizes) + data[56:], header.parameters)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_that_is_cut_or_goes_on_is_refused(change: int) -> None:
    data = update_bytes(UpdateHeader(5000), made_vector(1, 5000))
    with pytest.raises(UpdateFormatError, match="end at byte"):
        Update.from_bytes(data[:change] if change < 0 else data + bytes(change), 5000)


def test_a_block_that_says_more_than_its_chunks_can_is_never_inflated_whole() -> None:
    bomb = np.frombuffer(deflated(bytes(1 << 26)), np.uint8)
    assert len(bomb) < largest_block_bytes(64, 4096)
    with pytest.raises(UpdateFormatError, match=r"says 327,809 and does not end.* take 65,664 to 327,808"):
        inflated(bomb, 64, 4096)


PACKED = PackedChunks.of(ChunkCodes(np.array([0.5], np.float16), np.array([[0, 1, -1, 5, -7, 0]], np.int8)))
SAID = said(PACKED)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (SAID[:-1], "codes"),
        (SAID + b"\0", "codes"),
        (SAID[:3], "to 10"),
        (SAID + bytes(9), "to 10"),
        (SAID[:-1] + b"\xfc", "over 127"),
        (said(replace(PACKED, steps=np.array([np.inf], np.float16))), "step inf"),
        (said(replace(PACKED, steps=np.array([np.nan], np.float16))), "step nan"),
        (said(replace(PACKED, steps=np.array([-1.0], np.float16))), "step -1"),
        (said(replace(PACKED, steps=np.array([-0.0], np.float16))), "step -0"),
        (said(replace(PACKED, steps=np.array([0.0], np.float16))), "says nothing"),
        (b"\0\x38\0\0", "says nothing"),
        (SAID[:3] + bytes([SAID[3] | 0x10]) + SAID[4:], "padding"),
    ],
    ids=range(12),
)
def test_a_content_that_no_honest_peer_writes_is_refused(content: bytes, wrong: str) -> None:
    inflated(np.frombuffer(deflated(SAID), np.uint8), 1, 6)
    with pytest.raises(UpdateFormatError, match=wrong):
        inflated(np.frombuffer(deflated(content), np.uint8), 1, 6)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", "does not end"),
        (deflated(SAID)[:-1], "does not end"),
        (deflated(SAID) + b"x", "1 after"),
        (b"\xff" + deflated(SAID), "cannot be inflated"),
        (zlib.compress(SAID), "cannot be inflated"),
    ],
    ids=range(5),
)
def test_a_block_that_is_not_deflated_or_does_not_end_is_refused(data: bytes, wrong: str) -> None:
    with pytest.raises(UpdateFormatError, match=wrong):
        inflated(np.frombuffer(data, np.uint8), 1, 6)


@given(data=st.binary(max_size=200))
def test_whatever_bytes_a_block_has_it_is_refused_or_read(data: bytes) -> None:
    try:
        packed = inflated(np.frombuffer(data, np.uint8), 2, 9)
    except UpdateFormatError:
        return
    assert said(PackedChunks.of(packed.unpack())) == said(packed)
