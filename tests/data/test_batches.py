"""Tests that order, noise, times and dropout depend on (run, slot, clip counter) and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.data.batches import ClipOrder, Draws, make_batch, open_batches
from paris_p2p.data.clips import ClipSet
from paris_p2p.errors import DataError
from tests.data.shards import write_shard

RUN = "ab" * 32
DRAWS = Draws.of(RUN, "expert-0")
ORDER = [4, 0, 7, 6, 1, 3, 5, 2]
NOISE = [1.0549207, -0.7315848, 1.3336082, 0.4069446]
SCALARS = [0.22082936, 0.845479678, 0.710999178, 0.910806624, 0.747411889]


@pytest.fixture
def clips(tmp_path: Path) -> ClipSet:
    return ClipSet([write_shard(tmp_path / "a.tar", 0, 5), write_shard(tmp_path / "b.tar", 1, 2)], [0, 1])


@given(st.integers(1, 40), st.integers(0, 2**40))
def test_every_clip_comes_once_in_every_pass(clips: int, number: int) -> None:
    order = ClipOrder(DRAWS, clips)
    seen = [order[counter] for counter in range(number * clips, (number + 1) * clips)]
    assert sorted(seen) == list(range(clips))


def test_passes_slots_and_runs_have_orders_of_their_own() -> None:
    orders = [
        DRAWS.order(0, 50),
        DRAWS.order(1, 50),
        Draws.of(RUN, "router").order(0, 50),
        Draws.of("cd" * 32, "expert-0").order(0, 50),
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_streams_never_change() -> None:
    """Holds the numbers that are part of the protocol.

    A later release that draws differently would break every lineage.
    """
    assert DRAWS.order(0, 8).tolist() == ORDER
    assert DRAWS.noise(7, (4,)).tolist() == pytest.approx(NOISE, abs=1e-6)
    normal, uniforms = DRAWS.scalars(7)
    assert [normal, *uniforms] == pytest.approx(SCALARS)


def test_noise_is_normal_and_independent_between_clips() -> None:
    noise = np.stack([DRAWS.noise(clip, (5, 1001)) for clip in range(20)])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert abs((noise**4).mean() - 3) < 0.2
    assert abs((noise[:-1] * noise[1:]).mean()) < 0.02
    assert abs((noise[..., :-1] * noise[..., 1:]).mean()) < 0.02


def test_scalars_are_a_normal_and_uniforms() -> None:
    drawn = [DRAWS.scalars(clip) for clip in range(3000)]
    normals, uniforms = np.array([n for n, _ in drawn]), np.stack([u for _, u in drawn])
    assert abs(normals.mean()) < 0.06
    assert abs(normals.std() - 1) < 0.05
    assert np.abs(uniforms.mean(0) - 0.5).max() < 0.03
    assert ((uniforms > 0) & (uniforms < 1)).all()


def test_a_clips_draws_do_not_depend_on_the_batch_it_falls_into(clips: ClipSet) -> None:
    order = ClipOrder(DRAWS, len(clips))
    whole = make_batch(clips, order, DRAWS, 3, 6)
    for start, size in ((3, 2), (5, 3), (8, 1)):
        part = make_batch(clips, order, DRAWS, start, size)
        same = whole.part(start - 3, start - 3 + size)
        assert part.first_clip == same.first_clip
        for name in ("latent", "tokens", "mask", "pooled", "cluster", "noise", "normal", "uniforms"):
            assert torch.equal(getattr(part, name), getattr(same, name)), name


def test_batches_go_on_where_a_lineage_stands_and_skip_and_repeat_nothing(clips: ClipSet) -> None:
    with open_batches(clips, DRAWS, 3, 0) as source:
        straight = [source.next() for _ in range(14)]
    resumed = []
    for first in (0, 6, 21):  # stopped after 2 and after 7 batches
        with open_batches(clips, DRAWS, 3, first) as source:
            resumed += [source.next() for _ in range({0: 2, 6: 5, 21: 7}[first])]
    assert (
        [batch.first_clip for batch in resumed]
        == [batch.first_clip for batch in straight]
        == list(range(0, 42, 3))
    )
    assert all(
        torch.equal(a.latent, b.latent) and torch.equal(a.noise, b.noise)
        for a, b in zip(straight, resumed, strict=True)
    )
    seen = Counter(tuple(latent.flatten().tolist()) for batch in straight for latent in batch.latent)
    assert list(seen.values()) == [6] * 7  # 42 clips are six passes


def test_the_routers_clusters_come_in_their_true_proportions(clips: ClipSet) -> None:
    batch = make_batch(clips, ClipOrder(DRAWS, len(clips)), DRAWS, 0, 14)
    assert Counter(batch.cluster.tolist()) == {0: 10, 1: 4}


def test_errors_of_the_background_thread_come_out_where_the_batch_is_taken(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", 0, 4)
    clips = ClipSet([path], [0], cache_bytes=0)
    with path.open("r+b") as file:
        file.truncate(600)
    with open_batches(clips, DRAWS, 2, 0) as source, pytest.raises(DataError, match="changed while in use"):
        source.next()


def test_a_slot_without_clips_is_an_error() -> None:
    with pytest.raises(DataError, match="no clip"):
        ClipOrder(DRAWS, 0)
