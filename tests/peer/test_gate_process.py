"""The gate's process: kept for the next card, gone when none comes, started again when it died."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from paris_p2p.errors import TrainError
from paris_p2p.peer.gate_process import GateProcess
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here


async def test_one_process_checks_card_after_card_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path)
    job = tiny.gate_job(checkpoint_of(train_here(tiny.train_job(max_steps=60))))
    gate = GateProcess()
    try:
        first = await gate(job)
        pid = gate.pid
        assert first.ok, first.reason
        assert await gate(job) == first
        assert gate.pid == pid is not None

        psutil.Process(pid).kill()
        while gate.pid is not None:
            await asyncio.sleep(0.01)
        assert await gate(job) == first
        with pytest.raises(TrainError, match=r"without a verdict.*gone\.tar"):
            await gate(job.model_copy(update={"shard_paths": (tmp_path / "gone.tar",)}))
        assert await gate(job) == first
    finally:
        last = gate.pid
        await gate.close()
    assert last is not None
    assert not psutil.pid_exists(last)


async def test_a_gate_without_work_ends(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path)
    job = tiny.gate_job(checkpoint_of(train_here(tiny.train_job(max_steps=60))))
    gate = GateProcess(idle_s=lambda: 0.05)
    await gate(job)
    async with asyncio.timeout(30):
        while gate.pid is not None:
            await asyncio.sleep(0.02)
    await gate.close()


async def test_no_card_is_judged_by_a_process_that_refused_one(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path)
    job = tiny.gate_job(checkpoint_of(train_here(tiny.train_job(max_steps=60))))
    gate = GateProcess()
    try:
        first = await gate(job)
        pid = gate.pid
        refused = await gate(job.model_copy(update={"clips": job.clips + 1}))
        assert not refused.ok
        assert gate.pid is None
        assert pid is not None
        assert not psutil.pid_exists(pid)
        assert await gate(job) == first
    finally:
        await gate.close()
