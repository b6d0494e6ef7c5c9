"""Updates' files: what goes in comes out, one content has one byte string, and nothing else is believed."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.chunk_codes import decode_chunks, encode_chunks
from paris_p2p.updates.compression import quantise
from paris_p2p.updates.layout import chunk_slices
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import HEADER_BYTES, UpdateHeader
from tests.updates.made_updates import dense_of, made_vector, update_bytes

KEPT = [1, 3, 16, 64, 100, 1024, 2047, 2048, 2049, 3000, 4095, 4096]


@st.composite
def headers(draw: st.DrawFn) -> UpdateHeader:
    parts = draw(st.sampled_from([1, 2, 3, 64]))
    return UpdateHeader(
        parameters=draw(st.sampled_from([1, 7, 4095, 4096, 4097, 8192, 3 * 4096 + 1001])),
        kept=draw(st.sampled_from(KEPT)),
        magnitudes=draw(st.sampled_from([1, 2])),
        parts=parts,
        part=draw(st.integers(0, parts - 1)),
    )


def reencoded(update: Update) -> bytes:
    """Returns the file made again of what was read from it."""
    header, out = update.header, io.BytesIO()
    out.write(header.to_bytes())
    for first, last in chunk_slices(header.parameters):
        numbers, codes = update.read(first, last)
        if len(numbers):
            out.write(encode_chunks(header, codes).tobytes())
    return out.getvalue()


@given(header=headers(), seed=st.integers(0, 1000), zeros=st.floats(0, 1))
def test_what_is_written_is_read_and_has_the_size_of_the_formula(
    header: UpdateHeader, seed: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    difference = made_vector(seed, header.parameters)
    difference[rng.random(header.parameters) < zeros] = 0
    data = update_bytes(header, difference)
    assert len(data) == header.size_bytes
    update = Update.from_bytes(data, header.parameters)
    assert update.header == header
    assert reencoded(update) == data
    dense = dense_of(update, header.parameters)
    assert update.square_norm == pytest.approx(float(np.square(dense, dtype=np.float64).sum()), rel=1e-12)
    present = np.zeros(header.parameters, np.bool_)
    for chunk in header.chunks:
        present[chunk * 4096 : (chunk + 1) * 4096] = True
    assert not dense[~present].any()
    sent = dense != 0
    assert np.array_equal(
        np.sign(dense[sent & (difference != 0)]), np.sign(difference[sent & (difference != 0)])
    )


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("magnitudes", [1, 2])
def test_the_size_of_a_full_chunk_is_what_the_format_says(kept: int, magnitudes: int) -> None:
    low = int(np.floor(np.log2(4096 / kept)))
    bits = [kept] * magnitudes + ([] if kept == 4096 else [kept * low, kept + (4096 >> low)])
    wanted = 2 * magnitudes + sum(-(-each // 8) for each in bits)
    assert UpdateHeader(4096, kept, magnitudes).size_bytes == 48 + wanted


def test_the_largest_are_kept_and_equal_ones_by_their_index() -> None:
    rows = np.zeros((2, 4096), np.float32)
    rows[0, [5, 9, 4000]] = [3, -4, 2]
    rows[0, 100:110] = 1  # of these ten, three find room
    rows[1, :] = -1
    codes, _ = quantise(UpdateHeader(8192, 6), rows)
    assert codes.indices is not None
    assert codes.indices.tolist() == [[5, 9, 100, 101, 102, 4000], [0, 1, 2, 3, 4, 5]]
    assert codes.magnitudes.tolist() == [[1.0, 3.0], [1.0, 1.0]]  # small are below the mean of 2
    assert codes.values().tolist() == [[3.0, -3.0, 1.0, 1.0, 1.0, 3.0], [-1.0] * 6]


def test_magnitudes_that_no_half_can_hold_become_the_nearest_that_it_can() -> None:
    rows = np.full((2, 4096), 1e-12, np.float32)
    rows[1, :] = 1e9
    codes, _ = quantise(UpdateHeader(8192, 4096), rows)
    assert codes.magnitudes.tolist() == [[2.0**-24] * 2, [65504.0] * 2]


SMALL = [
    UpdateHeader(300, 4096, 2),
    UpdateHeader(300, 4096, 1),
    UpdateHeader(300, 500, 2),
    UpdateHeader(4096 + 77, 64, 2, parts=2, part=1),
    UpdateHeader(130, 100, 1),
]


@pytest.mark.parametrize("header", SMALL, ids=lambda header: f"{header.kept}-{header.magnitudes}")
@pytest.mark.parametrize("zero", [False, True], ids=["numbers", "zeros"])
def test_a_file_with_one_bit_flipped_is_refused_or_another_canonical_one(
    header: UpdateHeader, zero: bool
) -> None:
    difference = made_vector(1, header.parameters) * np.float32(not zero)
    data = update_bytes(header, difference)
    refused = 0
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        try:
            update = Update.from_bytes(bytes(flipped), header.parameters)
        except UpdateFormatError:
            refused += 1
        else:
            assert reencoded(update) == bytes(flipped)
            assert np.isfinite(update.norm)
    assert refused >= 8 * HEADER_BYTES - 8  # of the header hardly a bit may differ
    if zero:
        assert refused >= 8 * len(data) - 40  # but for a sole magnitude, or the part


def head(
    n: int = 4096, kept: int = 64, magnitudes: int = 2, parts: int = 1, part: int = 0, rest: int = 0
) -> bytes:
    return struct.pack("<16sQIIIIQ", b"paris-update/1\0\0", n, kept, magnitudes, parts, part, rest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"paris-update/1\0\0",
        head(n=2**63),
        head(n=0),
        head(kept=0),
        head(kept=4097),
        head(magnitudes=0),
        head(magnitudes=3),
        head(parts=0),
        head(parts=2**31, part=5),
        head(parts=2, part=2),
        head(rest=1),
        b"paris-update/2\0\0" + head()[16:],
        head(n=2**40),
        head(),
        head() + bytes(85),
    ],
    ids=range(16),
)
def test_a_hostile_header_is_refused_before_anything_is_made_of_it(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "update"
    file.write_bytes(data)
    with pytest.raises(UpdateFormatError):
        Update.open(file, 4096)
    with pytest.raises(UpdateFormatError):
        Update.from_bytes(data, 4096)


def test_an_update_of_another_network_is_refused_by_name() -> None:
    data = update_bytes(UpdateHeader(5000, 64), made_vector(1, 5000))
    with pytest.raises(UpdateFormatError, match=r"5,000 parameters, the slot's network has 6,000"):
        Update.from_bytes(data, 6000)


def test_a_file_is_mapped_and_reads_as_its_bytes_do(tmp_path: Path) -> None:
    data = update_bytes(UpdateHeader(5000, 64), made_vector(1, 5000))
    (tmp_path / "update").write_bytes(data)
    opened = Update.open(tmp_path / "update", 5000)
    assert reencoded(opened) == data
    assert opened.norm == Update.from_bytes(data, 5000).norm


@pytest.mark.parametrize(
    ("magnitudes", "wrong"),
    [
        ([1.0, np.inf], "magnitudes"),
        ([1.0, np.nan], "magnitudes"),
        ([2.0, 1.0], "magnitudes"),
        ([0.0, 1.0], "magnitudes"),
        ([-1.0, 1.0], "magnitudes"),
        ([1.0, 1.0], "magnitude that none"),
        ([-0.0, 0.0], "magnitudes"),
        ([0.0, 0.0], "codes that are not zero"),
    ],
    ids=range(8),
)
def test_magnitudes_that_no_honest_peer_writes_are_refused(magnitudes: list[float], wrong: str) -> None:
    header = UpdateHeader(4096, 64)
    codes, _ = quantise(header, made_vector(1, 4096)[None])
    data = encode_chunks(header, codes)
    data[0, :4] = np.array(magnitudes, "<f2").view(np.uint8)
    with pytest.raises(UpdateFormatError, match=wrong):
        decode_chunks(header, data, 4096)
