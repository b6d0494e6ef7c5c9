"""What a storage node holds: the owner's word first, and no member fills it alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.owner_records import Stocked
from paris_p2p.records import BlobRef
from paris_p2p.rules.stocking import LONE_SHARE, to_hold


def blob(number: int, size_bytes: int = 10) -> Stocked:
    return Stocked(thing="data", blob=BlobRef(id=f"{number:064x}", size_bytes=size_bytes))


def numbers(held: list[Stocked]) -> list[int]:
    return [int(one.blob.id, 16) for one in held]


def test_what_the_owners_node_names_comes_first_then_what_most_name() -> None:
    stocks = {"owner": [blob(9)], "a": [blob(1), blob(2)], "b": [blob(2)]}
    assert numbers(to_hold(stocks, "owner", 0)) == [9, 2, 1]
    assert numbers(to_hold(stocks, "owner", 20)) == [9, 2]


def test_a_member_that_names_junk_fills_its_share_and_no_more() -> None:
    junk = [blob(1000 + number) for number in range(500)]
    stocks = {"owner": [blob(number) for number in range(40)], "liar": junk}
    held = numbers(to_hold(stocks, "owner", 800))
    assert held[:40] == list(range(40))
    assert len(held) == 40 + 800 // LONE_SHARE // 10


def test_a_blob_beyond_the_disk_keeps_none_of_the_others_out() -> None:
    assert numbers(to_hold({"owner": [blob(1, 1 << 50), blob(2)]}, "owner", 100)) == [2]


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(st.integers(0, 30), max_size=12).map(lambda ns: [blob(n, 1 + n) for n in ns]),
    ),
    st.integers(1, 200),
)
def test_what_is_held_fits_and_is_named_by_somebody(stocks: dict[str, list[Stocked]], cap_bytes: int) -> None:
    held = to_hold(stocks, "a", cap_bytes)
    assert sum(one.blob.size_bytes for one in held) <= cap_bytes
    assert len({one.blob.id for one in held}) == len(held)
    assert {one.blob.id for one in held} <= {one.blob.id for some in stocks.values() for one in some}
