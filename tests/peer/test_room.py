"""A machine that is too small does not claim: it says so and attests. One that ran out of memory does not
do the same again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.needs import spec_of
from paris_p2p.errors import DiskFullError, UsageError
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.machine import Gpu, Machine
from paris_p2p.peer.room import Room
from paris_p2p.peer.summary import check_disk, disk_bytes
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.training.messages import Failed, Shrunk, Started
from tests.peer.world import CountingTrainer, World

GB = 10**9
SMALL_BOX = Machine(2, 2 * GB)
BIG_BOX = Machine(8, 64 * GB)
WITH_GPU = Machine(8, 64 * GB, (Gpu(0, "a card", 8 * GB),))


def room(preset: str, here: Machine, tmp_path: Path, **settings: object) -> Room:
    return Room(PeerSettings(data_dir=tmp_path, **settings), spec_of(preset), lambda: here)  # type: ignore[arg-type]


def test_a_slot_fits_or_says_what_it_needs_and_what_is_allowed(tmp_path: Path) -> None:
    assert room("tiny", BIG_BOX, tmp_path).why_not("expert-0") == ""
    assert room("tiny", SMALL_BOX, tmp_path).why_not("expert-0") == ""
    assert "this machine's memory" in room("large", SMALL_BOX, tmp_path).why_not("expert-0")
    tight = room("small", BIG_BOX, tmp_path, max_memory_bytes=GB)
    assert "1.0 GB are allowed (--max-memory)" in tight.why_not("expert-0")


def test_a_small_router_may_fit_where_an_expert_does_not(tmp_path: Path) -> None:
    here = room("medium", BIG_BOX, tmp_path, max_memory_bytes=5 * GB)
    assert here.why_not("expert-0")
    assert not here.why_not("router")


def test_main_memory_does_not_cap_the_gpu_and_the_gpus_does_not_cap_main_memory(tmp_path: Path) -> None:
    assert "--max-vram" in room("medium", WITH_GPU, tmp_path, max_vram_bytes=2 * GB).why_not("expert-0")
    assert room("medium", WITH_GPU, tmp_path, max_memory_bytes=16 * GB).why_not("expert-0") == ""
    assert "--max-memory" in room("medium", WITH_GPU, tmp_path, max_memory_bytes=4 * GB).why_not("expert-0")
    assert "GPU memory" in room("dit-xl-2", WITH_GPU, tmp_path).why_not("expert-0")
    assert "GPU" not in room("dit-xl-2", WITH_GPU, tmp_path, device="cpu").why_not("expert-0")


def test_the_trainer_gets_what_node_and_gate_leave(tmp_path: Path) -> None:
    assert room("tiny", BIG_BOX, tmp_path).trainer_bytes() == 0
    trainer = room("tiny", BIG_BOX, tmp_path, max_memory_bytes=3 * GB).trainer_bytes()
    assert 1.2 * GB < trainer < 0.9 * 3 * GB - 0.5 * GB


async def test_a_machine_too_small_stands_by_as_attestor_and_says_why(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        small = await world.add("small")
        small.volunteer.claimer.room = Room(
            PeerSettings(data_dir=tmp_path, max_memory_bytes=GB // 2), world.run.record, lambda: BIG_BOX
        )
        await world.add("able")
        await world.until(lambda: small.volunteer.phase == "standby")
        await world.until(lambda: small.volunteer.attestor.attested > 0)
        assert small.volunteer.lead is None
        assert not any("claiming" in line for line in small.said)
        told = [line for line in small.said if "this machine is too small" in line]
        assert len(told) == 1
        assert "0.5 GB are allowed (--max-memory)" in told[0]


class TooLarge(CountingTrainer):
    """Finds out only when it runs that one clip at a time is too much."""

    async def lines(self) -> AsyncIterator[bytes]:
        yield (
            Failed(error="MemoryLimitError", message="training needs 9999 MiB for one clip at a time")
            .to_line()
            .encode()
        )


async def test_a_slot_that_ran_out_of_memory_is_not_claimed_again(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("peer", slot="expert-0", trainer=TooLarge)
        await world.until(lambda: any("gave up expert-0" in line for line in peer.said))
        await world.until(lambda: peer.volunteer.phase == "standby")
        assert "did not fit: training needs 9999 MiB" in peer.volunteer.why
        assert sum("claiming expert-0" in line for line in peer.said) == 1


def test_training_that_took_too_much_tries_again_with_half_the_clips_then_leaves_the_slot(
    tmp_path: Path,
) -> None:
    here = room("tiny", BIG_BOX, tmp_path)
    assert "2 clips at once" in here.ran_out("expert-0", 4, "memory: 3 of 2 GiB")
    assert (here.micro_batch_clips, here.why_not("expert-0")) == (2, "")
    assert "1 clips at once" in here.ran_out("expert-0", 2, "memory")
    assert "left to others" in here.ran_out("expert-0", 1, "memory: 3 of 2 GiB")
    assert "memory: 3 of 2 GiB" in here.why_not("expert-0")
    assert here.why_not("router") == ""


class Shrinking(CountingTrainer):
    """Begins with half of the batch and soon takes less."""

    async def lines(self) -> AsyncIterator[bytes]:
        started = Started(
            steps=0,
            clips=0,
            parameters=1,
            device="fake",
            precision="none",
            micro_batch_clips=8,
            batch_clips=16,
            recomputes=False,
        )
        yield started.to_line().encode()
        yield Shrunk(micro_batch_clips=4, recomputes=True, why="memory ran out on fake").to_line().encode()
        async for line in super().lines():
            if b'"started"' not in line:
                yield line


async def test_every_shrink_is_said_and_stands_in_the_status(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("peer", slot="expert-0", trainer=Shrinking)
        await world.until(lambda: any("goes on with" in line for line in peer.said))
        assert any("8 of 16 clips at once" in line for line in peer.said)
        assert (
            "memory ran out on fake: expert-0 goes on with 4 of 16 clips at once, computing activations twice"
            in peer.said
        )
        training = (await peer.volunteer.status()).training
        assert isinstance(training, TrainingStatus)
        assert (training.micro_batch_clips, training.recomputes) == (4, True)


async def test_a_pause_outlasts_a_restart_and_ends_with_resume(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("peer", slot="expert-0")
        await world.until(lambda: peer.volunteer.lead is not None)
        await peer.volunteer.pause()
        await peer.die()
        again = await world.restart("peer", peer, slot="expert-0")
        await world.until(lambda: again.volunteer.phase == "paused")
        status = await again.volunteer.status()
        assert (status.phase, "paris-peer resume" in status.why) == ("paused", True)
        await again.volunteer.resume()
        await world.until(lambda: again.volunteer.lead is not None)
        await again.volunteer.leave()
        third = await world.restart("peer", again, slot="expert-0")
        await world.until(lambda: third.volunteer.lead is not None)


def test_a_cap_below_what_the_run_needs_is_refused_with_the_cap_that_would_do(tmp_path: Path) -> None:
    spec = spec_of("tiny")
    least = min(disk_bytes(spec, slot) for slot in spec.slots)
    settings = PeerSettings(data_dir=tmp_path, max_disk_bytes=least - 1)
    with pytest.raises(UsageError, match=f"--max-disk.*allow --max-disk {-(-least // 10**6)}MB or more"):
        check_disk(spec, settings, train=True, free_bytes=10**12)
    check_disk(spec, PeerSettings(data_dir=tmp_path, max_disk_bytes=least), train=True, free_bytes=10**12)
    with pytest.raises(DiskFullError, match="are free"):
        check_disk(spec, PeerSettings(data_dir=tmp_path), train=True, free_bytes=least - 1)
