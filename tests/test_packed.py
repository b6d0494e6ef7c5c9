"""msgpack from strangers is measured before anything is built of it, whatever it claims."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import decode
from paris_p2p.errors import RecordError
from paris_p2p.packed import Bounds, check_bounds, unpack

BOUNDS = Bounds(items=1000)
_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=30,
)


@given(_PLAIN)
def test_what_is_within_bounds_is_what_msgpack_reads(value: Any) -> None:
    assert unpack(msgpack.packb(value), BOUNDS, use_list=True) == value


@given(st.binary(max_size=300))
def test_bytes_pass_the_measure_only_if_msgpack_reads_them_whole(data: bytes) -> None:
    try:
        check_bounds(data, BOUNDS)
    except RecordError:
        return
    with suppress(
        UnicodeDecodeError, ValueError
    ):  # a text that is not UTF-8, a key that is a list: found by `unpack`
        unpacker = msgpack.Unpacker(strict_map_key=True, raw=True)
        unpacker.feed(data)
        unpacker.skip()
        assert unpacker.tell() == len(data)


REFUSED = {
    "nothing": b"",
    "half a text": b"\xdb\x00\x00\x00\x05ab",
    "two values": b"\x01\x01",
    "an extension": msgpack.packb(msgpack.ExtType(0x40, b"\x90")),
    "a short extension": b"\xd4\x40\x90",
    "a time": msgpack.packb(msgpack.Timestamp(1)),
    "a reserved byte": b"\xc1",
    "a list that claims more than there is": b"\xdd\x00\x10\x00\x00" + b"\xc0" * 10,
    "a map that claims more than there is": b"\xdf\x00\x00\x00\x06" + b"\xc0" * 10,
    "a length without its bytes": b"\xdd\x00",
    "more values than are allowed": msgpack.packb([0] * 1000),
    "a key that is a list": b"\x81\x90\x01",
    "a text that is none": b"\xa2\xff\xff",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_is_not_one_plain_value_within_bounds_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        unpack(data, BOUNDS)


@pytest.mark.parametrize("head", [b"\x91", b"\x81\xa0", b"\xdd\x00\x00\x00\x01"])
def test_depth_ends_at_the_bound(head: bytes) -> None:
    assert unpack(head * 16 + b"\x01", Bounds(items=100)) is not None
    for depth in (17, 250, 100_000):
        with pytest.raises(RecordError, match="nested"):
            unpack(head * depth + b"\x01", Bounds(items=1 << 20))


def test_a_payload_of_lists_that_claim_room_is_refused_without_room() -> None:
    claims = b"\xdd\x00\x3f\x00\x00" * 900
    tracemalloc.start()
    try:
        with pytest.raises(RecordError):
            decode(claims + bytes((4 << 20) - len(claims)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 << 20  # of 29 GB that were asked for


@pytest.mark.parametrize("filling", [b"\x80", b"\x90", b"\xa2ab", b"\x81\xa2ab\xc0", b"\xcd\x12\x34"])
def test_a_payload_of_a_million_small_values_is_refused_and_one_that_is_not_takes_little(
    filling: bytes,
) -> None:
    with pytest.raises(RecordError):
        decode(b"\x81\xa1a\xdd\x00\x10\x00\x00" + filling * (1 << 20))
    count = 100_000 // 3
    data = b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + filling * count
    tracemalloc.start()
    try:
        decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < (100 << 20) / 5  # a RunSpec may have five times as many
