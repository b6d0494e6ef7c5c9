import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.bounded_json import MAX_DEPTH, depth_of, parse_json, read_json
from paris_p2p.errors import UsageError

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def depth(value) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(VALUES)
def test_the_depth_is_counted_outside_strings_alone(value):
    for ascii_only in (True, False):
        data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert depth_of(data) == depth(value)


@pytest.mark.parametrize(
    "data", [b"[" * 5_000_000, b'{"a":' * 100_000, b'"' + b"\\" * 999_999, b'{"[[[[": "]]]]\\"[[[" ']
)
def test_text_that_no_decoder_should_see_is_measured_without_one(data):
    with pytest.raises(UsageError, match=r"nests \d+ deep|cannot be read as JSON"):
        parse_json(data, "the file")


def test_the_limit_is_the_deepest_that_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    read_json(path, 1000)
    path.write_text("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(UsageError, match=f"nests {MAX_DEPTH + 1} deep, at most {MAX_DEPTH}"):
        read_json(path, 1000)
    with pytest.raises(UsageError, match="more than the 10 bytes"):
        read_json(path, 10)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_depth(data):
    assert 0 <= depth_of(data) <= len(data)
