"""The gate's process is started for a card, kept for the next one, and ended when none comes.

It is ended as well once it refused a card: whatever a hostile card's files may do to a process that reads
them, no verdict on the next card comes from that one (docs/security.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pydantic import ValidationError

from paris_p2p.errors import TrainError
from paris_p2p.peer.process import Worker
from paris_p2p.rules.gate_life import LEAST_IDLE_S
from paris_p2p.training.messages import GateJob, GateResult

_GATE_TIMEOUT_S = 1800.0
_GATE = "paris_p2p.training.gate"


class GateProcess:
    """Answers a call with a job by the verdict, one job at a time; `close` ends the process.

    After each card `idle_s` says for how many seconds the process is kept.
    """

    def __init__(self, *, idle_s: Callable[[], float] = lambda: LEAST_IDLE_S):
        self.idle_s = idle_s
        self._worker: Worker | None = None
        self._turn = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    async def __call__(self, job: GateJob) -> GateResult:
        """Returns the gate's verdict. Raises TrainError when the process ends, or is silent for
        _GATE_TIMEOUT_S, without one.
        """
        async with self._turn:
            await self._stop_ending()
            try:
                result = await self._ask(job)
            except BaseException:
                await self._kill()
                raise
            if result.ok:
                self._ending = asyncio.create_task(self._end_when_idle())
            else:
                await self._kill()
            return result

    async def close(self) -> None:
        """Returns when the process is gone."""
        await self._stop_ending()
        async with self._turn:
            await self._kill()

    async def _ask(self, job: GateJob) -> GateResult:
        if self._worker is None or self._worker.pid is None:
            await self._kill()
            self._worker = Worker(_GATE)
            await self._worker.start(job, nice=10)
        else:
            await self._worker.send_line(job.model_dump_json())
        worker = self._worker
        try:
            async with asyncio.timeout(_GATE_TIMEOUT_S):
                line = await anext(worker.lines(), b"")
            return GateResult.model_validate_json(line)
        except (ValidationError, TimeoutError) as error:
            words = " / ".join(list(worker.last_words)[-3:])
            raise TrainError(
                f"the gate process ended without a verdict (status {worker.returncode}): {words or error}"
            ) from error

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self.idle_s())
        async with self._turn:
            await self._kill()

    async def _stop_ending(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
            self._ending = None

    async def _kill(self) -> None:
        if self._worker is not None:
            await self._worker.kill()
            self._worker = None
