"""Starts and ends a worker process that speaks JSON lines: the trainer or the gate.

The worker dies with this process twice over: its stdin closes, and the kernel sends it SIGKILL (parent-death
signal).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

from pydantic import BaseModel

from paris_p2p.errors import TrainError
from paris_p2p.sensors.priority import nice_session_soon

_MAX_LINE_BYTES = 1 << 20


class Worker:
    """A handle on `python -m module` with one JSON job on stdin, commands after it, and events on stdout."""

    def __init__(self, module: str, nice: int = 0):
        self.module, self.nice = module, nice
        self.last_words: deque[str] = deque(maxlen=30)  # its stderr
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode if self._process else None

    async def start(self, job: BaseModel, *, nice: int = 0) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", self.module]
        if nice := max(nice, self.nice):
            command = ["nice", "-n", str(nice), *command]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C in the terminal is the node's to handle, not the worker's
        )
        self._stderr = asyncio.create_task(self._read_stderr(self._process))
        # What a person asked for counts against everything else here. A gate's or a preview's own value does
        # not: beside a busy trainer it would leave them next to nothing, and cards would wait.
        if self.nice:
            await nice_session_soon(self._process.pid, self.nice)
        await self.send_line(job.model_dump_json())

    async def send_line(self, line: str) -> None:
        """Sends one line to the worker; a worker that is gone is noticed where its events are read."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(ConnectionError):
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields the lines of its stdout until it ends. Raises TrainError on a line that is too long."""
        if self._process is None or self._process.stdout is None:
            return
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError as error:
                raise TrainError(
                    f"{self.module} printed a line of over {_MAX_LINE_BYTES} bytes; this is a bug in it"
                ) from error
            if not line:
                break
            yield line
        await self._process.wait()

    async def kill(self, *, grace_s: float = 0.0) -> None:
        """Closes its stdin, waits `grace_s` and sends SIGKILL; returns when it is gone and its memory with
        it.
        """
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):
            if grace_s:
                async with asyncio.timeout(grace_s):
                    await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        if self._stderr is not None:
            await self._stderr

    async def _read_stderr(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        while line := await process.stderr.readline():
            self.last_words.append(line.decode(errors="replace").rstrip()[:500])
