"""The flattened vector: by name, without holes, there and back."""

from __future__ import annotations

import numpy as np
import pytest

from paris_p2p.errors import CheckpointError
from paris_p2p.updates.layout import Layout, chunk_count, chunk_slices

LAYOUT = Layout.of({"b": (2, 3), "a.x": (4,), "c": ()})


def arrays() -> dict[str, np.ndarray]:
    return {
        "c": np.float32(10) * np.ones((), np.float32),
        "b": np.arange(6, dtype=np.float32).reshape(3, 2).T,
        "a.x": np.arange(4, dtype=np.float32) + 20,
    }


def test_parameters_lie_by_name_and_row_by_row() -> None:
    assert LAYOUT.parameters == 11
    assert LAYOUT.flatten(arrays()).tolist() == [20, 21, 22, 23, 0, 2, 4, 1, 3, 5, 10]


def test_views_are_the_parameters_themselves() -> None:
    vector = LAYOUT.flatten(arrays())
    views = LAYOUT.views(vector)
    assert {name: view.tolist() for name, view in views.items()} == {
        n: a.tolist() for n, a in arrays().items()
    }
    views["b"][1, 2] = 99
    assert vector[9] == 99
    out = np.zeros(11, np.float32)
    assert LAYOUT.flatten(views, out) is out
    np.testing.assert_array_equal(out, vector)


@pytest.mark.parametrize(
    "change",
    [{"d": np.zeros(1, np.float32)}, {"b": np.zeros((3, 2), np.float32)}, {"b": np.zeros((2, 3))}],
    ids=["one more", "another shape", "another type"],
)
def test_arrays_of_another_network_are_refused(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(CheckpointError, match="the network"):
        LAYOUT.flatten(arrays() | change)
    with pytest.raises(CheckpointError, match="no network of"):
        LAYOUT.views(np.zeros(12, np.float32))


@pytest.mark.parametrize("parameters", [1, 4095, 4096, 4097, 64 * 4096, 130 * 4096 + 5])
def test_slices_hold_every_chunk_once_and_only_equally_long_ones(parameters: int) -> None:
    slices = list(chunk_slices(parameters))
    assert [chunk for first, last in slices for chunk in range(first, last)] == list(
        range(chunk_count(parameters))
    )
    for first, last in slices:
        lengths = {min(4096, parameters - chunk * 4096) for chunk in range(first, last)}
        assert len(lengths) == 1
