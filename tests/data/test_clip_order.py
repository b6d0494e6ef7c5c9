"""Tests the order of clips where the set changes on the way: once each in every pass, whatever changes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.data.clip_order import GONE, ClipOrder
from paris_p2p.data.draws import Draws
from paris_p2p.errors import DataError

DRAWS = Draws.of("ab" * 32, "expert-0")
STREAM = [4, 2, 5, 6, 2, 4, 3, 0, 1, 5, 6, 6, 3, 5, 1, 2]


@dataclass
class Growing:
    """Follows a stream whose set changes, with a name for each clip that stays the same."""

    names: list[int]
    order: ClipOrder
    counter: int = 0
    passes: list[list[int]] = field(default_factory=lambda: [[]])
    left: set[int] = field(default_factory=set)  # of the running pass

    def go(self, clips: int) -> None:
        for _ in range(clips):
            if not self.left:
                self.left, begun = set(self.names), []
                self.passes.append(begun)
            name = self.names[self.order[self.counter]]
            self.passes[-1].append(name)
            self.left.discard(name)
            self.counter += 1

    def change(self, gone: int, new: int, next_name: int) -> None:
        """Takes out the first clips and adds others."""
        names = [*self.names[gone:], *range(next_name, next_name + new)]
        places = np.array([names.index(name) if name in names else GONE for name in self.names])
        self.order = self.order.changed(self.counter, places, len(names))
        if self.left:  # a pass is running: what is new comes in it
            self.left = (self.left & set(names)) | (set(names) - set(self.names))
        self.names = names


CHANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4), st.integers(1, 12)), max_size=5)


@given(st.integers(1, 12), CHANGES, st.integers(0, 60))
def test_no_clip_comes_twice_in_a_pass_whatever_changes(clips: int, changes: list, more: int) -> None:
    growing = Growing(list(range(clips)), ClipOrder(DRAWS, clips))
    for number, (clips_between, gone, new) in enumerate(changes, 1):
        growing.go(clips_between)
        growing.change(gone, new, 1000 * number)
    growing.go(more)
    for seen in growing.passes:
        assert len(seen) == len(set(seen))


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 4), st.integers(1, 12))
def test_after_a_change_what_is_left_and_what_is_new_come_once_and_then_whole_passes(
    clips: int, before: int, gone: int, new: int
) -> None:
    growing = Growing(list(range(clips)), ClipOrder(DRAWS, clips))
    growing.go(before)
    seen = set(growing.passes[-1]) if growing.left else set()
    growing.change(gone, new, 1000)
    expected = set(growing.names) - seen
    first = growing.counter
    growing.go(len(expected) + 2 * len(growing.names))
    drawn = [growing.names[growing.order[first + i]] for i in range(growing.counter - first)]
    assert set(drawn[: len(expected)]) == expected
    assert sorted(drawn[len(expected) : len(expected) + len(growing.names)]) == sorted(growing.names)


def test_a_change_at_the_end_of_a_pass_begins_a_whole_pass_and_one_before_the_first_clip_too() -> None:
    grown = ClipOrder(DRAWS, 4).changed(8, np.arange(4), 6)
    assert [grown[counter] for counter in range(8, 14)] == DRAWS.order(2, 6).tolist()
    begun = ClipOrder(DRAWS, 4).changed(0, np.arange(4), 6)
    assert [begun[counter] for counter in range(6)] == DRAWS.order(0, 6).tolist()


def test_no_order_is_drawn_twice_across_changes() -> None:
    """Holds that passes of the same length after a change are not those of before."""
    order = ClipOrder(DRAWS, 4).changed(5, np.arange(4), 5).changed(6, np.arange(5), 5)
    drawn = [tuple(order[6 + 3 + 5 * number + i] for i in range(5)) for number in range(6)]
    assert len(set(drawn)) == 6
    assert not set(drawn) & {tuple(DRAWS.order(number, 5)) for number in range(3)}


def test_the_stream_across_a_change_never_changes() -> None:
    """Holds numbers that are part of the protocol: another release must draw the same."""
    order = ClipOrder(DRAWS, 5).changed(3, np.array([0, 1, GONE, 2, 3]), 7)
    assert [order[counter] for counter in range(3, 19)] == STREAM


def test_a_clip_of_before_the_change_is_refused() -> None:
    order = ClipOrder(DRAWS, 5).changed(8, np.arange(5), 7)
    with pytest.raises(DataError, match="clip 7 comes before clip 8"):
        order[7]
